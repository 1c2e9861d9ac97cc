//! Terminals.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{Result, check_int, owned};

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

/// Lets the other side of the master be opened.
pub(crate) fn unlock(master: BorrowedFd<'_>) -> Result<()> {
    let locked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check_int(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &locked) }).map(drop)
}

/// The other side of the master, found by the kernel and not by a path.
pub(crate) fn peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value.
    owned(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) as libc::c_long })
}

/// Makes `slave` the controlling terminal of this session.
pub(crate) fn control(slave: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    check_int(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

pub(crate) fn set_size(tty: BorrowedFd<'_>, size: Size) -> Result<()> {
    let size =
        libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check_int(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(drop)
}

pub(crate) fn size(tty: BorrowedFd<'_>) -> Result<Size> {
    // SAFETY: TIOCGWINSZ fills one winsize, for which zeros are valid.
    unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        check_int(libc::ioctl(tty.as_raw_fd(), libc::TIOCGWINSZ, &mut size))?;
        Ok(Size { rows: size.ws_row, columns: size.ws_col })
    }
}

/// A terminal's settings, to be put back.
pub(crate) struct Settings(libc::termios);

/// Puts the terminal into raw mode and answers the settings it had.
pub(crate) fn make_raw(tty: BorrowedFd<'_>) -> Result<Settings> {
    // SAFETY: tcgetattr fills the zeroed termios; cfmakeraw edits a valid one.
    unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        check_int(libc::tcgetattr(tty.as_raw_fd(), &mut settings))?;
        let mut raw = settings;
        libc::cfmakeraw(&mut raw);
        check_int(libc::tcsetattr(tty.as_raw_fd(), libc::TCSANOW, &raw))?;
        Ok(Settings(settings))
    }
}

/// Turns off the translation of newlines on output, as runc does before it hands a master over.
pub(crate) fn clear_newline_translation(tty: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: tcgetattr fills the zeroed termios.
    unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        check_int(libc::tcgetattr(tty.as_raw_fd(), &mut settings))?;
        settings.c_oflag &= !libc::ONLCR;
        check_int(libc::tcsetattr(tty.as_raw_fd(), libc::TCSANOW, &settings)).map(drop)
    }
}

pub(crate) fn restore(tty: BorrowedFd<'_>, settings: &Settings) -> Result<()> {
    // SAFETY: the settings came from tcgetattr.
    check_int(unsafe { libc::tcsetattr(tty.as_raw_fd(), libc::TCSADRAIN, &settings.0) }).map(drop)
}
