//! Lifecycle hooks, and the actions that probes share with them: a command in the container, an
//! HTTP request, a connection.

use std::time::Duration;

use hops::{Cri, Cx, HopError, Kind, Result, proto::runtime::v1::ExecSyncRequest};
use k8s_openapi::{api::core::v1 as api, apimachinery::pkg::util::intstr::IntOrString};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Runs a lifecycle handler for the container `id`.
///
/// # Errors
/// The action's failure.
pub(crate) async fn run(
    cri: &dyn Cri,
    cx: &Cx,
    handler: &api::LifecycleHandler,
    id: &str,
    ips: &[String],
) -> Result<()> {
    if let Some(action) = &handler.exec {
        return exec(cri, cx, action, id, 0).await;
    }
    if let Some(action) = &handler.http_get {
        return http(action, None, ips).await;
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(action.seconds.unsigned_abs())).await;
    }
    Ok(())
}

/// Runs a command in the container; anything but exit code 0 is a failure. `timeout` is in
/// seconds, 0 for none.
pub(crate) async fn exec(
    cri: &dyn Cri,
    cx: &Cx,
    action: &api::ExecAction,
    id: &str,
    timeout: i64,
) -> Result<()> {
    let cmd = action.command.clone().unwrap_or_default();
    let request = ExecSyncRequest { container_id: id.to_owned(), cmd: cmd.clone(), timeout };
    let answer = cri.handle(cx, request).await?;
    if answer.exit_code == 0 {
        return Ok(());
    }
    let output = [&answer.stdout[..], &answer.stderr[..]].concat();
    let words = format!(
        "command '{}' exited with {}: {}",
        cmd.join(" "),
        answer.exit_code,
        String::from_utf8_lossy(&output).trim_end()
    );
    Err(HopError::new(Kind::FailedPrecondition, words))
}

/// Finds a port by number, or by name among the container's.
fn port_of(port: &IntOrString, c: Option<&api::Container>) -> Result<u16> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let ports = c.into_iter().flat_map(|c| c.ports.iter().flatten());
            let mut named = ports.filter(|p| p.name.as_ref() == Some(name));
            named.next().map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0).ok_or_else(|| {
        let text = match port {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(name) => name.clone(),
        };
        HopError::invalid(format!("invalid port number: {text}"))
    })
}

async fn connect(host: Option<&String>, ips: &[String], port: u16) -> Result<(TcpStream, String)> {
    let host = host.filter(|h| !h.is_empty()).or(ips.first());
    let host = host.cloned().unwrap_or_else(|| "127.0.0.1".into());
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| {
        HopError::new(Kind::Unavailable, format!("dial tcp {host}:{port}: connect: {e}"))
    })?;
    Ok((stream, host))
}

/// Connects to a port of the pod.
pub(crate) async fn tcp(
    action: &api::TCPSocketAction,
    c: Option<&api::Container>,
    ips: &[String],
) -> Result<()> {
    connect(action.host.as_ref(), ips, port_of(&action.port, c)?).await.map(drop)
}

/// Asks a path of the pod; statuses from 200 to 399 are a success.
pub(crate) async fn http(
    action: &api::HTTPGetAction,
    c: Option<&api::Container>,
    ips: &[String],
) -> Result<()> {
    if action.scheme.as_deref() == Some("HTTPS") {
        return Err(HopError::new(Kind::Unimplemented, "httpGet.scheme: HTTPS is not supported"));
    }
    let port = port_of(&action.port, c)?;
    let (mut stream, host) = connect(action.host.as_ref(), ips, port).await?;
    let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let mut headers: Vec<(String, String)> =
        action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
    for (name, value) in [
        ("Host", format!("{host}:{port}")),
        ("User-Agent", "kube-probe/1.20".into()),
        ("Accept", "*/*".into()),
    ] {
        if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)) {
            headers.push((name.to_owned(), value));
        }
    }
    let headers: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    let request = format!("GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 64];
    let mut filled = 0;
    while filled < head.len() && !head[..filled].contains(&b'\n') {
        match stream.read(&mut head[filled..]).await? {
            0 => break,
            n => filled += n,
        }
    }
    let line = String::from_utf8_lossy(&head[..filled]);
    let status: u16 = line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    if (200..400).contains(&status) {
        return Ok(());
    }
    Err(HopError::new(
        Kind::FailedPrecondition,
        format!("HTTP probe failed with statuscode: {status}"),
    ))
}
