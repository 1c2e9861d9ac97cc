//! The command line that containerd gives a shim (containerd 1.6, runtime/v2/README.md; `-info`
//! since 2.0), read as Go's `flag` package reads it.

use std::{ffi::OsString, path::PathBuf};

/// What the shim is executed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Action {
    /// Make a shim and print its address.
    Start,
    /// Clean up after a shim that died.
    Delete,
    /// Be the shim.
    #[default]
    Serve,
}

/// The command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// containerd's namespace.
    pub(super) namespace: String,
    /// The container's id.
    pub(super) id: String,
    /// containerd's own gRPC socket; part of what names the shim's.
    pub(super) address: String,
    /// The program that publishes an event, where containerd has no ttrpc socket.
    pub(super) publish_binary: String,
    /// The socket to serve; empty for the one inherited as descriptor 3.
    pub(super) socket: PathBuf,
    /// The bundle, where it is not the working directory.
    pub(super) bundle: PathBuf,
    /// More in the log.
    pub(super) debug: bool,
    /// Print the version and do nothing.
    pub(super) version: bool,
    /// Print what shim and runtime can do, and do nothing.
    pub(super) info: bool,
    /// The first argument that is not a flag.
    pub(super) action: Action,
}

/// A command line that cannot be read, in Go's words.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum FlagError {
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    #[error("flag needs an argument: -{0}")]
    NeedsArgument(String),
    #[error("invalid boolean value {1:?} for -{0}: parse error")]
    NotBoolean(String, String),
}

/// The flags that have a value.
const VALUED: [&str; 7] =
    ["namespace", "id", "address", "publish-binary", "socket", "debug-socket", "bundle"];

/// Reads the arguments after the program's name.
///
/// # Errors
/// A flag that is not known, lacks its value, or has one that is not a truth value.
pub(super) fn parse(args: impl Iterator<Item = OsString>) -> Result<Flags, FlagError> {
    let mut flags = Flags { publish_binary: "containerd".into(), ..Flags::default() };
    let mut args = args.map(|arg| arg.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        let Some(name) = arg.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
            flags.action = action(&arg);
            break;
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        if name.is_empty() {
            flags.action = args.next().as_deref().map_or(Action::Serve, action);
            break;
        }
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let truth = match name {
            "debug" => Some(&mut flags.debug),
            "v" | "version" => Some(&mut flags.version),
            "info" => Some(&mut flags.info),
            _ => None,
        };
        if let Some(truth) = truth {
            *truth = match value.as_deref() {
                None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
                Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
                Some(other) => return Err(FlagError::NotBoolean(name.into(), other.into())),
            };
            continue;
        }
        if !VALUED.contains(&name) {
            return Err(FlagError::Unknown(name.into()));
        }
        let value =
            value.or_else(|| args.next()).ok_or_else(|| FlagError::NeedsArgument(name.into()))?;
        match name {
            "namespace" => flags.namespace = value,
            "id" => flags.id = value,
            "address" => flags.address = value,
            "publish-binary" => flags.publish_binary = value,
            "socket" => flags.socket = value.into(),
            // Go's profiler, which there is none of.
            "debug-socket" => {}
            _ => flags.bundle = value.into(),
        }
    }
    Ok(flags)
}

/// An action that is not known serves, as the real shim does.
fn action(word: &str) -> Action {
    match word {
        "start" => Action::Start,
        "delete" => Action::Delete,
        _ => Action::Serve,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Flags, FlagError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn containerds_own_command_line_is_read() {
        let flags = read(
            "-namespace moby -address /run/c.sock -publish-binary /usr/bin/containerd -id c1 -debug start",
        )
        .unwrap();
        assert_eq!(
            flags,
            Flags {
                namespace: "moby".into(),
                id: "c1".into(),
                address: "/run/c.sock".into(),
                publish_binary: "/usr/bin/containerd".into(),
                debug: true,
                action: Action::Start,
                ..Flags::default()
            }
        );
    }

    #[test]
    fn dashes_and_equals_signs_are_as_in_go() {
        let flags = read("--namespace=x --debug=false -bundle=/b delete -id never").unwrap();
        assert_eq!((flags.namespace.as_str(), flags.debug, flags.id.as_str()), ("x", false, ""));
        assert_eq!(flags.action, Action::Delete);
        assert_eq!(read("-nope").unwrap_err().to_string(), "flag provided but not defined: -nope");
        assert_eq!(read("-id").unwrap_err().to_string(), "flag needs an argument: -id");
        assert!(read("-debug=maybe").is_err());
        assert!(read("-info -debug-socket /s").unwrap().info);
        assert!(read("-version").unwrap().version && read("-v").unwrap().version);
    }
}
