//! The program `strata-cri`.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Parser;
use hops::{
    Containerd, Cri, Cx, Handle, Kind,
    trace::{Spans, Traced},
};
use tracing_subscriber::EnvFilter;
use wire::{cni, daemon, grpc, socket};

use crate::{Config, Engine};

/// The layer's name in traces.
const LAYER: &str = "cri-layer";

/// How long containerd is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// CRI on containerd.
#[derive(Debug, Parser)]
#[command(name = "strata-cri", version)]
struct Args {
    /// Where CRI is served, v1 and v1alpha2.
    #[arg(long, default_value = "unix:///run/strata/cri.sock")]
    listen: String,
    /// containerd's socket.
    #[arg(long, default_value = "/run/strata/containerd.sock")]
    containerd: String,
    /// Where state stays over a reboot.
    #[arg(long, default_value = "/var/lib/strata/cri")]
    root: PathBuf,
    /// Where state is that a reboot ends.
    #[arg(long, default_value = "/run/strata/cri")]
    state: PathBuf,
    /// The image of the process that holds a pod's namespaces.
    #[arg(long, default_value = "registry.k8s.io/pause:3.10")]
    sandbox_image: String,
    /// Where network configurations are.
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Where network plugins are; may be given more than once.
    #[arg(long, default_value = "/opt/cni/bin")]
    cni_bin_dir: Vec<PathBuf>,
    /// containerd's runtime of pods without a handler.
    #[arg(long, default_value = "io.containerd.strata.v2")]
    runtime: String,
    /// A further runtime as `HANDLER=RUNTIME`; may be given more than once.
    #[arg(long = "runtime-handler", value_parser = handler)]
    handlers: Vec<(String, String)>,
    /// containerd's snapshotter.
    #[arg(long, default_value = "overlayfs")]
    snapshotter: String,
    /// No cgroups and no limits for containers; so it is anyway where no cgroups are mounted
    #[arg(long)]
    disable_cgroup: bool,
    /// What is logged: error, warn, info, debug, trace, or a filter; RUST_LOG goes before it.
    #[arg(long, default_value = "info")]
    log_level: String,
}

fn handler(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, runtime)) if !name.is_empty() && !runtime.is_empty() => {
            Ok((name.to_owned(), runtime.to_owned()))
        }
        _ => Err("expected HANDLER=RUNTIME".to_owned()),
    }
}

/// Runs the program; `args` begin with its name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // Help and version are answers, not faults; clap knows which goes where.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&args.log_level));
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("strata-cri: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Waits until containerd answers: the two may have been started together.
async fn answered(containerd: &Arc<dyn Containerd>) -> hops::Result<()> {
    let begun = Instant::now();
    loop {
        let version = hops::containerd::VersionRequest {};
        match containerd.handle(&Cx::background(), version).await {
            Err(error) if error.kind == Kind::Unavailable && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other.map(|_| ()),
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(serve(args))
}

fn cgroups_are_mounted() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().filter_map(|line| line.split(' ').nth(2)).any(|kind| kind.starts_with("cgroup"))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let spans = Spans::from_env(LAYER);
    let listener = socket::listen(&socket::path_of(&args.listen))
        .with_context(|| format!("listening on {}", args.listen))?;
    let containerd = grpc::Client::new(socket::path_of(&args.containerd));
    let config = Config {
        root: args.root,
        state: args.state,
        sandbox_image: args.sandbox_image,
        cni_conf_dir: args.cni_conf_dir,
        runtime: args.runtime,
        handlers: args.handlers,
        snapshotter: args.snapshotter,
        disable_cgroup: args.disable_cgroup || !cgroups_are_mounted(),
    };
    if config.disable_cgroup {
        tracing::warn!("containers get no cgroups of their own: their limits are not enforced");
    }
    let plugins = cni::Client { path: args.cni_bin_dir };
    let containerd: Arc<dyn Containerd> = Arc::new(Traced::caller(containerd, spans.clone()));
    answered(&containerd).await.with_context(|| format!("reaching {}", args.containerd))?;
    let engine = Engine::open(config, containerd, Arc::new(Traced::caller(plugins, spans.clone())))
        .await
        .with_context(|| format!("opening the engine on {}", args.containerd))?;
    tracing::info!(listen = args.listen, "serving CRI");
    let face: Arc<dyn Cri> = Arc::new(Traced::callee(engine, spans));
    grpc::Server::new().face::<dyn Cri>(face).serve(listener, daemon::shutdown()).await;
    Ok(())
}
