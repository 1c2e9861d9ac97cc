//! The program `strata-dockershim`.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Parser;
use hops::{
    Cri,
    trace::{Spans, Traced},
};
use wire::{cni, daemon, grpc, http, socket};

use crate::{Config, Engine};

/// The layer's name in traces.
const LAYER: &str = "dockershim";

#[derive(Debug, Parser)]
#[command(name = "strata-dockershim", version, about = "Serves CRI on a Docker daemon")]
struct Args {
    /// The CRI socket to serve
    #[arg(long, value_name = "unix:///PATH", default_value = "unix:///run/strata/dockershim.sock")]
    listen: String,
    /// The Docker daemon's socket
    #[arg(long, value_name = "unix:///PATH", default_value = "unix:///run/strata/docker.sock")]
    docker_endpoint: String,
    /// Where the sandboxes' checkpoints are
    #[arg(long, default_value = "/var/lib/strata/dockershim")]
    root: PathBuf,
    /// The image of the sandboxes
    #[arg(long, value_name = "REF", default_value = "k8s.gcr.io/pause:3.2")]
    pod_infra_container_image: String,
    /// Where the pod network's configuration is
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Where the network plugins are; several are separated by commas
    #[arg(long, value_delimiter = ',', default_value = "/opt/cni/bin")]
    cni_bin_dir: Vec<PathBuf>,
    /// Seconds that a pull may make no progress
    #[arg(long, default_value_t = 60)]
    image_pull_progress_deadline: u64,
    /// Ask for no oom_score_adj below this process's own
    #[arg(long)]
    restrict_oom_score_adj: bool,
    /// What is logged: a level, or filters as in RUST_LOG, which it overrides
    #[arg(long)]
    log_level: Option<String>,
}

/// Runs the program with `args`, its own name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let level = args.log_level.or_else(|| std::env::var("RUST_LOG").ok());
    let filter = tracing_subscriber::EnvFilter::try_new(level.as_deref().unwrap_or("info"))
        .context("--log-level")?;
    // Another layer of the same process may have set it up.
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    let spans = Spans::from_env(LAYER);
    let config = Config {
        root: args.root,
        sandbox_image: args.pod_infra_container_image,
        cni_conf_dir: args.cni_conf_dir,
        pull_deadline: std::time::Duration::from_secs(args.image_pull_progress_deadline),
        restrict_oom_score_adj: args.restrict_oom_score_adj,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    runtime.block_on(async {
        let docker = http::Client::new(socket::path_of(&args.docker_endpoint));
        let docker = Arc::new(Traced::caller(docker, spans.clone()));
        let plugins = cni::Client { path: args.cni_bin_dir };
        let plugins = Arc::new(Traced::caller(plugins, spans.clone()));
        let engine = Engine::open(config, docker, plugins)?;
        let engine: Arc<dyn Cri> = Arc::new(Traced::callee(engine, spans));
        let path = socket::path_of(&args.listen);
        let listener =
            socket::listen(&path).with_context(|| format!("--listen {}", path.display()))?;
        tracing::info!(listen = %path.display(), docker = args.docker_endpoint, "serving CRI");
        grpc::Server::new().face(engine).serve(listener, daemon::shutdown()).await;
        // The next start would replace it; a clean end leaves nothing.
        let _ = std::fs::remove_file(&path);
        Ok(())
    })
}
