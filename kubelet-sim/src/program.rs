//! The program `strata-kubelet`.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Parser;
use hops::trace::Spans;

use crate::{Config, Kubelet, drive, endpoint, watch};

/// The layer's name in traces.
const LAYER: &str = "kubelet-sim";

#[derive(Debug, Parser)]
#[command(name = "strata-kubelet", version, about = "Runs Pod manifests on a CRI runtime")]
struct Args {
    /// The runtime's CRI socket
    #[arg(long, value_name = "unix:///PATH")]
    container_runtime_endpoint: String,
    /// The image service's CRI socket, where it is another
    #[arg(long, value_name = "unix:///PATH")]
    image_service_endpoint: Option<String>,
    /// A Pod manifest, or a directory of them, to keep running
    #[arg(long, value_name = "PATH", required_unless_present = "drive")]
    pod_manifest_path: Option<PathBuf>,
    /// Run one pod for each JSON line on standard input, and answer a JSON line
    #[arg(long, conflicts_with = "pod_manifest_path")]
    drive: bool,
    /// Where the pods' directories are
    #[arg(long, default_value = "/var/lib/kubelet")]
    root_dir: PathBuf,
    /// Where the pods' logs are
    #[arg(long, default_value = "/var/log/pods")]
    pod_logs_dir: PathBuf,
    /// The node's name; the host's by default
    #[arg(long)]
    hostname_override: Option<String>,
    /// The node's address
    #[arg(long, default_value = "127.0.0.1")]
    node_ip: String,
    /// The resolv.conf of pods with dnsPolicy Default; empty for none
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// The cluster's name servers
    #[arg(long, value_delimiter = ',')]
    cluster_dns: Vec<String>,
    /// The cluster's domain
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// The parent of the pods' cgroups
    #[arg(long, default_value = "")]
    cgroup_parent: String,
    /// Seconds between two looks at the manifests and the pods
    #[arg(long, default_value_t = 1)]
    sync_seconds: u64,
    /// Remove the pods at SIGTERM, which otherwise are left running
    #[arg(long)]
    teardown: bool,
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
    let defaults = Config::default();
    let config = Config {
        root_dir: args.root_dir,
        pod_logs_dir: args.pod_logs_dir,
        node_name: args.hostname_override.unwrap_or(defaults.node_name),
        host_ip: args.node_ip,
        resolv_conf: args.resolv_conf,
        cluster_dns: args.cluster_dns,
        cluster_domain: args.cluster_domain,
        cgroup_parent: args.cgroup_parent,
        spans: spans.clone(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    runtime.block_on(async {
        let (runtime, image) =
            (&args.container_runtime_endpoint, args.image_service_endpoint.as_deref());
        let cri = endpoint::connect(runtime, image, spans)
            .await
            .with_context(|| format!("connecting to the container runtime at {runtime}"))?;
        let kubelet = Arc::new(Kubelet::new(cri, config));
        match args.pod_manifest_path {
            None => drive::serve(&kubelet, wire::daemon::shutdown()).await.context("--drive"),
            Some(path) => {
                let watch = watch::Options {
                    path,
                    every: std::time::Duration::from_secs(args.sync_seconds.max(1)),
                    teardown: args.teardown,
                };
                watch::serve(kubelet, watch, wire::daemon::shutdown())
                    .await
                    .context("--pod-manifest-path")
            }
        }
    })
}
