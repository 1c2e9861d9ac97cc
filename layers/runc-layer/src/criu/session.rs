//! One execution of CRIU and the talk with it.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::{Child, Command, Stdio},
};

use super::{
    Kind, Message,
    message::{self, Answer},
};
use crate::{
    Error, Result,
    error::Context,
    sys::{file, socket},
};

/// How long CRIU's messages may be, in bytes; runc has the same buffer.
const LONGEST: usize = 10 * 4096;

/// A step that CRIU tells of and that it waits at until the answer.
pub(crate) struct Notice {
    /// The step's name, of those in its manual ("--action-script").
    pub(crate) step: String,
    /// The process, at steps that have one.
    pub(crate) pid: i32,
    /// The master of a terminal that nobody in the container has open.
    pub(crate) terminal: Option<OwnedFd>,
}

/// A running CRIU.
pub(crate) struct Session {
    socket: Option<OwnedFd>,
    child: Child,
}

impl Session {
    /// Executes `program` with the descriptors `inherited`, under the numbers that they have here.
    /// The caller's standard streams, which may be a container's, it gets only for a `shell_job`,
    /// whose terminal it finds by them.
    ///
    /// # Errors
    ///
    /// The kernel's refusals; that there is no such program, in the words that runc has for it.
    pub(crate) fn start(program: &str, inherited: &[OwnedFd], shell_job: bool) -> Result<Session> {
        let (ours, theirs) = socket::pair().context(|| "socketpair".to_owned())?;
        for fd in inherited.iter().chain([&theirs]) {
            file::dup_onto(fd.as_raw_fd(), fd.as_raw_fd()).context(|| "fcntl".to_owned())?;
        }
        let socket = theirs.as_raw_fd().to_string();
        let mut command = Command::new(program);
        command.args(["swrk", &socket]);
        if !shell_job {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        }
        let child = command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound if !program.contains('/') => {
                Error::Invalid(format!("exec: {program:?}: executable file not found in $PATH"))
            }
            _ => Error::os(format!("fork/exec {program}"), e.into()),
        })?;
        Ok(Session { socket: Some(ours), child })
    }

    /// CRIU's pid.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Sends `request` and hears every notice until the answer comes.
    ///
    /// # Errors
    ///
    /// CRIU's failure, and those of `notice`.
    pub(crate) fn ask(
        &mut self,
        request: &Message,
        notice: &mut dyn FnMut(Notice) -> Result<()>,
    ) -> Result<Answer> {
        let Some(socket) = &self.socket else { return Err(Error::Criu("has ended".into())) };
        let send = |message: &Message| {
            socket::send(socket.as_fd(), message.encoded()).context(|| "send to criu".to_owned())
        };
        send(request)?;
        let mut buffer = vec![0; LONGEST];
        loop {
            let (n, fd) = socket::receive(socket.as_fd(), &mut buffer)
                .context(|| "receive from criu".to_owned())?;
            if n == 0 {
                return Err(Error::Criu("unexpected EOF".into()));
            }
            let answer = match buffer.get(..n).filter(|part| part.len() < LONGEST) {
                Some(part) => Answer::decode(part),
                None => None,
            };
            let unknown = || Error::Criu("unable to parse the response".into());
            let answer = answer.ok_or_else(unknown)?;
            let kind = Kind::from_number(answer.kind).ok_or_else(unknown)?;
            if !answer.success {
                let errno = answer.errno;
                return Err(Error::Criu(format!("type {} errno {errno}", kind.name())));
            }
            if kind != Kind::Notify {
                return Ok(answer);
            }
            notice(Notice { step: answer.script, pid: answer.pid, terminal: fd })?;
            let mut reply = message::Message::default();
            reply.number(1, Kind::Notify as i64);
            reply.flag(3, true);
            send(&reply)?;
        }
    }

    /// Waits for CRIU's end.
    ///
    /// # Errors
    ///
    /// Its exit status, when that is not 0.
    pub(crate) fn end(mut self) -> Result<()> {
        self.socket = None;
        let status = self.child.wait().context(|| "wait for criu".to_owned())?;
        if status.success() { Ok(()) } else { Err(Error::Criu(status.to_string())) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Without the socket it takes back what it has begun.
        self.socket = None;
        let _ = self.child.wait();
    }
}
