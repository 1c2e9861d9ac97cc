//! `strata-dockerd`, the program.

use std::{ffi::OsString, fs, io::Write, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use clap::Parser;
use hops::{
    Cni,
    trace::{Spans, Traced},
};
use tracing_subscriber::EnvFilter;

use crate::{Bridge, Config, Engine};

/// The layer's name in traces.
const LAYER: &str = "docker-daemon-layer";

/// The Docker daemon, as Strata has it.
#[derive(Debug, Parser)]
#[command(name = "strata-dockerd", version)]
struct Arguments {
    /// Daemon socket to serve
    #[arg(
        short = 'H',
        long = "host",
        value_name = "unix://PATH",
        default_value = "unix:///run/strata/docker.sock"
    )]
    host: String,
    /// containerd's socket
    #[arg(long, value_name = "PATH", default_value = "/run/strata/containerd.sock")]
    containerd: PathBuf,
    /// containerd's namespace for containers
    #[arg(long, value_name = "NAME", default_value = "moby")]
    containerd_namespace: String,
    /// containerd's runtime for containers
    #[arg(long, value_name = "NAME", default_value = "io.containerd.strata.v2")]
    default_runtime: String,
    /// Directory for what is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/strata/docker")]
    data_root: PathBuf,
    /// Directory for what is lost at reboot
    #[arg(long, value_name = "DIR", default_value = "/run/strata/docker")]
    exec_root: PathBuf,
    /// Bridge to attach containers to; "none" for no such network
    #[arg(short, long, value_name = "NAME")]
    bridge: Option<String>,
    /// The bridge's address, with the length of its subnet's prefix
    #[arg(long, value_name = "CIDR")]
    bip: Option<String>,
    /// Directory of the network plugins; without one, the program's own directory
    #[arg(long, value_name = "DIR")]
    cni_bin: Vec<PathBuf>,
    /// Parent cgroup of containers
    #[arg(long, value_name = "CGROUP", default_value = "/docker")]
    cgroup_parent: String,
    /// File for the daemon's pid
    #[arg(short, long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Debug mode
    #[arg(short = 'D', long)]
    debug: bool,
    /// Log level: debug, info, warn, error, fatal
    #[arg(short, long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

/// `strata-dockerd`: `args` begins with the program's own name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(usage) => {
            // Help and the version are such errors too, for standard output and with success.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(1));
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "failed to start daemon: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let level = match arguments.log_level.as_str() {
        _ if arguments.debug => "debug",
        "fatal" | "panic" => "error",
        level => level,
    };
    let filter = EnvFilter::try_from_default_env()
        .or_else(|_| {
            EnvFilter::try_new(format!("{level},h2=warn,hyper=warn,tower=warn,tonic=warn"))
        })
        .context("--log-level")?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime")?;
    runtime.block_on(serve(arguments))?;
    // What a client still follows does not keep the daemon from ending.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(arguments: Arguments) -> Result<()> {
    let spans = Spans::from_env(LAYER);
    let bridge = Bridge::of(arguments.bridge.as_deref(), arguments.bip.as_deref())
        .context("--bridge, --bip")?;
    let config = Config {
        data_root: arguments.data_root,
        exec_root: arguments.exec_root,
        namespace: arguments.containerd_namespace,
        runtime: arguments.default_runtime,
        bridge,
        cgroup_parent: arguments.cgroup_parent,
        debug: arguments.debug,
        ..Config::default()
    };
    let listener = wire::socket::listen(&wire::socket::path_of(&arguments.host))
        .with_context(|| format!("-H {}", arguments.host))?;
    let containerd = wire::grpc::Client::new(arguments.containerd);
    let containerd = Arc::new(Traced::caller(containerd, spans.clone()));
    let cni: Option<Arc<dyn Cni>> = config.bridge.is_some().then(|| {
        let plugins = wire::cni::Client { path: plugin_path(arguments.cni_bin) };
        Arc::new(Traced::caller(plugins, spans.clone())) as Arc<dyn Cni>
    });
    let engine = Engine::open(config, containerd, cni).await.context("containerd")?;
    if let Some(file) = &arguments.pidfile {
        fs::write(file, std::process::id().to_string()).context("--pidfile")?;
    }
    tracing::info!(host = arguments.host, "API listen");
    let served = Arc::new(Traced::callee(engine, spans));
    wire::http::serve(listener, served, wire::daemon::shutdown()).await;
    let _ = fs::remove_file(wire::socket::path_of(&arguments.host));
    if let Some(file) = &arguments.pidfile {
        let _ = fs::remove_file(file);
    }
    Ok(())
}

/// Where plugins are looked for: beside this program, then where distributions have them.
fn plugin_path(given: Vec<PathBuf>) -> Vec<PathBuf> {
    if !given.is_empty() {
        return given;
    }
    let own = std::env::current_exe().ok().and_then(|exe| exe.parent().map(PathBuf::from));
    own.into_iter().chain(["/opt/cni/bin".into(), "/usr/lib/cni".into()]).collect()
}
