//! What a comparison makes on the host: one directory, and the process that removes it.
//!
//! The *keeper* exists before the directory does. It lives in a process group of its own, makes the
//! directory, and waits for the end of its standard input, whose other end is held by the
//! comparison and by every runtime that it starts. So however a comparison ends, at whatever
//! moment, the keeper goes to work once the last of them is gone, and nobody makes anything below
//! the directory while it is being removed.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::sandbox::{self, Jobs};

/// A comparison's place on the host. Its clones are the same place.
#[derive(Clone)]
pub(crate) struct Premises {
    dir: PathBuf,
    state: Arc<Mutex<State>>,
}

struct State {
    keeper: Child,
    /// `None` when it has ended: nothing is started any more.
    open: Option<Open>,
}

struct Open {
    /// The end of the keeper's standard input; every child inherits it.
    _held: ChildStdin,
    /// The sandboxes' own inputs.
    jobs: Vec<Jobs>,
}

impl Premises {
    /// Starts the keeper.
    ///
    /// # Errors
    /// When it cannot be started, or cannot make its directory.
    pub(crate) fn open() -> Result<Premises> {
        let mut keeper = Command::new(std::env::current_exe()?)
            .arg("keep")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("the keeper of the comparison's directory")?;
        let (Some(held), Some(stdout)) = (keeper.stdin.take(), keeper.stdout.take()) else {
            bail!("the keeper has no standard streams");
        };
        // Inherited by what is started from now on: the runtimes, whose ends the keeper awaits.
        fcntl(&held, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let mut dir = String::new();
        BufReader::new(stdout).read_line(&mut dir)?;
        if dir.pop() != Some('\n') {
            bail!("the keeper could not make a directory ({})", keeper.wait()?);
        }
        let open = Some(Open { _held: held, jobs: Vec::new() });
        Ok(Premises { dir: dir.into(), state: Arc::new(Mutex::new(State { keeper, open })) })
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts a sandbox with `start`, which answers it and its input, unless all is over.
    ///
    /// # Errors
    /// Those of `start`; when the premises have ended.
    pub(crate) fn start<T>(&self, start: impl FnOnce() -> Result<(T, Jobs)>) -> Result<T> {
        let mut state = self.state();
        let open = state.open.as_mut().context("interrupted")?;
        let (sandbox, jobs) = start()?;
        open.jobs.push(jobs);
        Ok(sandbox)
    }

    /// Ends every sandbox, and waits until nothing of the comparison is left on the host.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        for jobs in state.open.take().into_iter().flat_map(|open| open.jobs) {
            jobs.close();
        }
        // What could be said here, the keeper has said on standard error.
        let _ = state.keeper.wait();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The keeper: makes a directory, says where, and removes it when nobody uses it any more.
///
/// # Errors
/// Those of making and removing it.
pub(crate) fn keep() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("strata-").tempdir()?.keep();
    let kept = announce_and_wait(&dir);
    let sandboxes = fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path());
    for sandbox in sandboxes.filter(|path| path.join("runtime").exists()) {
        // A runtime that ended in good order has left nothing to delete.
        let _ = sandbox::runtime(&sandbox)?
            .args(["delete", "--force", sandbox::ID])
            .stderr(Stdio::null())
            .status();
    }
    remove(&dir).with_context(|| dir.display().to_string())?;
    kept
}

fn announce_and_wait(dir: &Path) -> Result<()> {
    // A container's user that is not root must be able to reach its root filesystem.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
    writeln!(std::io::stdout(), "{}", dir.display())?;
    let mut nothing = [0; 64];
    while std::io::stdin().read(&mut nothing)? > 0 {}
    Ok(())
}

/// Removes the tree at `dir`, also those of its directories that nobody may look into: overlayfs
/// leaves such a one below each of its work directories.
fn remove(dir: &Path) -> std::io::Result<()> {
    let Err(e) = fs::remove_dir_all(dir) else { return Ok(()) };
    if e.kind() != std::io::ErrorKind::PermissionDenied {
        return Err(e);
    }
    open_up(dir)?;
    fs::remove_dir_all(dir)
}

fn open_up(dir: &Path) -> std::io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}
