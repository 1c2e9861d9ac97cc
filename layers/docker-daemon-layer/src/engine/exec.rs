//! More processes in a container: exec create, start, inspect, resize.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use hops::{
    Cx, Handle, HandleStream, HopError, Inputs, Outputs, Result,
    docker::{
        Created, ExecCreate, ExecInspect, ExecResize, ExecStart, Json, Request,
        models::{ExecConfig, ExecInspectResponse, ProcessConfig},
    },
    proto::{
        Any,
        containerd::services::tasks::v1::{
            CloseIoRequest, DeleteProcessRequest, ExecProcessRequest, ResizePtyRequest,
            StartRequest,
        },
    },
};
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Engine,
    attach::{Stdin, detach_keys, until_detached},
    conflict,
    container::Container,
    exits::{End, not_running},
    lock,
    start::exit_code_of,
};
use crate::{
    names,
    record::Phase,
    spec::{self, rootfs, user},
    stdio::{
        Stream,
        frame::frame,
        hub::Hub,
        pump::{Paths, feed, pump},
    },
};

/// The type of a process's specification, as containerd's clients name it.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// A process that is to run, runs or ran in a container.
pub(super) struct Exec {
    id: String,
    container: Arc<Container>,
    config: ExecConfig,
    state: watch::Sender<State>,
    hub: Arc<Hub>,
    pump: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    begun: bool,
    runs: bool,
    pid: i64,
    exit_code: Option<i64>,
}

impl Exec {
    fn tty(&self) -> bool {
        self.config.tty == Some(true)
    }

    fn paths(&self, engine: &Engine) -> Paths {
        let stdin = self.config.attach_stdin == Some(true);
        Paths::of(&engine.io_dir(), &self.id, stdin, self.tty())
    }
}

impl Engine {
    fn exec(&self, id: &str) -> Result<Arc<Exec>> {
        lock(&self.execs)
            .get(id)
            .cloned()
            .ok_or_else(|| HopError::not_found(format!("No such exec instance: {id}")))
    }

    /// The ids of a container's execs that have not ended.
    pub(super) fn execs_of(&self, container: &str) -> Vec<String> {
        let execs = lock(&self.execs);
        let of = execs
            .values()
            .filter(|e| e.container.id == container && e.state.borrow().exit_code.is_none());
        of.map(|e| e.id.clone()).collect()
    }

    /// A container has ended, and with it all that was in it.
    pub(super) fn end_execs(&self, container: &str, end: End) {
        let running: Vec<_> = lock(&self.execs)
            .values()
            .filter(|e| e.container.id == container && e.state.borrow().runs)
            .cloned()
            .collect();
        for exec in running {
            // Their own ends may never be told: their task is deleted.
            exec.paths(self).remove();
            exec.state.send_modify(|s| {
                s.runs = false;
                s.exit_code.get_or_insert(i64::from(end.code));
            });
            exec.hub.end();
        }
    }

    /// A container is removed.
    pub(super) fn forget_execs(&self, container: &str) {
        lock(&self.execs).retain(|_, e| e.container.id != container);
    }

    /// An exec's process has ended.
    pub(super) async fn exec_ended(&self, id: &str, end: End) {
        let Ok(exec) = self.exec(id) else { return };
        let pump = lock(&exec.pump).take();
        if let Some(mut pump) = pump {
            let limit = std::time::Duration::from_secs(2);
            if tokio::time::timeout(limit, &mut pump).await.is_err() {
                pump.abort();
            }
        }
        let delete = DeleteProcessRequest {
            container_id: exec.container.id.clone(),
            exec_id: exec.id.clone(),
        };
        let _ = self.containerd.handle(&self.background(), delete).await;
        exec.paths(self).remove();
        exec.state.send_modify(|s| {
            s.runs = false;
            s.exit_code = Some(i64::from(end.code));
        });
        // The end of the streams is what a client takes for the end of the process: only now is
        // its exit code there to be asked for.
        exec.hub.end();
        let code = ("exitCode", end.code.to_string());
        self.tell(&exec.container, "exec_die", &[("execID", exec.id.clone()), code]);
    }

    /// Starts the process; on failure nothing of it is left but its exit code.
    async fn run(&self, cx: &Cx, exec: &Arc<Exec>) -> Result<()> {
        let named = self.named(cx);
        let started = self.launch_exec(&named, exec).await;
        let Err(error) = started else { return Ok(()) };
        if let Some(pump) = lock(&exec.pump).take() {
            pump.abort();
        }
        exec.paths(self).remove();
        let program = exec.config.cmd.iter().flatten().next().cloned().unwrap_or_default();
        let (code, error) = exit_code_of(&program, error);
        let code = if code == 128 { 126 } else { code };
        exec.state.send_modify(|s| {
            s.runs = false;
            s.exit_code = Some(code);
        });
        exec.hub.end();
        Err(error)
    }

    async fn launch_exec(&self, cx: &Cx, exec: &Arc<Exec>) -> Result<()> {
        let container = &exec.container;
        let config = &exec.config;
        let record = container.record();
        let user = match config.user.as_deref() {
            None | Some("") => record.config.user.clone().unwrap_or_default(),
            Some(user) => user.to_owned(),
        };
        let pid = record.state.pid;
        let identity = user::resolve(
            &user,
            record.host.group_add.as_deref().unwrap_or_default(),
            &rootfs::read_running(pid, "/etc/passwd"),
            &rootfs::read_running(pid, "/etc/group"),
        )?;
        let privileged = config.privileged == Some(true) || record.host.privileged == Some(true);
        let capabilities = spec::capabilities::of(
            record.host.cap_add.as_ref(),
            record.host.cap_drop.as_ref(),
            privileged,
        )?;
        let security = spec::Security::parse(record.host.security_opt.as_ref())?;
        let hostname = record.config.hostname.clone().unwrap_or_default();
        let mut environment = spec::environment(&record, &hostname);
        let asked = config.env.clone().unwrap_or_default();
        let key = |e: &str| e.split('=').next().unwrap_or_default().to_owned();
        let own: Vec<String> = asked.iter().map(|e| key(e)).collect();
        environment.retain(|e| !own.contains(&key(e)));
        environment.extend(asked.into_iter().filter(|e| e.contains('=')));
        if exec.tty() && !environment.iter().any(|e| e.starts_with("TERM=")) {
            environment.push("TERM=xterm".to_owned());
        }
        let cwd = [&config.working_dir, &record.config.working_dir]
            .into_iter()
            .flatten()
            .find(|d| !d.is_empty())
            .map_or("/", String::as_str);
        let process = json!({
            "terminal": exec.tty(),
            "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups},
            "args": config.cmd.clone().unwrap_or_default(),
            "env": environment,
            "cwd": cwd,
            "capabilities": spec::process_capabilities(&capabilities, identity.uid),
            "noNewPrivileges": security.no_new_privileges,
        });
        let paths = exec.paths(self);
        paths.make()?;
        let ends = paths.open()?;
        let request = ExecProcessRequest {
            container_id: container.id.clone(),
            exec_id: exec.id.clone(),
            stdin: Paths::text(&paths.stdin),
            stdout: Paths::text(&paths.stdout),
            stderr: Paths::text(&paths.stderr),
            terminal: exec.tty(),
            spec: Some(Any {
                type_url: PROCESS_TYPE.to_owned(),
                value: process.to_string().into_bytes(),
            }),
        };
        self.containerd.handle(cx, request).await?;
        *lock(&exec.pump) = Some(tokio::spawn(pump(ends, None, exec.hub.clone())));
        exec.state.send_modify(|s| s.runs = true);
        let start = StartRequest { container_id: container.id.clone(), exec_id: exec.id.clone() };
        match self.containerd.handle(cx, start).await {
            Ok(reply) => {
                exec.state.send_modify(|s| s.pid = i64::from(reply.pid));
                if let (Some(path), Some(input)) = (paths.stdin.clone(), exec.hub.take_input()) {
                    let engine = self.clone();
                    let (container_id, exec_id) = (container.id.clone(), exec.id.clone());
                    let close = move || -> futures_util::future::BoxFuture<'static, ()> {
                        Box::pin(async move {
                            let request = CloseIoRequest { container_id, exec_id, stdin: true };
                            let _ = engine.containerd.handle(&engine.background(), request).await;
                        })
                    };
                    tokio::spawn(feed(path, input, close));
                }
                Ok(())
            }
            Err(error) => {
                let delete = DeleteProcessRequest {
                    container_id: container.id.clone(),
                    exec_id: exec.id.clone(),
                };
                let _ = self.containerd.handle(cx, delete).await;
                Err(error)
            }
        }
    }
}

#[async_trait]
impl Handle<Request<ExecCreate>> for Engine {
    async fn handle(&self, _cx: &Cx, call: Request<ExecCreate>) -> Result<Json<Created>> {
        let container = self.find(&call.id)?;
        let config = call.body.0;
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            return Err(HopError::invalid("No exec command specified"));
        }
        match container.phase() {
            Phase::Running => {}
            Phase::Paused => {
                return Err(conflict(format!(
                    "Container {} is paused, unpause the container before exec",
                    container.id
                )));
            }
            Phase::Restarting => {
                return Err(conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            _ => return Err(not_running(&container.id)),
        }
        let id = names::id()?;
        let exec = Arc::new(Exec {
            id: id.clone(),
            hub: Arc::new(Hub::new(config.tty == Some(true))),
            container: container.clone(),
            config,
            state: watch::Sender::default(),
            pump: Mutex::new(None),
        });
        let line = exec.config.cmd.iter().flatten().cloned().collect::<Vec<_>>().join(" ");
        lock(&self.execs).insert(id.clone(), exec);
        self.tell(&container, &format!("exec_create: {line}"), &[("execID", id.clone())]);
        Ok(Json(Created { id }))
    }
}

#[async_trait]
impl HandleStream<Request<ExecStart>> for Engine {
    async fn stream(
        &self,
        cx: &Cx,
        call: Request<ExecStart>,
        input: Inputs<Bytes>,
    ) -> Result<Outputs<Bytes>> {
        let exec = self.exec(&call.id)?;
        if exec.container.phase() == Phase::Paused {
            let name = exec.container.name();
            return Err(conflict(format!("cannot exec in a paused container: {name}")));
        }
        if !exec.container.phase().runs() {
            return Err(not_running(&exec.container.id));
        }
        let mut first = false;
        exec.state.send_modify(|s| {
            first = !s.begun;
            s.begun = true;
        });
        if !first {
            return Err(conflict(format!("Error: Exec command {} is already running", exec.id)));
        }
        let keys = detach_keys(exec.config.detach_keys.as_deref())?;
        let line = exec.config.cmd.iter().flatten().cloned().collect::<Vec<_>>().join(" ");
        let started = ("execID", exec.id.clone());
        if call.body.detach == Some(true) {
            self.run(cx, &exec).await?;
            self.tell(&exec.container, &format!("exec_start: {line}"), &[started]);
            return Ok(Box::pin(stream::empty()));
        }
        let on = |flag: Option<bool>| flag == Some(true);
        let live = exec.hub.listen(on(exec.config.attach_stdout), on(exec.config.attach_stderr));
        if let Err(error) = self.run(cx, &exec).await {
            // The connection is taken over before the process is started: what went wrong is what
            // the client reads from it, and the exit code says the rest.
            let words = Bytes::from(format!("{}\r\n", error.message));
            let words = frame(exec.tty(), Stream::Stdout, words);
            return Ok(Box::pin(stream::once(std::future::ready(Ok(words)))));
        }
        self.tell(&exec.container, &format!("exec_start: {line}"), &[started]);
        if on(exec.config.attach_stdin) {
            let stdin = Stdin { keys, close: !exec.tty() };
            return Ok(until_detached(&exec.hub, live, input, stdin));
        }
        Ok(live)
    }
}

#[async_trait]
impl Handle<Request<ExecInspect>> for Engine {
    async fn handle(
        &self,
        _cx: &Cx,
        call: Request<ExecInspect>,
    ) -> Result<Json<ExecInspectResponse>> {
        let exec = self.exec(&call.id)?;
        let state = exec.state.borrow().clone();
        let config = &exec.config;
        let on = |flag: Option<bool>| Some(flag == Some(true));
        let mut words = config.cmd.iter().flatten().cloned();
        Ok(Json(ExecInspectResponse {
            can_remove: Some(false),
            detach_keys: Some(config.detach_keys.clone().unwrap_or_default()),
            id: Some(exec.id.clone()),
            running: Some(state.runs),
            exit_code: state.exit_code,
            process_config: Some(ProcessConfig {
                privileged: on(config.privileged),
                user: config.user.clone(),
                tty: on(config.tty),
                entrypoint: words.next(),
                arguments: Some(words.collect()),
            }),
            open_stdin: on(config.attach_stdin),
            open_stderr: on(config.attach_stderr),
            open_stdout: on(config.attach_stdout),
            container_id: Some(exec.container.id.clone()),
            pid: Some(state.pid),
        }))
    }
}

#[async_trait]
impl Handle<Request<ExecResize>> for Engine {
    async fn handle(&self, cx: &Cx, call: Request<ExecResize>) -> Result<()> {
        let exec = self.exec(&call.id)?;
        // The client asks for the size as soon as it has asked for the start.
        let mut state = exec.state.subscribe();
        let begun = state.wait_for(|s| s.pid != 0 || s.exit_code.is_some());
        let limit = std::time::Duration::from_secs(10);
        if tokio::time::timeout(limit, begun).await.is_err() {
            return Err(HopError::internal("timeout waiting for exec session ready"));
        }
        let resize = ResizePtyRequest {
            container_id: exec.container.id.clone(),
            exec_id: exec.id.clone(),
            width: u32::from(call.query.w.unwrap_or(0)),
            height: u32::from(call.query.h.unwrap_or(0)),
        };
        self.containerd.handle(&self.named(cx), resize).await
    }
}
