//! Mounts that only one thread sees, for as long as it looks at them: nobody else is in their way,
//! and a kill leaves none behind.

use crate::{Error, Result, error::At, shim::mount_one};
use hops::proto::containerd::types::Mount;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use std::{fs, io, path::Path, thread};

/// Has `work` look at two sets of mounts, which it cannot change. `dir` is where they are mounted:
/// it is made where it is missing, and stays empty.
///
/// # Errors
/// Those of mounting, and the work's own.
pub(super) fn mounted<T: Send>(
    dir: &Path,
    [left, right]: [&[Mount]; 2],
    work: impl FnOnce(&Path, &Path) -> Result<T> + Send,
) -> Result<T> {
    fs::create_dir_all(dir).at("creating", dir)?;
    let look = || {
        apart(dir)?;
        let (one, two) = (dir.join("left"), dir.join("right"));
        for (target, mounts) in [(&one, left), (&two, right)] {
            fs::create_dir(target).at("creating", target)?;
            for mount in mounts {
                mount_one(&read_only(mount), target)
                    .map_err(|e| Error::internal(format_args!("failed to mount: {}", e.message)))?;
            }
        }
        work(&one, &two)
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("mounted".to_owned());
        let ended = thread.spawn_scoped(scope, look).at("starting a thread for", dir)?.join();
        ended.unwrap_or_else(|_| Err(Error::internal("comparing mounts panicked")))
    })
}

/// Gives this thread mounts of its own, and in them an empty file system at `dir`.
fn apart(dir: &Path) -> Result<()> {
    let own = || -> nix::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let nothing = None::<&str>;
        // What others unmount goes here too, so that it is not kept in use.
        mount(nothing, "/", nothing, MsFlags::MS_SLAVE | MsFlags::MS_REC, nothing)?;
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some("mode=700"))
    };
    own().map_err(io::Error::from).at("mounting on", dir)
}

/// The same files without the means to change them: a snapshot that is in use stays its user's.
fn read_only(mount: &Mount) -> Mount {
    let mut mount = mount.clone();
    let upper = mount.options.iter().find_map(|o| o.strip_prefix("upperdir=")).map(str::to_owned);
    if let Some(upper) = upper {
        mount.options.retain(|o| !o.starts_with("upperdir=") && !o.starts_with("workdir="));
        for option in &mut mount.options {
            if let Some(lower) = option.strip_prefix("lowerdir=") {
                *option = format!("lowerdir={upper}:{lower}");
            }
        }
    }
    mount.options.retain(|o| o != "rw");
    mount.options.push("ro".to_owned());
    mount
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_written_becomes_a_lower_directory() {
        let mount = |options: &[&str]| Mount {
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            ..Mount::default()
        };
        let overlay = mount(&["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/b:/a"]);
        assert_eq!(read_only(&overlay).options, ["index=off", "lowerdir=/u:/b:/a", "ro"]);
        assert_eq!(read_only(&mount(&["rw", "rbind"])).options, ["rbind", "ro"]);
    }
}
