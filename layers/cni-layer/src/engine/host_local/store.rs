//! Which addresses are given away, on disk: the reference plugin's own format, so that either
//! finds the other's leases.
//!
//! One directory per network. A file named by an address holds the container's id and the link's
//! name on two lines; `last_reserved_ip.N` holds the last address given from range set N; `lock`
//! is held by flock(2) for the length of a call.

use std::{
    fs::{self, File},
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use wire::cni::error::{Doing, Result};

/// What stands between the two lines of a lease (the reference plugin writes DOS line ends).
const LINE_BREAK: &str = "\r\n";

/// A network's leases, locked.
pub(crate) struct Store {
    dir: PathBuf,
    _lock: Flock<File>,
}

/// Whose a lease is.
pub(crate) struct Holder<'a> {
    pub(crate) container: &'a str,
    pub(crate) link: &'a str,
}

impl Holder<'_> {
    fn lines(&self) -> String {
        format!("{}{LINE_BREAK}{}", self.container, self.link)
    }

    /// Whether the text of a lease is this holder's. Leases of host-local before 0.8 name no link.
    fn has(&self, text: &str) -> bool {
        let text = text.trim();
        text == self.lines() || text == self.container
    }
}

impl Store {
    /// Opens and locks the leases of `network` under `data_dir`, making the directory.
    pub(crate) fn open(data_dir: &Path, network: &str) -> Result<Store> {
        let dir = data_dir.join(network);
        fs::create_dir_all(&dir).doing(format_args!("mkdir {}", dir.display()))?;
        Store::lock(dir)
    }

    /// Opens and locks the leases of `network` where there are any.
    pub(crate) fn open_if_any(data_dir: &Path, network: &str) -> Result<Option<Store>> {
        let dir = data_dir.join(network);
        if dir.is_dir() { Store::lock(dir).map(Some) } else { Ok(None) }
    }

    fn lock(dir: PathBuf) -> Result<Store> {
        let path = dir.join("lock");
        let file = File::options().create(true).append(true).open(&path);
        let file = file.doing(format_args!("open {}", path.display()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .doing(format_args!("lock {}", path.display()))?;
        Ok(Store { dir, _lock: lock })
    }

    /// Gives `ip` from range set `set` to `holder`; false when it is given away already.
    pub(crate) fn reserve(&self, holder: &Holder<'_>, ip: IpAddr, set: usize) -> Result<bool> {
        let path = self.dir.join(ip.to_string());
        let mut file = match File::options().write(true).create_new(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            other => other.doing(format_args!("open {}", path.display()))?,
        };
        if let Err(e) = file.write_all(holder.lines().as_bytes()) {
            // A half-written lease would be nobody's, and never released.
            let _ = fs::remove_file(&path);
            return Err(e).doing(format_args!("write {}", path.display()));
        }
        let last = self.last_path(set);
        fs::write(&last, ip.to_string()).doing(format_args!("write {}", last.display()))?;
        Ok(true)
    }

    /// The last address given from range set `set`.
    pub(crate) fn last(&self, set: usize) -> Option<IpAddr> {
        fs::read_to_string(self.last_path(set)).ok()?.trim().parse().ok()
    }

    fn last_path(&self, set: usize) -> PathBuf {
        self.dir.join(format!("last_reserved_ip.{set}"))
    }

    fn leases(&self) -> Result<Vec<(IpAddr, String)>> {
        let entries = fs::read_dir(&self.dir).doing(format_args!("read {}", self.dir.display()))?;
        let mut leases = Vec::new();
        for entry in entries {
            let entry = entry.doing(format_args!("read {}", self.dir.display()))?;
            let Some(ip) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            match fs::read_to_string(entry.path()) {
                Ok(text) => leases.push((ip, text)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).doing(format_args!("read {}", entry.path().display())),
            }
        }
        Ok(leases)
    }

    /// The addresses that `holder` has.
    pub(crate) fn held_by(&self, holder: &Holder<'_>) -> Result<Vec<IpAddr>> {
        let leases = self.leases()?.into_iter();
        Ok(leases.filter(|(_, text)| holder.has(text)).map(|(ip, _)| ip).collect())
    }

    /// Takes back one address.
    pub(crate) fn release(&self, ip: IpAddr) -> Result<()> {
        let path = self.dir.join(ip.to_string());
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).doing(format_args!("unlink {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Takes back every address that `holder` has.
    pub(crate) fn release_all(&self, holder: &Holder<'_>) -> Result<()> {
        self.held_by(holder)?.into_iter().try_for_each(|ip| self.release(ip))
    }
}
