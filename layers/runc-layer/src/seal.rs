//! Keeping containers from writing to the runtime's program (CVE-2019-5736).
//!
//! A container can have the runtime execute `/proc/self/exe`, hold on to that file, and open it
//! for writing once nobody executes it any more. So the program executes itself once more from a
//! read-only detached mount of its own file, through which nobody can write, or, without the
//! right to mount, from a sealed copy in memory.

use std::{
    ffi::{CString, OsString},
    os::{fd::AsFd, unix::ffi::OsStringExt},
};

use crate::{
    Error, Result,
    error::Context,
    plan::c_path,
    sys::{credentials, file, mount, strings::StringVector},
};

/// Set in the environment of the second execution, so that there is no third.
const MARK: &str = "_STRATA_RUNC_SEALED";

/// Makes sure that this program's file cannot be written through `/proc/self/exe`; it may execute
/// the program again, with `args` and the same environment.
///
/// Call it first thing in `main`, before there are threads and files. Programs that use
/// [`crate::Runtime`] in process for containers that they do not trust call it, too.
///
/// # Errors
///
/// The program's file can be neither mounted nor copied.
pub fn seal(args: &[OsString]) -> Result<()> {
    let what = || "cannot protect the runtime's own program".to_owned();
    let own = file::open(c"/proc/self/exe", libc::O_RDONLY).context(what)?;
    let read_only = file::is_read_only(own.as_fd()).unwrap_or(false);
    let marked = std::env::var_os(MARK).is_some();
    if read_only || file::is_sealed(own.as_fd()) {
        return Ok(());
    }
    if marked {
        return Err(Error::Invalid(what()));
    }
    let program = match read_only_mount() {
        Ok(program) => program,
        Err(_) => copy(&own).context(what)?,
    };
    let strings = |list: Vec<OsString>| -> Result<StringVector> {
        let list: Vec<CString> =
            list.iter().map(|s| c_path(s.as_ref())).collect::<Result<Vec<_>>>()?;
        Ok(StringVector::new(list, false))
    };
    let mut env: Vec<OsString> = std::env::vars_os()
        .map(|(name, value)| {
            let mut line = name.into_vec();
            line.push(b'=');
            line.extend(value.into_vec());
            OsString::from_vec(line)
        })
        .collect();
    env.push(format!("{MARK}=1").into());
    let errno =
        credentials::execute_file(program.as_fd(), &strings(args.to_vec())?, &strings(env)?);
    Err(Error::os(what(), errno))
}

fn read_only_mount() -> crate::sys::Result<std::os::fd::OwnedFd> {
    let tree = mount::clone_tree(file::cwd(), c"/proc/self/exe", false)?;
    let read_only = mount::Attributes { set: mount::ATTR_RDONLY, clear: 0 };
    mount::set_attributes(tree.as_fd(), read_only, false, None)?;
    Ok(tree)
}

fn copy(own: &std::os::fd::OwnedFd) -> crate::sys::Result<std::os::fd::OwnedFd> {
    let memory = file::memfd(c"strata-runc")?;
    while file::sendfile(memory.as_fd(), own.as_fd(), 1 << 30)? > 0 {}
    file::seal(memory.as_fd())?;
    Ok(memory)
}
