//! Where clients come in. It is shut before the answer to whoever sent the shim away: with that,
//! the next shim of the pod may be started, and is not to find this one at its address.

use std::{fs, os::unix::net::UnixListener, path::PathBuf};

/// A socket that is listened on, and its file.
#[derive(Debug)]
pub(super) struct Door {
    listener: Option<UnixListener>,
    socket: Option<PathBuf>,
}

impl Door {
    pub(super) fn new(listener: UnixListener, socket: Option<PathBuf>) -> Door {
        Door { listener: Some(listener), socket }
    }

    /// The socket, while it is open.
    pub(super) fn listener(&self) -> Option<&UnixListener> {
        self.listener.as_ref()
    }

    /// Takes no further client, so that the pod's next shim can take the address.
    pub(super) fn shut(&mut self) {
        if self.listener.take().is_some()
            && let Some(socket) = &self.socket
        {
            let _ = fs::remove_file(socket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_that_is_shut_leaves_the_next_one_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("socket");
        let open = || Door::new(UnixListener::bind(&path).unwrap(), Some(path.clone()));
        let mut first = open();
        first.shut();
        let second = open();
        first.shut();
        assert!(first.listener().is_none() && second.listener().is_some());
        std::os::unix::net::UnixStream::connect(&path).unwrap();
    }
}
