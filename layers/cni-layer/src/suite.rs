//! What every implementation of the face must do: ours in process, ours executed, and the
//! reference plugins.
//!
//! [`run`] makes links, so it belongs on ground of its own: see [`apart`].

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
};

use hops::{
    Cni, Cx,
    cni::{Add, Attached, Attachment, Check, Del},
    op::now,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::{Value, json};
use wire::cni::{
    error::{CniError, Doing, Result},
    netns::{self, Netns},
    result,
};

use crate::netlink::route::{Change, Rtnl};

/// Runs `work` on a thread with network and mount namespaces of its own, its loopback up; the
/// kernel removes with them whatever `work` leaves there.
///
/// # Errors
/// `PermissionDenied` for one who may not make namespaces.
pub fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
            let mut net = Rtnl::open()?;
            net.change_link(1, Change { up: Some(true), ..Change::default() })?;
            Ok(work())
        });
        inside.join().unwrap_or_else(|_| Err(io::Error::other("the work panicked")))
    })
}

/// A namespace that is removed when this is dropped.
#[derive(Debug)]
pub struct Sandbox(PathBuf);

impl Sandbox {
    /// Makes a namespace at `path`.
    ///
    /// # Errors
    /// Those of [`netns::create`].
    pub fn new(path: PathBuf) -> io::Result<Sandbox> {
        netns::create(&path)?;
        Ok(Sandbox(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Runs `work` inside.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        Netns::open(&self.0)?.run(work)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The kernel removes it with the mount namespace that it is made in.
        let _ = netns::remove(&self.0);
    }
}

/// Sends a word from one namespace to `to`, where `listener` stands, and back.
///
/// # Errors
/// What connect(2), send(2) and recv(2) say.
pub fn converse(from: &Sandbox, listener: &TcpListener, to: SocketAddr) -> Result<()> {
    from.run(move || {
        thread::scope(|scope| {
            let echo = scope.spawn(|| -> io::Result<()> {
                let (mut peer, _) = listener.accept()?;
                let mut word = [0; 4];
                peer.read_exact(&mut word)?;
                peer.write_all(&word)
            });
            let call = || -> io::Result<bool> {
                let mut stream = TcpStream::connect(to)?;
                stream.write_all(b"ping")?;
                let mut word = [0; 4];
                stream.read_exact(&mut word)?;
                Ok(&word == b"ping")
            };
            let heard = call().doing(format_args!("tcp to {to}"))?;
            let echoed = echo.join().unwrap_or_else(|_| Err(io::Error::other("panicked")));
            echoed.doing("echo")?;
            ensure(heard, "the echo is another word")
        })
    })
}

fn ensure(holds: bool, otherwise: impl Into<String>) -> Result<()> {
    if holds { Ok(()) } else { Err(CniError::internal(otherwise)) }
}

fn veths() -> Result<usize> {
    let links = Rtnl::open().and_then(|mut net| net.links()).doing("list links")?;
    Ok(links.iter().filter(|link| link.kind == "veth").count())
}

/// The contract's network: a bridge with addresses of `10.99.0.0/24`, leases under `dir`.
pub fn bridge(dir: &Path, version: &str) -> Value {
    json!({
        "cniVersion": version, "name": "contract", "type": "bridge", "bridge": "contract0",
        "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": {
            "type": "host-local", "dataDir": dir.join("leases"),
            "ranges": [[{ "subnet": "10.99.0.0/24" }]],
        },
    })
}

fn leases(dir: &Path) -> usize {
    let entries = fs::read_dir(dir.join("leases/contract"));
    let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_str().is_some_and(|n| n.parse::<IpAddr>().is_ok())).count()
}

fn attachment(id: &str, sandbox: &Path, config: Value) -> Attachment {
    Attachment {
        container_id: id.to_owned(),
        netns: Some(sandbox.to_owned()),
        ifname: "eth0".to_owned(),
        args: vec![("IgnoreUnknown".to_owned(), "1".to_owned())],
        config,
    }
}

/// Whether `attached` tells the truth about `sandbox`.
fn truthful(attached: &Attached, sandbox: &Sandbox) -> Result<()> {
    let [bridge, host, inside] = attached.interfaces.as_slice() else {
        return Err(CniError::internal("not three interfaces"));
    };
    ensure(bridge.name == "contract0" && bridge.sandbox.is_empty(), "the bridge is not first")?;
    ensure(inside.sandbox == sandbox.path().display().to_string(), "the sandbox is another")?;
    let outside = Rtnl::open().and_then(|mut net| net.link_by_name(&host.name));
    let outside = outside.doing("get host veth")?;
    ensure(
        outside.is_some_and(|link| link.running && link.mac.to_string() == host.mac),
        "the host's end is not as told",
    )?;
    let [ip] = attached.ips.as_slice() else {
        return Err(CniError::internal("not one address"));
    };
    ensure(ip.interface == Some(2), "the address is not the third interface's")?;
    ensure(ip.gateway.is_some_and(|ip| ip.to_string() == "10.99.0.1"), "another gateway")?;
    let address = result::address(&ip.address)?;
    let gateway = ip.gateway;
    sandbox.run(|| {
        let mut net = Rtnl::open().doing("open netlink socket")?;
        let link = net.link_by_name("eth0").doing("get eth0")?;
        let link = link.ok_or_else(|| CniError::internal("no eth0"))?;
        ensure(link.mac.to_string() == inside.mac, "eth0 has another hardware address")?;
        let own = net.addresses(link.index).doing("list addresses")?;
        ensure(own.contains(&address), "eth0 has not the address")?;
        let routes = net.routes(address.ip).doing("list routes")?;
        let default = routes.iter().any(|route| route.dst.prefix == 0 && route.gateway == gateway);
        ensure(default, "no default route")
    })
}

/// Runs the contract on `plugins`, with files under `dir`. Call it on ground of its own
/// ([`apart`]), outside an async runtime.
///
/// # Errors
/// The first thing that does not hold.
pub fn run(plugins: &dyn Cni, dir: &Path) -> Result<()> {
    let cx = Cx::background();
    let add = |of: &Attachment| {
        now(plugins.handle(&cx, Add(of.clone()))).map_err(|e| CniError::internal(e.message))
    };
    let del = |of: &Attachment| {
        now(plugins.handle(&cx, Del(of.clone()))).map_err(|e| CniError::internal(e.message))
    };
    let check = |of: &Attachment, prev: &Attached| {
        let mut of = of.clone();
        of.config["prevResult"] = result::write(prev, "1.0.0")?;
        now(plugins.handle(&cx, Check(of))).map_err(|e| CniError::internal(e.message))
    };
    let sandbox = |name: &str| Sandbox::new(dir.join(name)).doing("make a namespace");
    let (one, two) = (sandbox("one")?, sandbox("two")?);

    let lo = json!({ "cniVersion": "1.0.0", "name": "lo", "type": "loopback" });
    add(&attachment("one", one.path(), lo)).map_err(|e| e.context("loopback"))?;
    let up = one.run(|| {
        let lo = Rtnl::open().and_then(|mut net| net.link_by_name("lo")).doing("get lo")?;
        Ok(lo.is_some_and(|lo| lo.up))
    })?;
    ensure(up, "lo is down")?;

    let config = bridge(dir, "1.0.0");
    let first = attachment("one", one.path(), config.clone());
    let second = attachment("two", two.path(), config.clone());
    let attached = add(&first).map_err(|e| e.context("first ADD"))?;
    truthful(&attached, &one)?;
    truthful(&add(&second).map_err(|e| e.context("second ADD"))?, &two)?;
    ensure((leases(dir), veths()?) == (2, 2), "not two leases and two veths")?;

    let address = result::address(&attached.ips[0].address)?.ip;
    let listener = one.run(|| TcpListener::bind((address, 0)).doing("listen"))?;
    let to = listener.local_addr().doing("listen")?;
    converse(&two, &listener, to)?;

    ensure(add(&first).is_err(), "a second ADD of the same link was a success")?;
    ensure(veths()? == 2, "a refused ADD left a veth")?;
    check(&first, &attached).map_err(|e| e.context("CHECK"))?;

    del(&second).map_err(|e| e.context("DEL"))?;
    del(&second).map_err(|e| e.context("second DEL"))?;
    ensure((leases(dir), veths()?) == (1, 1), "DEL left a lease or a veth")?;
    one.run(|| {
        Rtnl::open().and_then(|mut net| net.delete_link("eth0")).doing("delete eth0").map(drop)
    })?;
    ensure(check(&first, &attached).is_err(), "CHECK does not miss the link")?;
    let gone = Attachment { netns: None, ..first.clone() };
    del(&gone).map_err(|e| e.context("DEL without a namespace"))?;
    del(&gone).map_err(|e| e.context("second DEL without a namespace"))?;
    ensure((leases(dir), veths()?) == (0, 0), "DEL left a lease or a veth")?;

    let nowhere = attachment("three", &dir.join("nowhere"), config);
    ensure(add(&nowhere).is_err(), "an ADD without a namespace was a success")?;
    let foreign = attachment("three", one.path(), bridge(dir, "9.9.9"));
    ensure(add(&foreign).is_err(), "an unknown version was accepted")?;
    let exhausted = {
        let mut config = bridge(dir, "1.0.0");
        config["ipam"]["ranges"] = json!([[{ "subnet": "10.99.0.0/24", "rangeEnd": "10.99.0.1" }]]);
        attachment("three", one.path(), config)
    };
    ensure(add(&exhausted).is_err(), "an address was taken from an empty range")?;
    // The reference plugin leaves its veth to the DEL that follows every refused ADD.
    del(&exhausted).map_err(|e| e.context("DEL after a refused ADD"))?;
    ensure((leases(dir), veths()?) == (0, 0), "a refused ADD left a lease or a veth")
}
