//! The runtime as the `Oci` face, for a caller in the same process.
//!
//! Every verb is answered before its future is first polled to its end: nothing here waits for
//! anything but the kernel. A caller with an async runtime uses a thread that may block.

use async_trait::async_trait;
use hops::{Cx, Handle, HopError, Kind, oci};

use crate::{Create, Error, Exec, ExecProcess, Runtime};

impl From<Error> for HopError {
    fn from(error: Error) -> HopError {
        let kind = match &error {
            Error::NotExist => Kind::NotFound,
            Error::Exist => Kind::AlreadyExists,
            Error::InvalidId | Error::NoConfig | Error::Spec { .. } | Error::Invalid(_) => {
                Kind::InvalidArgument
            }
            Error::NotRunning | Error::State(_) => Kind::FailedPrecondition,
            Error::Os { errno, .. } => match errno.0 {
                libc::EPERM | libc::EACCES => Kind::PermissionDenied,
                libc::ENOSPC | libc::EDQUOT | libc::ENOMEM | libc::EAGAIN => {
                    Kind::ResourceExhausted
                }
                _ => Kind::Internal,
            },
            Error::Start(_) | Error::Systemd(_) | Error::Criu(_) => Kind::Internal,
        };
        HopError::new(kind, error.to_string()).because(error)
    }
}

/// The standard streams of a request; what is absent is `/dev/null`.
fn stdio(stdio: oci::Stdio) -> hops::Result<[Option<std::os::fd::OwnedFd>; 3]> {
    let null = || std::fs::File::options().read(true).write(true).open("/dev/null");
    let mut streams = [stdio.stdin, stdio.stdout, stdio.stderr];
    for stream in &mut streams {
        if stream.is_none() {
            *stream = Some(null()?.into());
        }
    }
    Ok(streams)
}

fn json(value: &impl serde::Serialize) -> hops::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| HopError::invalid(e.to_string()))
}

macro_rules! answers {
    ($($op:ident($runtime:ident, $request:ident) => $answer:expr;)*) => {
        $(#[async_trait]
        impl Handle<oci::$op> for Runtime {
            async fn handle(
                &self,
                _: &Cx,
                $request: oci::$op,
            ) -> hops::Result<<oci::$op as hops::Op>::Reply> {
                let $runtime = self;
                Ok($answer)
            }
        })*
    };
}

answers! {
    Create(runtime, r) => {
        runtime.create(Create {
            id: r.id,
            bundle: r.bundle,
            console_socket: r.console_socket,
            pid_file: r.pid_file,
            no_pivot: r.no_pivot,
            no_new_keyring: r.no_new_keyring,
            stdio: stdio(r.stdio)?,
            ..Create::default()
        })?;
    };
    Start(runtime, r) => runtime.start(&r.id)?;
    State(runtime, r) => {
        let state = runtime.state(&r.id)?;
        oci::ContainerState {
            version: state.oci_version,
            id: state.id,
            status: state.status.name().to_owned(),
            pid: state.pid,
            bundle: state.bundle,
            annotations: Some(state.annotations).filter(|a| !a.is_empty()),
        }
    };
    Kill(runtime, r) => runtime.kill(&r.id, r.signal, r.all)?;
    Delete(runtime, r) => runtime.delete(&r.id, r.force)?;
    Exec(runtime, r) => {
        runtime.exec(Exec {
            id: r.id,
            process: ExecProcess::Json(json(&r.process)?),
            pid_file: r.pid_file,
            console_socket: r.console_socket,
            stdio: stdio(r.stdio)?,
            ..Exec::default()
        })?;
    };
    Pause(runtime, r) => runtime.pause(&r.id)?;
    Resume(runtime, r) => runtime.resume(&r.id)?;
    Update(runtime, r) => runtime.update(&r.id, &json(&r.resources)?)?;
    Ps(runtime, r) => runtime.ps(&r.id)?;
    Stats(runtime, r) => {
        let data = runtime.stats(&r.id)?;
        serde_json::json!({"type": "stats", "id": r.id, "data": data})
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The engine is the whole face.
    fn _is_the_face(runtime: Runtime) -> Box<dyn oci::Oci> {
        Box::new(runtime)
    }

    #[test]
    fn errors_say_what_kind_they_are() {
        assert_eq!(HopError::from(Error::NotExist).kind, Kind::NotFound);
        assert_eq!(HopError::from(Error::NotRunning).kind, Kind::FailedPrecondition);
        let refused = Error::Os { what: "mkdir".into(), errno: crate::Errno(libc::EACCES) };
        assert_eq!(HopError::from(refused).kind, Kind::PermissionDenied);
    }
}
