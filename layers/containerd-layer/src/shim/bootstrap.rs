//! What `start` is told on standard input, and how it answers on standard output.
//!
//! Up to containerd 2.2 the input is the runtime's options, or nothing, and the bare address is
//! an answer that every containerd takes for that of a shim of version 2. Since 2.3 the input is
//! [`Params`], and the answer says which version of the task service to speak.

use std::path::{Path, PathBuf};

use hops::{
    HopError, Result,
    proto::{Any, containerd::runc},
};
use prost::{Message, Name};

use super::{bundle::Options, flags::Flags};

/// Where shims' sockets are, whatever containerd's own state directory is (containerd 1.6,
/// `socketRoot`), unless `start` is told another place.
const SOCKETS: &str = "/run/containerd/s";
/// The version of the task service for those who ask for more than an address.
const VERSION: i32 = 3;
/// `LOG_LEVEL_DEBUG`; what is more verbose is smaller.
const DEBUG: i32 = -4;

/// `containerd.runtime.bootstrap.v1.BootstrapParams` (containerd 2.3), without the daemon's
/// version.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Params {
    #[prost(string, tag = "1")]
    instance_id: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(int32, tag = "3")]
    log_level: i32,
    #[prost(string, tag = "5")]
    containerd_ttrpc_address: String,
    #[prost(string, tag = "6")]
    containerd_grpc_address: String,
    #[prost(string, tag = "7")]
    containerd_binary: String,
    #[prost(message, repeated, tag = "8")]
    extensions: Vec<Extension>,
    #[prost(string, tag = "9")]
    socket_dir: String,
}

/// `containerd.runtime.bootstrap.v1.Extension`.
#[derive(Clone, PartialEq, Message)]
struct Extension {
    #[prost(message, optional, tag = "1")]
    value: Option<Any>,
}

/// `containerd.runtime.bootstrap.v1.BootstrapResult`, as far as it is answered.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Answer {
    #[prost(int32, tag = "1")]
    pub(crate) version: i32,
    #[prost(string, tag = "2")]
    pub(crate) address: String,
    #[prost(string, tag = "3")]
    pub(crate) protocol: String,
}

impl Params {
    /// What a daemon with these addresses (gRPC, ttrpc) and this program says of the container
    /// `id` in the namespace `ns`.
    pub(crate) fn new(
        (ns, id): (&str, &str),
        (grpc, ttrpc, binary): (&Path, &Path, &Path),
        debug: bool,
        options: Option<Any>,
    ) -> Params {
        Params {
            instance_id: id.to_owned(),
            namespace: ns.to_owned(),
            log_level: if debug { DEBUG } else { 0 },
            containerd_ttrpc_address: ttrpc.display().to_string(),
            containerd_grpc_address: grpc.display().to_string(),
            containerd_binary: binary.display().to_string(),
            extensions: options.map(|o| Extension { value: Some(o) }).into_iter().collect(),
            socket_dir: String::new(),
        }
    }
}

/// How a shim is to be started.
#[derive(Debug, PartialEq)]
pub(super) struct Bootstrap {
    /// The cgroup that it is to be in; empty for the caller's.
    pub(super) cgroup: String,
    /// Where its socket is to be.
    pub(super) socket_dir: PathBuf,
    /// containerd's ttrpc socket; empty where the environment names it.
    pub(super) ttrpc_address: String,
    answers: bool,
}

impl Bootstrap {
    /// Reads what stood on standard input. What [`Params`] say goes before the command line.
    ///
    /// Whether it is `Params` is told as the real shim tells it (containerd 2.3,
    /// `parseBootstrapParams`): options can be decoded as such too, but then they do not name the
    /// container and its namespace.
    ///
    /// # Errors
    /// Input that is neither.
    pub(super) fn read(input: &[u8], flags: &mut Flags) -> Result<Bootstrap> {
        let params = Params::decode(input)
            .ok()
            .filter(|params| params.instance_id == flags.id && params.namespace == flags.namespace)
            .filter(|_| !flags.id.is_empty());
        let Some(params) = params else {
            let options =
                Any::decode(input).map_err(|e| HopError::invalid(format!("options: {e}")))?;
            return Ok(Bootstrap {
                cgroup: cgroup(&options),
                socket_dir: SOCKETS.into(),
                ttrpc_address: String::new(),
                answers: false,
            });
        };
        flags.debug |= params.log_level <= DEBUG;
        if !params.containerd_grpc_address.is_empty() {
            flags.address = params.containerd_grpc_address;
        }
        if !params.containerd_binary.is_empty() {
            flags.publish_binary = params.containerd_binary;
        }
        let options = params.extensions.into_iter().filter_map(|extension| extension.value);
        let name = runc::v1::Options::full_name();
        let options = options.into_iter().find(|any| any.type_url.ends_with(&name));
        let socket_dir = match params.socket_dir.as_str() {
            "" => SOCKETS,
            dir => dir,
        };
        Ok(Bootstrap {
            cgroup: options.as_ref().map(cgroup).unwrap_or_default(),
            socket_dir: socket_dir.into(),
            ttrpc_address: params.containerd_ttrpc_address,
            answers: true,
        })
    }

    /// What is printed for a shim that serves `socket`.
    pub(super) fn answer(&self, socket: &Path) -> Vec<u8> {
        let address = address(socket);
        if !self.answers {
            return address.into_bytes();
        }
        Answer { version: VERSION, address, protocol: "ttrpc".into() }.encode_to_vec()
    }
}

/// A socket's address as containerd writes it.
pub(super) fn address(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// The cgroup for the shim. Options of other kinds are not for the launch, and are refused where
/// they matter.
fn cgroup(options: &Any) -> String {
    Options::read(Some(options)).map(|options| options.shim_cgroup).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Flags {
        Flags {
            id: "c".into(),
            namespace: "n".into(),
            address: "/run/old".into(),
            ..Flags::default()
        }
    }

    fn options() -> Any {
        let options = runc::v1::Options { shim_cgroup: "/shims".into(), ..Default::default() };
        Any { type_url: runc::v1::Options::full_name(), value: options.encode_to_vec() }
    }

    #[test]
    fn options_alone_are_answered_with_an_address() {
        for (input, cgroup) in [(Vec::new(), ""), (options().encode_to_vec(), "/shims")] {
            let mut flags = flags();
            let bootstrap = Bootstrap::read(&input, &mut flags).unwrap();
            assert_eq!(bootstrap.cgroup, cgroup);
            assert_eq!(bootstrap.socket_dir, Path::new(SOCKETS));
            assert_eq!(bootstrap.answer(Path::new("/s")), b"unix:///s");
            assert_eq!(flags, self::flags());
        }
        assert!(Bootstrap::read(b"\xff", &mut flags()).is_err());
    }

    #[test]
    fn params_go_before_the_command_line() {
        let params = Params {
            instance_id: "c".into(),
            namespace: "n".into(),
            log_level: -8,
            containerd_ttrpc_address: "/run/t".into(),
            containerd_grpc_address: "/run/g".into(),
            containerd_binary: "/bin/containerd".into(),
            extensions: vec![
                Extension { value: Some(Any { type_url: "x".into(), value: vec![255] }) },
                Extension { value: Some(options()) },
            ],
            socket_dir: "/short".into(),
        };
        let mut flags = flags();
        let bootstrap = Bootstrap::read(&params.encode_to_vec(), &mut flags).unwrap();
        assert_eq!(bootstrap.cgroup, "/shims");
        assert_eq!(bootstrap.socket_dir, Path::new("/short"));
        assert_eq!(bootstrap.ttrpc_address, "/run/t");
        assert_eq!((flags.address.as_str(), flags.debug), ("/run/g", true));
        assert_eq!(flags.publish_binary, "/bin/containerd");
        let answer = Answer::decode(&*bootstrap.answer(Path::new("/s"))).unwrap();
        let wanted = Answer { version: 3, address: "unix:///s".into(), protocol: "ttrpc".into() };
        assert_eq!(answer, wanted);
    }

    #[test]
    fn params_of_another_container_are_not_believed() {
        let params = Params { instance_id: "d".into(), namespace: "n".into(), ..Params::default() };
        let mut flags = flags();
        let bootstrap = Bootstrap::read(&params.encode_to_vec(), &mut flags).unwrap();
        assert_eq!(bootstrap.answer(Path::new("/s")), b"unix:///s");
    }
}
