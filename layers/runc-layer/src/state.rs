//! A container's record: `state.json` in its directory below the root.
//!
//! The file is replaced by a rename, so it is whole at any moment. It is written before the first
//! cgroup is made, so that whatever a killed runtime leaves can be found and removed.

use std::{
    collections::BTreeMap,
    ffi::CString,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    cgroup::Cgroup,
    error::Context,
    plan::c_path,
    spec::{Hooks, decode},
    sys::{Errno, file, mount, process},
};

/// The state of a container (runtime-spec, "State", with runc's `paused`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `create` is at work.
    Creating,
    /// The process waits for `start`.
    Created,
    /// The process runs the container's program.
    Running,
    /// All processes are frozen.
    Paused,
    /// The process is gone.
    Stopped,
}

impl Status {
    /// The name in `state` and `list`.
    pub fn name(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// What is kept of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) oci_version: String,
    pub(crate) id: String,
    /// 0 until the process exists.
    pub(crate) pid: i32,
    /// Field 22 of /proc/PID/stat, which with the pid names a process for good.
    pub(crate) start_time: u64,
    pub(crate) created: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) owner: u32,
    pub(crate) cgroup: Cgroup,
    /// CLONE_NEW* of the namespaces that are not the host's.
    pub(crate) namespaces: i32,
    /// Its mounts are in the runtime's mount namespace, below the root filesystem.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) host_mounts: bool,
    pub(crate) rootless: bool,
    /// CRIU is at work in its cgroup, or was when the runtime was killed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) restoring: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    /// poststart and poststop, which come after the configuration was read.
    #[serde(default)]
    pub(crate) hooks: Hooks,
}

/// The directory of one container.
#[derive(Clone, Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// The directory of `id` below `root`, whether it exists or not.
    pub(crate) fn new(root: &Path, id: &str) -> Result<Directory> {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
        if id.is_empty() {
            return Err(Error::Invalid("container id cannot be empty".into()));
        }
        if id == "." || id == ".." || id.len() > 1024 || !id.chars().all(valid) {
            return Err(Error::InvalidId);
        }
        Ok(Directory(root.join(id)))
    }

    /// Makes it; one that exists is another container.
    pub(crate) fn create(&self) -> Result<()> {
        let path = c_path(&self.0)?;
        let mut made = file::mkdir(&path, 0o711);
        if made == Err(Errno::NOENT)
            && let Some(root) = self.0.parent()
        {
            std::fs::create_dir_all(root).context(|| format!("mkdir {}", root.display()))?;
            made = file::mkdir(&path, 0o711);
        }
        match made {
            Err(Errno::EXIST) => Err(Error::Exist),
            other => other.context(|| format!("mkdir {}", self.0.display())),
        }
    }

    pub(crate) fn exists(&self) -> bool {
        self.0.is_dir()
    }

    pub(crate) fn remove(&self) -> Result<()> {
        // The usual contents first: that is two calls instead of a search.
        for name in ["exec.fifo", "state.json"] {
            let _ = file::unlink(&c_path(&self.0.join(name))?);
        }
        match file::rmdir(&c_path(&self.0)?) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(_) => {
                std::fs::remove_dir_all(&self.0).context(|| format!("remove {}", self.0.display()))
            }
        }
    }

    /// A file of the container's.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn fifo(&self) -> Result<CString> {
        c_path(&self.0.join("exec.fifo"))
    }

    pub(crate) fn save(&self, record: &Record) -> Result<()> {
        let bytes =
            serde_json::to_vec(record).map_err(|e| Error::Invalid(format!("state.json: {e}")))?;
        replace_file(&self.0.join("state.json"), &bytes, 0o600)
    }

    pub(crate) fn load(&self) -> Result<Record> {
        let path = self.0.join("state.json");
        match std::fs::read(&path) {
            Ok(bytes) => decode(&bytes, "state.json"),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::NotExist),
            Err(e) => Err(Error::os(format!("open {}", path.display()), e.into())),
        }
    }

    /// Whether the container still waits for `start`.
    pub(crate) fn waits_for_start(&self) -> Result<bool> {
        Ok(file::stat(&self.fifo()?).is_ok())
    }
}

impl Record {
    /// Whether the recorded process is there and no zombie.
    pub(crate) fn is_alive(&self) -> bool {
        self.pid > 0
            && process_stat(self.pid).is_some_and(|(state, start)| {
                start == self.start_time && !matches!(state, b'Z' | b'X')
            })
    }

    pub(crate) fn status(&self, directory: &Directory) -> Result<Status> {
        Ok(if !self.is_alive() {
            if self.pid == 0 { Status::Creating } else { Status::Stopped }
        } else if directory.waits_for_start()? {
            Status::Created
        } else if self.cgroup.is_frozen() {
            Status::Paused
        } else {
            Status::Running
        })
    }

    /// A descriptor for the process, which cannot come to mean another one.
    pub(crate) fn pidfd(&self) -> Result<std::os::fd::OwnedFd> {
        let pidfd = match process::pidfd_open(self.pid.max(1)) {
            Err(Errno::SRCH) => return Err(Error::NotRunning),
            other => other.context(|| format!("pidfd_open {}", self.pid))?,
        };
        // Compared after the opening: now the number cannot be given away any more.
        if self.is_alive() { Ok(pidfd) } else { Err(Error::NotRunning) }
    }

    /// Takes off what a container without a mount namespace of its own has on its root filesystem.
    pub(crate) fn unmount(&self) {
        if self.host_mounts
            && let Ok(rootfs) = c_path(&self.rootfs)
        {
            // The first of the mounts carries all others. A failure is that it was never made.
            let _ = mount::detach(&rootfs);
        }
    }

    /// The state as hooks read it.
    pub(crate) fn for_hooks(&self, status: Status, pid: i32) -> Vec<u8> {
        let state = serde_json::json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": status.name(),
            "pid": pid,
            "bundle": self.bundle,
            "annotations": self.annotations,
        });
        state.to_string().into_bytes()
    }
}

/// The state letter and start time of a process (proc_pid_stat(5), fields 3 and 22).
pub(crate) fn process_stat(pid: i32) -> Option<(u8, u64)> {
    let path = CString::new(format!("/proc/{pid}/stat")).ok()?;
    let text = file::read_line(&path).ok()?;
    // The name in parentheses may hold anything; the fields start after the last one.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Writes a file that is never seen half written.
pub(crate) fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let temporary = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        let mut f = options.write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        f.write_all(bytes)?;
        std::fs::rename(&temporary, path)
    };
    write().context(|| format!("open {}", temporary.display()))
}

/// Now as RFC 3339 with nanoseconds, in UTC.
pub(crate) fn now() -> String {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    timestamp(now.as_secs(), now.subsec_nanos())
}

fn timestamp(seconds: u64, nanoseconds: u32) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a date in years that start in March (the era of 400 years has 146,097 days).
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanoseconds:09}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        assert_eq!(timestamp(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(timestamp(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(timestamp(1_735_689_599, 999_999_999), "2024-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn an_id_is_one_harmless_name() {
        let root = Path::new("/run/x");
        for bad in [".", "..", "a/b", "a b", "ü", "a\0"] {
            assert!(matches!(Directory::new(root, bad), Err(Error::InvalidId)), "{bad:?}");
        }
        for good in ["a", "A_b+c.d-9", "...", "-x"] {
            assert!(Directory::new(root, good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn ones_own_process_is_found() {
        let (state, start) = process_stat(std::process::id() as i32).expect("stat");
        assert!(state.is_ascii_uppercase() && start > 0);
    }
}
