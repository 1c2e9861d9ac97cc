//! From a container to a task, and back.

use super::{
    Bundle, Endpoint, Exit, Shim, Task, Tasks,
    bundle::{Home, TASKS},
    launch::program_of,
    shim::ShimLog,
};
use crate::Error;
use hops::{
    Cx, HopError,
    proto::containerd::{
        services::{containers::v1::Container, tasks::v1::CreateTaskRequest},
        task::v2 as shim,
    },
};
use serde::Deserialize;
use std::{collections::HashMap, path::Path};
use tokio::sync::watch;

/// The annotation by which containers are one pod to a shim (the CRI's).
const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";

impl Tasks {
    /// Creates the task of `container`: bundle, shim, and in it the process, which waits for its
    /// start. Answers the process's pid. When a part fails, those before it are taken back.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the shim and its runtime said.
    pub(super) async fn create(
        &self,
        cx: &Cx,
        ns: &str,
        container: Container,
        request: CreateTaskRequest,
    ) -> hops::Result<u32> {
        let id = container.id.clone();
        if self.get(ns, &id).is_ok() {
            return Err(Error::already_exists(format_args!("task {id}")).into());
        }
        let runtime = container.runtime.clone().unwrap_or_default();
        let name = Some(request.runtime_path.clone()).filter(|path| !path.is_empty());
        let name = name.unwrap_or(runtime.name);
        let sandbox = self.sandbox(ns, &container.sandbox).ok();
        let program = match &sandbox {
            Some(sandbox) => sandbox.program.clone(),
            None => program_of(&name)?,
        };
        let spec = container.spec.unwrap_or_default().value;
        let bundle = Bundle::create(Home(&self.0.state, TASKS), ns, &id, &spec)?;
        let options = request.options.clone().or(runtime.options);
        let attached = match sandbox {
            Some(sandbox) => bundle
                .set_sandbox(&container.sandbox)
                .map(|()| sandbox.shim.clone())
                .map_err(From::from),
            None => match self.neighbour(ns, &id, &name, &container.sandbox, &spec) {
                Some(shim) => Ok(shim),
                None => self.launch(cx, &program, (ns, &id, &bundle), options.as_ref()).await,
            },
        };
        let shim = match attached {
            Ok(shim) => shim,
            Err(e) => {
                self.clear(ns, &id, &program, &bundle).await;
                return Err(e);
            }
        };
        let started = async {
            bundle.set_shim(&program, shim.endpoint())?;
            let create = shim::CreateTaskRequest {
                id: id.clone(),
                bundle: bundle.path().display().to_string(),
                rootfs: request.rootfs,
                terminal: request.terminal,
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                options,
                ..Default::default()
            };
            shim.call(cx, create).await
        };
        match started.await {
            Ok(created) => {
                let end = watch::Sender::new(None);
                let (ns, runtime) = (ns.to_owned(), name);
                let task = Task { ns, id, runtime, program, bundle, shim, end };
                let task = self.add(task);
                if task.shim.is_closed() {
                    // It died before its task was known to be among the bereaved.
                    self.lost(&task.shim).await;
                }
                Ok(created.pid)
            }
            Err(e) => {
                self.part(&cx.detached(), &shim, &id).await;
                self.clear(ns, &id, &program, &bundle).await;
                Err(e.context("failed to create shim task"))
            }
        }
    }

    /// The living shim of the sandbox that the container says it belongs to.
    fn neighbour(
        &self,
        ns: &str,
        id: &str,
        runtime: &str,
        sandbox: &str,
        spec: &[u8],
    ) -> Option<Shim> {
        let sandbox = match sandbox {
            "" => sandbox_of(spec)?,
            sandbox => sandbox.to_owned(),
        };
        let task = (sandbox != id).then(|| self.get(ns, &sandbox).ok())??;
        (task.runtime == runtime && !task.shim.is_closed()).then(|| task.shim.clone())
    }

    pub(super) async fn launch(
        &self,
        cx: &Cx,
        program: &Path,
        (ns, id, bundle): (&str, &str, &Bundle),
        options: Option<&hops::proto::Any>,
    ) -> hops::Result<Shim> {
        let log = ShimLog::open(bundle)?;
        let launcher = &self.0.launcher;
        let endpoint = launcher.start(cx, program, (ns, id, bundle.path()), options).await?;
        let shim = self.attach(&endpoint).await?;
        log.follow(&shim);
        Ok(shim)
    }

    /// The connection to the shim at `endpoint`, made where there is none.
    pub(super) async fn attach(&self, endpoint: &Endpoint) -> hops::Result<Shim> {
        let address = &endpoint.address;
        if let Some(shim) = self.known().shims.get(address).filter(|shim| !shim.is_closed()) {
            return Ok(shim.clone());
        }
        let shim = Shim::connect(endpoint, self.0.launcher.spans.clone()).await?;
        self.known().shims.insert(address.to_owned(), shim.clone());
        let (tasks, watched) = (self.clone(), shim.clone());
        tokio::spawn(async move {
            watched.closed().await;
            tasks.lost(&watched).await;
        });
        Ok(shim)
    }

    /// Deletes a task that has ended, and its shim with the last task of it.
    ///
    /// # Errors
    /// The shim's own, such as that the task still runs.
    pub(super) async fn delete(&self, cx: &Cx, task: &Task) -> hops::Result<Exit> {
        let request = shim::DeleteRequest { id: task.id.clone(), ..Default::default() };
        let deleted = match task.shim.call(cx, request).await {
            Ok(deleted) => deleted,
            Err(e) if task.shim.is_closed() => {
                // The shim died under it: what its program's clean-up finds is the answer.
                return self.ended(task).await.ok_or(e);
            }
            Err(e) => return Err(e),
        };
        let exit = Exit { pid: deleted.pid, status: deleted.exit_status, at: deleted.exited_at };
        if self.take(task).is_some() {
            let bundle = task.bundle.clone();
            let removed = tokio::task::spawn_blocking(move || bundle.remove());
            let ((), removed) = tokio::join!(self.part(cx, &task.shim, &task.id), removed);
            removed.map_err(|e| HopError::internal(e.to_string()))??;
        }
        Ok(exit)
    }

    /// Lets a shim go that has no task left.
    pub(super) async fn part(&self, cx: &Cx, shim: &Shim, id: &str) {
        if self.shared(shim) {
            return;
        }
        let request = shim::ShutdownRequest { id: id.to_owned(), now: false };
        match shim.ask(cx, request).await {
            Err(e) if !shim.is_closed() => tracing::warn!(id, error = %e, "shim shutdown"),
            _ => self.leaves(shim),
        }
    }

    /// Takes a shim that was sent away for gone. The next of its name has its address, and is not
    /// to be taken for it; and the real one stays for seconds while anybody is connected to it.
    pub(super) fn leaves(&self, shim: &Shim) {
        self.known().forget(shim);
        shim.close();
    }

    /// Removes what a failed creation left.
    pub(super) async fn clear(&self, ns: &str, id: &str, program: &Path, bundle: &Bundle) {
        let deleted = self.0.launcher.delete(program, (ns, id, bundle.path())).await;
        if let Err(e) = deleted {
            tracing::debug!(id, error = %e, "shim delete");
        }
        if let Err(e) = bundle.remove() {
            tracing::warn!(id, error = %e, "removing a bundle after a failure");
        }
    }
}

/// The sandbox that an OCI configuration names.
fn sandbox_of(spec: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: HashMap<String, String>,
    }
    let mut spec: Annotated = serde_json::from_slice(spec).ok()?;
    spec.annotations.remove(SANDBOX)
}
