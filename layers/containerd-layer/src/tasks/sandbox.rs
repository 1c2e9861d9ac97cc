//! Sandboxes: shims that have a sandbox of their own, as containerd's `shim` controller runs them
//! (containerd 2.x, plugins/sandbox/controller.go), in bundles beside those of tasks.

use super::{
    Bundle, Exit, Shim, Task, Tasks,
    bundle::{Home, SANDBOXES},
    launch::program_of,
    load::follow_log,
    mourn,
};
use crate::{Error, Kind, error::During, metadata::identifier};
use hops::{
    Cx, HopError, Result,
    proto::containerd::{
        runtime::sandbox::v1::{
            CreateSandboxRequest, SandboxStatusRequest, ShutdownSandboxRequest,
            StartSandboxRequest, StartSandboxResponse, WaitSandboxRequest,
        },
        services::sandbox::v1::ControllerCreateRequest,
        types,
    },
};
use std::{collections::HashMap, path::PathBuf, sync::Arc};
use tokio::sync::watch;

/// One sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    ns: String,
    id: String,
    pub(super) program: PathBuf,
    bundle: Bundle,
    pub(super) shim: Shim,
    /// How it ended, once its shim cannot say so any more.
    end: watch::Sender<Option<Exit>>,
}

impl Tasks {
    /// The sandbox `id`.
    ///
    /// # Errors
    /// `NotFound` in containerd's word.
    pub(super) fn sandbox(&self, ns: &str, id: &str) -> crate::Result<Arc<Sandbox>> {
        let sandbox = self.known().sandboxes.get(&(ns.to_owned(), id.to_owned())).cloned();
        sandbox.ok_or_else(|| Error::new(Kind::NotFound, "not found"))
    }

    /// Whether a sandbox, or what stood for one before there were any, a task, has a shim.
    pub(super) fn has_shim(&self, ns: &str, id: &str) -> bool {
        self.sandbox(ns, id).is_ok() || self.get(ns, id).is_ok()
    }

    /// Creates the sandbox that `info` describes: bundle, shim, and in it the sandbox. When a part
    /// fails, those before it are taken back.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the shim said: `Unimplemented` from one that has no sandboxes.
    pub(super) async fn create_sandbox(
        &self,
        cx: &Cx,
        ns: &str,
        info: types::Sandbox,
        request: ControllerCreateRequest,
    ) -> Result<()> {
        let id = info.sandbox_id;
        if self.has_shim(ns, &id) {
            let running = format_args!("sandbox {id} already running");
            return Err(Error::already_exists(running).into());
        }
        identifier::validate(&id).during(|| format!("invalid task id {id}"))?;
        let runtime = info.runtime.unwrap_or_default();
        let program = program_of(&runtime.name).map_err(|e| starting(&id, e.into()))?;
        let spec = info.spec.unwrap_or_default().value;
        let bundle = Bundle::create(Home(&self.0.state, SANDBOXES), ns, &id, &spec)?;
        let (place, options) = ((ns, id.as_str(), &bundle), runtime.options.as_ref());
        let shim = match self.launch(cx, &program, place, options).await {
            Ok(shim) => shim,
            Err(e) => {
                self.clear(ns, &id, &program, &bundle).await;
                return Err(starting(&id, e));
            }
        };
        let created = async {
            bundle.set_shim(&program, shim.endpoint())?;
            let create = CreateSandboxRequest {
                sandbox_id: id.clone(),
                bundle_path: bundle.path().display().to_string(),
                rootfs: request.rootfs,
                options: request.options,
                netns_path: request.netns_path,
                annotations: request.annotations,
            };
            shim.call(cx, create).await
        };
        if let Err(e) = created.await {
            self.dismiss(&cx.detached(), &shim, &id).await;
            self.clear(ns, &id, &program, &bundle).await;
            return Err(native(e).context(format_args!("failed to create sandbox {id}")));
        }
        self.keep(ns.to_owned(), id, program, bundle, shim).await;
        Ok(())
    }

    /// Makes a sandbox known.
    async fn keep(&self, ns: String, id: String, program: PathBuf, bundle: Bundle, shim: Shim) {
        let end = watch::Sender::new(None);
        let (key, shim_too) = ((ns.clone(), id.clone()), shim.clone());
        let sandbox = Arc::new(Sandbox { ns, id, program, bundle, shim, end });
        self.known().sandboxes.insert(key, sandbox);
        if shim_too.is_closed() {
            // It died before its sandbox was known to be bereaved.
            self.lost(&shim_too).await;
        }
    }

    /// Starts a sandbox. One that cannot be started is removed, as containerd does.
    ///
    /// # Errors
    /// The shim's own.
    pub(super) async fn start_sandbox(
        &self,
        cx: &Cx,
        sandbox: &Sandbox,
    ) -> Result<StartSandboxResponse> {
        let request = StartSandboxRequest { sandbox_id: sandbox.id.clone() };
        match sandbox.shim.call(cx, request).await {
            Ok(started) => Ok(started),
            Err(e) => {
                if self.take_sandbox(sandbox).is_some() {
                    self.dismiss(&cx.detached(), &sandbox.shim, &sandbox.id).await;
                    self.bury_sandbox(sandbox).await;
                }
                Err(native(e).context(format_args!("failed to start sandbox {}", sandbox.id)))
            }
        }
    }

    /// Waits for the end of a sandbox, which that of its shim is too.
    ///
    /// # Errors
    /// The shim's own.
    pub(super) async fn wait_sandbox(&self, cx: &Cx, sandbox: &Sandbox) -> Result<Exit> {
        let request = WaitSandboxRequest { sandbox_id: sandbox.id.clone() };
        match sandbox.shim.call(cx, request).await {
            Ok(ended) => Ok(Exit { pid: 0, status: ended.exit_status, at: ended.exited_at }),
            Err(e) if sandbox.shim.is_closed() => mourn::end_of(&sandbox.end).await.ok_or(e),
            Err(e) => Err(native(e).context(format_args!("failed to wait sandbox {}", sandbox.id))),
        }
    }

    /// Removes a sandbox with all that is in it, its shim and its bundle.
    ///
    /// # Errors
    /// The shim's own.
    pub(super) async fn shutdown_sandbox(&self, cx: &Cx, sandbox: &Sandbox) -> Result<()> {
        let Some(taken) = self.take_sandbox(sandbox) else {
            // Whoever took it cleans up.
            mourn::end_of(&sandbox.end).await;
            return Ok(());
        };
        // The shim deletes its members and tells of it: nobody else is to do so when it goes.
        let members = self.take_members(&sandbox.shim);
        let request = ShutdownSandboxRequest { sandbox_id: sandbox.id.clone() };
        let told = sandbox.shim.call(cx, request).await;
        if let Err(e) = told {
            if !sandbox.shim.is_closed() {
                let mut known = self.known();
                known.tasks.extend(members);
                known.sandboxes.insert((sandbox.ns.clone(), sandbox.id.clone()), taken);
                return Err(native(e).context("failed to shutdown sandbox"));
            }
            for task in members.values() {
                let exit = self.bury(&task.ns, &task.id, &task.program, &task.bundle).await;
                task.end.send_replace(Some(exit));
            }
        } else {
            self.leaves(&sandbox.shim);
            for task in members.values() {
                let exit = self.remains(&task.ns, &task.id, &task.program, &task.bundle).await;
                task.end.send_replace(Some(exit));
            }
        }
        self.bury_sandbox(sandbox).await;
        Ok(())
    }

    fn take_members(&self, shim: &Shim) -> HashMap<(String, String), Arc<Task>> {
        self.known().tasks.extract_if(|_, task| task.shim == *shim).collect()
    }

    /// Forgets a sandbox; whoever gets it back is the one to clean up after it.
    fn take_sandbox(&self, sandbox: &Sandbox) -> Option<Arc<Sandbox>> {
        self.known().sandboxes.remove(&(sandbox.ns.clone(), sandbox.id.clone()))
    }

    /// Cleans up after the sandboxes of a shim that has gone.
    pub(super) async fn lost_sandboxes(&self, shim: &Shim) {
        let of_shim = |sandbox: &&Arc<Sandbox>| sandbox.shim == *shim;
        let bereaved: Vec<_> = self.known().sandboxes.values().filter(of_shim).cloned().collect();
        for sandbox in bereaved {
            tracing::warn!(ns = sandbox.ns, id = sandbox.id, "the shim of a sandbox died");
            if self.take_sandbox(&sandbox).is_some() {
                self.bury_sandbox(&sandbox).await;
            }
        }
    }

    /// Removes what is left of a sandbox whose shim is gone.
    async fn bury_sandbox(&self, sandbox: &Sandbox) {
        let Sandbox { ns, id, program, bundle, end, .. } = sandbox;
        let exit = self.remains(ns, id, program, bundle).await;
        end.send_replace(Some(exit));
    }

    /// Ends a shim whose sandbox came to nothing: one that has sandboxes by their service, and one
    /// that has none as a shim without tasks.
    async fn dismiss(&self, cx: &Cx, shim: &Shim, id: &str) {
        let request = ShutdownSandboxRequest { sandbox_id: id.to_owned() };
        match shim.ask(cx, request).await {
            Err(e) if e.kind == hops::Kind::Unimplemented => self.part(cx, shim, id).await,
            Err(e) if !shim.is_closed() => tracing::warn!(id, error = %e, "sandbox shutdown"),
            _ => self.leaves(shim),
        }
    }

    /// Finds the sandboxes of the daemon before this one; one whose shim is gone is cleaned up.
    pub(super) async fn load_sandboxes(&self, bundles: Vec<(String, String, Bundle)>) {
        for (ns, id, bundle) in bundles {
            let program = bundle.program();
            let shim = match bundle.endpoint() {
                Some(endpoint) => self.attach(&endpoint).await.ok(),
                None => None,
            };
            let cx = Cx::background().in_namespace(ns.clone());
            let status = SandboxStatusRequest { sandbox_id: id.clone(), verbose: false };
            let known = match &shim {
                Some(shim) => shim.ask(&cx, status).await.is_ok(),
                None => false,
            };
            match (shim, program) {
                (Some(shim), Some(program)) if known => {
                    tracing::info!(ns, id, "found a sandbox");
                    follow_log(&ns, &id, &bundle, &shim);
                    self.keep(ns, id, program, bundle, shim).await;
                }
                (shim, Some(program)) => {
                    tracing::info!(ns, id, "cleaning up a sandbox that is gone");
                    if let Some(shim) = shim {
                        self.dismiss(&cx, &shim, &id).await;
                    }
                    self.remains(&ns, &id, &program, &bundle).await;
                }
                (_, None) => {
                    if let Err(e) = bundle.remove() {
                        tracing::warn!(ns, id, error = %e, "removing a bundle without a shim");
                    }
                }
            }
        }
    }
}

fn starting(id: &str, mut error: HopError) -> HopError {
    // What a launch says already begins so.
    let words = error.message.strip_prefix("failed to start shim: ").unwrap_or(&error.message);
    error.message = format!("failed to start new shim for sandbox {id}: {words}");
    error
}

/// A shim's error as containerd words those that came over a wire: with the name of their kind
/// behind, where it does not stand there already (errgrpc.ToNative).
pub(super) fn native(mut error: HopError) -> HopError {
    let name = match error.kind {
        hops::Kind::NotFound => "not found",
        hops::Kind::AlreadyExists => "already exists",
        hops::Kind::InvalidArgument => "invalid argument",
        hops::Kind::FailedPrecondition => "failed precondition",
        hops::Kind::Unavailable => "unavailable",
        hops::Kind::Unimplemented => "not implemented",
        _ => return error,
    };
    if !error.message.ends_with(name) {
        error.message = format!("{}: {name}", error.message);
    }
    error
}
