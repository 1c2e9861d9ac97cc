//! Prometheus's metrics at `/v1/metrics`, where containerd has them: what its containers use, what
//! this process uses, how often its verbs were called, and its version.

pub(crate) mod calls;
mod samples;

use crate::{Engine, Error, Result, services::introspection::API_VERSION};
use bytes::Bytes;
use calls::Calls;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{collections::BTreeMap, convert::Infallible, fmt::Write, fs};
use tokio::net::TcpListener;

/// The one path that is served.
const PATH: &str = "/v1/metrics";

/// A socket for metrics.
#[derive(Debug)]
pub(crate) struct Listener(TcpListener);

impl Listener {
    /// Listens on `address`, `host:port`.
    ///
    /// # Errors
    /// containerd's when it cannot be listened on.
    pub(crate) async fn bind(address: &str) -> Result<Listener> {
        let listener = TcpListener::bind(address).await;
        listener.map(Listener).map_err(|e| {
            Error::unknown(format_args!(
                "failed to get listener for metrics endpoint: listen tcp {address}: {e}"
            ))
        })
    }

    /// Serves for as long as it is polled.
    pub(crate) async fn serve(self, engine: Engine, calls: Calls) {
        loop {
            let stream = match self.0.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // A full table of descriptors passes; the daemon has other things to do.
                    tracing::warn!(%error, "accepting a reader of metrics");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (engine, calls) = (engine.clone(), calls.clone());
            tokio::spawn(async move {
                let service = service_fn(|request| answer(&engine, &calls, request));
                let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                if let Err(error) = served.await {
                    tracing::debug!(%error, "a reader of metrics");
                }
            });
        }
    }
}

async fn answer(
    engine: &Engine,
    calls: &Calls,
    request: Request<Incoming>,
) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, body) = if request.uri().path() == PATH {
        (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", render(engine, calls).await)
    } else {
        (StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n".to_owned())
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    Ok(response)
}

/// A metric's help and its lines.
type Metrics = BTreeMap<String, (String, Vec<String>)>;

async fn render(engine: &Engine, calls: &Calls) -> String {
    let mut metrics = Metrics::new();
    let mut add = |name: &str, help: &str, labels: &[(&str, &str)], value: &str| {
        let entry = metrics.entry(name.to_owned());
        let lines = &mut entry.or_insert_with(|| (help.to_owned(), Vec::new())).1;
        lines.push(line(name, labels, value));
    };
    for (ns, id, runtime, stats) in engine.tasks().stats().await {
        for sample in samples::of(&stats) {
            let mut labels = vec![("container_id", id.as_str())];
            if let Some((name, value)) = &sample.label {
                labels.push((name, value));
            }
            labels.extend([("namespace", ns.as_str()), ("runtime", runtime.as_str())]);
            add(&sample.name, &sample.help, &labels, &sample.value.to_string());
        }
    }
    for sample in calls.samples() {
        let labels: Vec<_> = sample.labels.iter().map(|(n, v)| (*n, v.as_str())).collect();
        add(sample.name, sample.help, &labels, &sample.value.to_string());
    }
    let version = format!("{API_VERSION}+strata{}", env!("CARGO_PKG_VERSION"));
    let labels = [("revision", ""), ("version", version.as_str())];
    add("containerd_build_info_total", "containerd build information", &labels, "1");
    for (name, help, value) in process() {
        add(name, help, &[], &value);
    }
    let mut text = String::new();
    for (name, (help, lines)) in metrics {
        let counts = ["process_cpu_", "containerd_build_", "grpc_server_"];
        let kind = if counts.iter().any(|c| name.starts_with(c)) { "counter" } else { "gauge" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{}", lines.join("\n"));
    }
    text
}

fn line(name: &str, labels: &[(&str, &str)], value: &str) -> String {
    if labels.is_empty() {
        return format!("{name} {value}");
    }
    // What a label may hold here, ids and names, needs no escapes but for the format's own sake.
    let escaped =
        |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<_> =
        labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{name}{{{}}} {value}", labels.join(","))
}

/// What this process uses, as Prometheus's process collector names it.
fn process() -> Vec<(&'static str, &'static str, String)> {
    const TICKS: f64 = 100.0;
    const PAGE: u64 = 4096;
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, which is in brackets, may hold anything; the third field follows it.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count());
    #[allow(clippy::cast_precision_loss, reason = "hundredths of a second, for people to read")]
    let cpu = (field(14) + field(15)) as f64 / TICKS;
    vec![
        (
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            cpu.to_string(),
        ),
        ("process_open_fds", "Number of open file descriptors.", open.to_string()),
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            (field(24) * PAGE).to_string(),
        ),
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", field(23).to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(line("a_total", &[], "1"), "a_total 1");
        let labels = [("id", "x"), ("name", "q\"\\")];
        assert_eq!(line("a", &labels, "2"), r#"a{id="x",name="q\"\\"} 2"#);
    }

    #[test]
    fn a_process_uses_something() {
        let numbers: BTreeMap<_, _> = process().into_iter().map(|(n, _, v)| (n, v)).collect();
        for name in ["process_open_fds", "process_resident_memory_bytes"] {
            assert!(numbers[name].parse::<u64>().unwrap() > 0, "{name}");
        }
    }
}
