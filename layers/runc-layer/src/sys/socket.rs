//! Unix sockets with descriptors in their messages, and the loopback device.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
};

use super::{Errno, Result, check, check_int, owned};

/// Two ends of a socket that keeps message boundaries.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    // SAFETY: `fds` has room for two.
    check_int(unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            fds.as_mut_ptr(),
        )
    })?;
    // SAFETY: the kernel just made both.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Connects to the stream socket at `path`.
pub(crate) fn connect(path: &Path) -> Result<OwnedFd> {
    Ok(std::os::unix::net::UnixStream::connect(path)?.into())
}

/// Connects to the stream socket `name`, a path or a name of the abstract namespace, and waits at
/// most `patience` for room in its queue.
pub(crate) fn connect_within(
    name: &[u8],
    is_abstract: bool,
    patience: std::time::Duration,
) -> Result<OwnedFd> {
    // SAFETY: plain arguments.
    let socket = owned(unsafe {
        libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) as libc::c_long
    })?;
    // SAFETY: an address of zeros is one.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let first = usize::from(is_abstract);
    // A path keeps its zero at the end.
    let Some(room) = address.sun_path.get_mut(first..first + name.len() + 1 - first) else {
        return Err(Errno::NAMETOOLONG);
    };
    for (to, from) in room.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    let len = std::mem::offset_of!(libc::sockaddr_un, sun_path) + name.len() + 1;
    let time = libc::timeval {
        tv_sec: patience.as_secs() as libc::time_t,
        tv_usec: patience.subsec_micros() as libc::suseconds_t,
    };
    // SAFETY: the option and the address are live values with their sizes; `len` is within the
    // address, which the slice above has proven.
    unsafe {
        check_int(libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDTIMEO,
            (&raw const time).cast(),
            size_of::<libc::timeval>() as libc::socklen_t,
        ))?;
        super::retry(|| {
            check_int(libc::connect(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                len as libc::socklen_t,
            ))
        })?;
    }
    Ok(socket)
}

const CONTROL: usize = 32;

#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Sends `bytes`, never raising SIGPIPE.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<()> {
    super::retry(|| {
        // SAFETY: pointer and length are those of `bytes`.
        check(unsafe {
            libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL)
                as libc::c_long
        })
    })
    .map(drop)
}

/// Sends `bytes` with a copy of the descriptor `fd`.
pub(crate) fn send_fd(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() };
    // SAFETY: the header points to live buffers with their sizes; CONTROL holds one descriptor's
    // record (CMSG_SPACE(4) is 24), so CMSG_FIRSTHDR is not null and its data is in bounds.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let record = libc::CMSG_FIRSTHDR(&header);
        (*record).cmsg_level = libc::SOL_SOCKET;
        (*record).cmsg_type = libc::SCM_RIGHTS;
        (*record).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(record).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
        super::retry(|| {
            check(libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_NOSIGNAL) as libc::c_long)
        })
        .map(drop)
    }
}

/// Receives one message into `buffer`, and the descriptor in it if there is one. Zero bytes mean
/// that the other end is closed.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<(usize, Option<OwnedFd>)> {
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the header points to live buffers with their sizes; a record is read only where
    // CMSG_FIRSTHDR finds one, and a received descriptor has no other owner.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL;
        let n = super::retry(|| {
            check(libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC)
                as libc::c_long)
        })?;
        let record = libc::CMSG_FIRSTHDR(&header);
        let fd = (!record.is_null()
            && (*record).cmsg_type == libc::SCM_RIGHTS
            && (*record).cmsg_len >= libc::CMSG_LEN(4) as usize)
            .then(|| {
                OwnedFd::from_raw_fd(libc::CMSG_DATA(record).cast::<RawFd>().read_unaligned())
            });
        Ok((n as usize, fd))
    }
}

/// A socket to the kernel's routing (rtnetlink(7)) of this thread's network namespace.
pub(crate) fn netlink_route() -> Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: plain arguments.
    owned(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) as libc::c_long })
}

/// Takes the loopback device of this network namespace up.
pub(crate) fn loopback_up() -> Result<()> {
    // SAFETY: plain arguments.
    let socket = owned(unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) as libc::c_long
    })?;
    // SAFETY: the ifreq is zeroed, named and given flags; the call reads it.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        check_int(libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS as _, &request))
    }
    .map(drop)
}

/// The name of a path in errors.
pub(crate) fn c_path(path: &Path) -> Result<std::ffi::CString> {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)
}
