//! The plugins themselves, each a room: what it does for ADD, DEL and CHECK.
//!
//! The work is a dozen questions to the kernel in sequence and takes a few milliseconds, so it is
//! synchronous; [`Engine`] is the same work behind the face, on a thread that may block.

mod bridge;
mod host_local;
mod ipam;
mod loopback;
mod nat;
mod portmap;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError,
    cni::{Add, Attached, Attachment, Check, Del},
};
use wire::cni::{
    blocking, client,
    error::{CniError, Result, code},
    result,
};

use crate::call::Call;

/// What one `type` of plugin does.
pub(crate) trait Plugin: Sync {
    /// Attaches.
    fn add(&self, call: &Call<'_>) -> Result<Attached>;
    /// Detaches; what is not attached is detached already.
    fn del(&self, call: &Call<'_>) -> Result<()>;
    /// Whether what ADD made is still there.
    fn check(&self, call: &Call<'_>) -> Result<()>;
}

/// The plugins that are built in, by the `type` that names them.
const PLUGINS: [(&str, &dyn Plugin); 4] = [
    ("bridge", &bridge::Bridge),
    ("host-local", &host_local::HostLocal),
    ("loopback", &loopback::Loopback),
    ("portmap", &portmap::Portmap),
];

/// The `type`s that are built in.
pub fn built_in() -> impl Iterator<Item = &'static str> {
    PLUGINS.iter().map(|(kind, _)| *kind)
}

fn plugin(kind: &str) -> Option<&'static dyn Plugin> {
    PLUGINS.iter().find(|(name, _)| *name == kind).map(|(_, plugin)| *plugin)
}

/// A plugin of this host's, executed.
struct Installed;

impl Plugin for Installed {
    fn add(&self, call: &Call<'_>) -> Result<Attached> {
        client::add(&client::find(&call.kind, call.path)?, call.of, call.path, None)
    }

    fn del(&self, call: &Call<'_>) -> Result<()> {
        client::tell(&client::find(&call.kind, call.path)?, "DEL", call.of, call.path, None)
    }

    fn check(&self, call: &Call<'_>) -> Result<()> {
        client::tell(&client::find(&call.kind, call.path)?, "CHECK", call.of, call.path, None)
    }
}

/// Network plugins in this process. A `type` that is not built in is executed from `path`.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    /// Directories of plugins that are not built in (including those of IPAM), first first.
    pub path: Vec<PathBuf>,
}

impl Engine {
    /// Attaches a namespace to the network that the configuration describes.
    ///
    /// # Errors
    /// A [`CniError`] as the plugin of that `type` would print it. What was made until then is
    /// unmade.
    pub fn add(&self, attachment: &Attachment) -> Result<Attached> {
        let call = Call::read(attachment, &self.path)?;
        run(&call, &call.kind, Verb::Add)
    }

    /// Detaches a namespace. One that is not attached, or is gone, is a success.
    ///
    /// # Errors
    /// A [`CniError`] as the plugin would print it.
    pub fn del(&self, attachment: &Attachment) -> Result<()> {
        let call = Call::read(attachment, &self.path)?;
        run(&call, &call.kind, Verb::Del).map(drop)
    }

    /// Checks that a namespace is attached as `prevResult` says.
    ///
    /// # Errors
    /// A [`CniError`] that says what is missing.
    pub fn check(&self, attachment: &Attachment) -> Result<()> {
        let call = Call::read(attachment, &self.path)?;
        run(&call, &call.kind, Verb::Check).map(drop)
    }
}

/// A verb of the plugin wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
}

/// Runs `verb` of the plugin `kind`; DEL and CHECK answer with an empty result.
pub(crate) fn run(call: &Call<'_>, kind: &str, verb: Verb) -> Result<Attached> {
    let plugin = plugin(kind).unwrap_or(&Installed);
    match verb {
        Verb::Add => plugin.add(call),
        Verb::Del => plugin.del(call).map(|()| Attached::default()),
        Verb::Check if !call.at_least("0.4.0") => {
            Err(CniError::new(code::INCOMPATIBLE_VERSION, "config version does not allow CHECK"))
        }
        Verb::Check if call.prev.is_none() && plugin_needs_prev(kind) => {
            Err(CniError::invalid("Required prevResult missing"))
        }
        Verb::Check => plugin.check(call).map(|()| Attached::default()),
    }
}

/// IPAM plugins are checked by their own records, not by a result.
fn plugin_needs_prev(kind: &str) -> bool {
    kind != "host-local"
}

#[async_trait]
impl Handle<Add> for Engine {
    async fn handle(&self, _cx: &Cx, op: Add) -> hops::Result<Attached> {
        let engine = self.clone();
        blocking(move || engine.add(&op.0)).await.map_err(HopError::from)
    }
}

#[async_trait]
impl Handle<Del> for Engine {
    async fn handle(&self, _cx: &Cx, op: Del) -> hops::Result<()> {
        let engine = self.clone();
        blocking(move || engine.del(&op.0)).await.map_err(HopError::from)
    }
}

#[async_trait]
impl Handle<Check> for Engine {
    async fn handle(&self, _cx: &Cx, op: Check) -> hops::Result<()> {
        let engine = self.clone();
        blocking(move || engine.check(&op.0)).await.map_err(HopError::from)
    }
}

/// Writes a setting under `/proc/sys` of the calling thread's network namespace, unless it has
/// that value already.
pub(crate) fn sysctl(setting: &str, value: &str) -> std::io::Result<()> {
    let path = Path::new("/proc/sys").join(setting);
    if std::fs::read_to_string(&path)?.trim() == value {
        return Ok(());
    }
    std::fs::write(path, value)
}

/// The addresses of a result, read.
fn addresses(of: &Attached) -> Result<Vec<wire::cni::addr::Cidr>> {
    of.ips.iter().map(|ip| result::address(&ip.address)).collect()
}
