//! Unix sockets as daemons use them.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

/// The path in `unix:///run/x.sock`, `unix:/run/x.sock`, or a plain path.
pub fn path_of(endpoint: &str) -> PathBuf {
    let path = endpoint.strip_prefix("unix:").unwrap_or(endpoint);
    PathBuf::from(path.strip_prefix("//").unwrap_or(path))
}

/// Listens on `path`, mode 0660, with its parent directory made where it is missing. A socket
/// file that nobody serves any more is replaced.
///
/// # Errors
/// `AddrInUse` when somebody serves it, and those of making the directory and the socket.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("{} is served by another process", path.display()),
            ));
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Connects to `path`.
///
/// # Errors
/// Those of `connect`, with the path in the text.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path)
        .await
        .map_err(|e| io::Error::new(e.kind(), format!("dial unix {}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_paths_with_or_without_a_scheme() {
        for endpoint in ["unix:///run/x.sock", "unix:/run/x.sock", "/run/x.sock"] {
            assert_eq!(path_of(endpoint), Path::new("/run/x.sock"));
        }
    }
}
