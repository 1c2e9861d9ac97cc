//! The last steps: limits, identity, capabilities, filter, and the program.

use std::{
    convert::Infallible,
    ffi::CStr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use super::{
    hooks,
    report::{At, Failure, Report, Step},
    wait, warn,
};
use crate::{
    plan::{Label, Plan, ProcessPlan},
    sys::{
        self, Errno, Result,
        credentials::{self, CapabilitySets},
        file, process, seccomp,
    },
};

/// The largest state that a startContainer hook is given, in bytes.
pub(crate) const STATE: usize = 16 * 1024;

type Outcome = std::result::Result<(), Failure>;

pub(super) fn run(
    plan: &mut Plan,
    label: Option<OwnedFd>,
) -> std::result::Result<Infallible, Failure> {
    close_descriptors(plan, label.as_ref()).at(Step::Descriptors)?;
    set_limits(plan)?;
    let process = &plan.process;
    if let Some(scheduling) = &process.scheduling {
        credentials::set_scheduling(scheduling).at(Step::Scheduler)?;
    }
    if let Some((class, level)) = process.io_priority {
        credentials::set_io_priority(class, level).at(Step::IoPriority)?;
    }
    if let Some(domain) = process.personality {
        credentials::set_personality(domain).at(Step::Personality)?;
    }
    if !process.affinity.last.is_empty() {
        credentials::set_affinity(&process.affinity.last).at(Step::Affinity)?;
    }
    if let (Some(file), Some(Label { line, .. })) = (&label, &process.label) {
        file::write(file.as_fd(), line).at(Step::Label)?;
    }
    // The directory may be readable for root only, or for the user only; and it is looked at
    // before a filter may forbid the looking.
    let early = enter_directory(&process.cwd);
    // Without no_new_privs a filter needs a capability that is about to go.
    if !process.no_new_privileges {
        load_filter(plan)?;
    }
    become_user(plan, early)?;
    if plan.process.no_new_privileges {
        credentials::no_new_privileges().at(Step::NoNewPrivileges)?;
    }
    if plan.process.find_home {
        let home = home(plan.process.identity.uid);
        plan.process.env.fill_spare(home);
    }
    let candidate = find_program(&plan.process).at(Step::NotFound)?;
    let notifies = plan.process.seccomp.as_ref().is_some_and(|f| f.notifies());
    if plan.process.no_new_privileges && notifies {
        load_filter(plan)?;
    }
    // `start` may come long after the runtime that could send the state has gone.
    let mut buffer = [0u8; STATE];
    let state = if plan.start_container.is_empty() {
        &[]
    } else {
        hooks::state(&mut buffer, file::borrow(plan.sync))
    };
    if plan.announce {
        Report::Ready.send(file::borrow(plan.sync)).at(Step::Sync)?;
    }
    if plan.wait_for_go {
        wait(plan).at(Step::Sync)?;
    }
    if let Some(fifo) = plan.fifo.take() {
        wait_for_start(&fifo).at(Step::Fifo)?;
    }
    if !plan.start_container.is_empty() {
        hooks::run(&plan.start_container, state).map_err(|(index, errno)| Failure {
            step: Step::StartHook,
            index,
            errno,
        })?;
    }
    if plan.process.no_new_privileges && !notifies {
        load_filter(plan)?;
    }
    let program = &plan.process.candidates[candidate];
    Err(credentials::execute(program, &plan.process.args, &plan.process.env)).at(Step::Exec)
}

/// Closes all but the standard streams, the preserved descriptors and the child's own, so that no
/// path of the container leads through a descriptor to the host (CVE-2024-21626).
fn close_descriptors(plan: &Plan, label: Option<&OwnedFd>) -> Result<()> {
    let number = |fd: Option<&OwnedFd>| fd.map_or(-1, AsRawFd::as_raw_fd);
    let mut keep = [plan.sync, number(plan.fifo.as_ref()), number(label)];
    keep.sort_unstable();
    let mut from = 3 + plan.preserve_fds;
    for fd in keep {
        if let Ok(fd) = u32::try_from(fd)
            && fd >= from
        {
            file::close_range(from, fd.saturating_sub(1))?;
            from = fd + 1;
        }
    }
    file::close_range(from, u32::MAX)
}

fn set_limits(plan: &Plan) -> Outcome {
    for (i, (resource, soft, hard)) in plan.process.limits.iter().enumerate() {
        match credentials::set_limit(*resource, *soft, *hard) {
            // Without CAP_SYS_RESOURCE a hard limit cannot be raised: take what may be had.
            Err(e @ Errno::PERM) => {
                let (_, most) = credentials::limit(*resource).at_index(Step::Limit, i)?;
                let hard = most.min(*hard);
                credentials::set_limit(*resource, hard.min(*soft), hard)
                    .at_index(Step::Limit, i)?;
                warn(plan, Step::Limit, i, e);
            }
            other => other.at_index(Step::Limit, i)?,
        }
    }
    Ok(())
}

fn load_filter(plan: &Plan) -> Outcome {
    let Some(filter) = &plan.process.seccomp else { return Ok(()) };
    let listener = seccomp::load(&filter.instructions, filter.flags).at(Step::Seccomp)?;
    if let Some(listener) = listener {
        Report::Listener.send_with(file::borrow(plan.sync), listener.as_fd()).at(Step::Listener)?;
        drop(listener);
    }
    Ok(())
}

fn become_user(plan: &Plan, early: Outcome) -> Outcome {
    let process = &plan.process;
    let identity = &process.identity;
    let wanted = &process.capabilities;
    drop_bounding(wanted.bounding).at(Step::Bounding)?;
    let own = credentials::capabilities().at(Step::Capabilities)?;
    let changes_user = identity.uid != 0;
    if changes_user {
        credentials::keep_capabilities(true).at(Step::Capabilities)?;
    }
    own_streams(identity.uid, identity.gid);
    match credentials::set_groups(&identity.groups) {
        // In a user namespace without privileges groups can neither be set nor cleared; what is
        // asked for beyond the process's own group would be missed.
        Err(Errno::PERM) if identity.groups.iter().all(|group| *group == identity.gid) => {}
        other => other.at(Step::Groups)?,
    }
    credentials::set_gid(identity.gid).at(Step::Gid)?;
    credentials::set_uid(identity.uid).at(Step::Uid)?;
    match early {
        Err(Failure { errno: Errno::ACCES | Errno::PERM, .. }) => enter_directory(&process.cwd)?,
        other => other?,
    }
    file::umask(identity.umask);
    if changes_user {
        credentials::keep_capabilities(false).at(Step::Capabilities)?;
    }
    set_capabilities(plan, wanted, &own)
}

fn drop_bounding(keep: u64) -> Result<()> {
    for capability in (0..64).filter(|bit| keep & 1 << bit == 0) {
        match credentials::drop_bounding(capability) {
            Ok(()) => {}
            // The first number that the kernel does not know.
            Err(Errno::INVAL) => break,
            // Without CAP_SETPCAP there is nothing that the bounding set could give.
            Err(Errno::PERM) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn set_capabilities(plan: &Plan, wanted: &CapabilitySets, own: &CapabilitySets) -> Outcome {
    let permitted = wanted.permitted & own.permitted;
    let sets = CapabilitySets {
        permitted,
        effective: wanted.effective & permitted,
        inheritable: wanted.inheritable & (own.permitted | own.inheritable),
        ..*wanted
    };
    credentials::set_capabilities(&sets).at(Step::Capabilities)?;
    if permitted != wanted.permitted {
        warn(plan, Step::Capabilities, 0, Errno::PERM);
    }
    for capability in (0..64).filter(|bit| wanted.ambient & 1 << bit != 0) {
        match credentials::raise_ambient(capability) {
            // Not permitted, or not inheritable: runc leaves it out, too.
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            other => other.at(Step::Capabilities)?,
        }
    }
    Ok(())
}

/// Goes to the program's working directory. The kernel says so itself when that is not below the
/// root.
fn enter_directory(path: &CStr) -> Outcome {
    file::chdir(path).at(Step::Cwd)?;
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    match file::getcwd(&mut buffer) {
        Ok([b'/', ..]) => Ok(()),
        Ok(_) | Err(Errno::NOENT) => Err(Errno::NOENT).at(Step::CwdOutside),
        Err(e) => Err(e).at(Step::Cwd),
    }
}

/// Lets the program open its own /dev/stdout again (runc's fixStdioPermissions).
fn own_streams(uid: u32, gid: u32) {
    for stream in 0..3 {
        let fd: BorrowedFd<'_> = file::borrow(stream);
        if let Ok(stat) = file::fstat(fd)
            && stat.uid != uid
            && !stat.is_char(1, 3)
        {
            // Not possible on a read-only file system or for an id that is not mapped.
            let _ = file::fchown(fd, uid, gid);
        }
    }
}

/// The index of the first candidate that may be executed.
fn find_program(process: &ProcessPlan) -> Result<usize> {
    let mut error = Errno::NOENT;
    for (i, path) in process.candidates.iter().enumerate() {
        match executable(path) {
            Ok(()) => return Ok(i),
            Err(e) => error = e,
        }
    }
    Err(error)
}

fn executable(path: &CStr) -> Result<()> {
    let stat = file::stat(path)?;
    if stat.is_dir() {
        return Err(Errno::ISDIR);
    }
    match file::executable(path) {
        // A filter that is older than the call; exec will tell.
        Err(Errno::NOSYS | Errno::PERM) if stat.mode & 0o111 != 0 => Ok(()),
        other => other,
    }
}

/// Blocks until `start` writes into the fifo, which this side holds open for both.
fn wait_for_start(fifo: &OwnedFd) -> Result<()> {
    // It may wait for long: the pages of the program that it needed until here come back from the
    // page cache if it needs them again.
    process::drop_program_pages();
    sys::retry(|| file::read(fifo.as_fd(), &mut [0u8; 1])).map(drop)
}

/// The line `HOME=…` for `uid` from the container's /etc/passwd, or the root directory.
fn home(uid: u32) -> &'static CStr {
    passwd::home(uid).unwrap_or(c"HOME=/")
}

mod passwd {
    //! /etc/passwd, read in pieces.

    use std::{ffi::CStr, os::fd::AsFd};

    use crate::sys::{file, strings};

    /// The longest line that is understood.
    const LINE: usize = 1024;

    pub(super) fn home(uid: u32) -> Option<&'static CStr> {
        let passwd = file::open(c"/etc/passwd", libc::O_RDONLY).ok()?;
        let mut line = [0u8; LINE];
        let mut len = 0;
        let mut chunk = [0u8; 4096];
        loop {
            let n = file::read(passwd.as_fd(), &mut chunk).ok()?;
            for &byte in &chunk[..n] {
                if byte != b'\n' {
                    if len < LINE {
                        line[len] = byte;
                    }
                    len += 1;
                    continue;
                }
                if let Some(home) = home_of(&line[..len.min(LINE)], uid) {
                    return strings::keep(b"HOME=", home);
                }
                len = 0;
            }
            if n == 0 {
                let home = home_of(&line[..len.min(LINE)], uid)?;
                return strings::keep(b"HOME=", home);
            }
        }
    }

    /// The sixth field when the third is `uid`.
    fn home_of(line: &[u8], uid: u32) -> Option<&[u8]> {
        let mut fields = line.split(|b| *b == b':');
        let id = fields.nth(2)?;
        let id: u32 = std::str::from_utf8(id).ok()?.parse().ok()?;
        (id == uid).then(|| fields.nth(2)).flatten().filter(|home| !home.is_empty())
    }

    #[cfg(test)]
    mod tests {
        use super::home_of;

        #[test]
        fn the_home_of_an_id() {
            assert_eq!(
                home_of(b"app:x:1000:1000:App:/home/app:/bin/sh", 1000),
                Some(&b"/home/app"[..])
            );
            assert_eq!(home_of(b"app:x:1000:1000:App:/home/app:/bin/sh", 100), None);
            assert_eq!(home_of(b"app:x:1000:1000:App::/bin/sh", 1000), None);
            assert_eq!(home_of(b"# a comment", 0), None);
        }
    }
}
