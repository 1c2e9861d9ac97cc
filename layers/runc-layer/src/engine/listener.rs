//! Handing a seccomp listener to the agent that `linux.seccomp.listenerPath` names.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use serde_json::json;

use crate::{Result, error::Context, spec::VERSION, sys::socket};

/// Where the listener goes and what is said with it.
pub(super) struct Agent {
    pub(super) path: String,
    pub(super) metadata: String,
}

impl Agent {
    /// Sends the listener of the process `pid` with the container's `state` (runtime-spec,
    /// "Container Process State").
    pub(super) fn deliver(&self, listener: &OwnedFd, state: &[u8], pid: i32) -> Result<()> {
        let state: serde_json::Value = serde_json::from_slice(state).unwrap_or_default();
        let mut message = json!({
            "ociVersion": VERSION,
            "fds": ["seccompFd"],
            "pid": pid,
            "state": state,
        });
        if !self.metadata.is_empty() {
            message["metadata"] = self.metadata.as_str().into();
        }
        let what = || format!("failed to send the seccomp listener to {}", self.path);
        let agent = socket::connect(Path::new(&self.path)).context(what)?;
        socket::send_fd(agent.as_fd(), message.to_string().as_bytes(), listener.as_fd())
            .context(what)
    }
}
