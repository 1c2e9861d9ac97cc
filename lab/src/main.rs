//! `strata`: wires the layers into stacks, runs pods through them, and says where the time went.
//!
//! This one program is also every program of the stack, by the name it is executed under, so that
//! a comparison needs nothing but this file. Read [`compare`] first, then [`sandbox`] (where a
//! stack runs), [`stack`] (what runs there), [`account`] (how the time adds up).

mod account;
mod compare;
mod era;
mod fetch;
mod host;
mod image;
mod outcome;
mod premises;
mod report;
mod sandbox;
mod stack;
mod usage;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal};
use premises::Premises;

#[derive(Parser)]
#[command(
    name = "strata",
    version,
    about = "The container runtime stack, layer by layer, every hop measured"
)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run pods on each path, side by side, and say where the time went.
    Compare(Compare),
    /// The built-in image's program: waits until it is told to end.
    #[command(hide = true)]
    Pause,
    /// A sandbox's init: the daemons of one path.
    #[command(hide = true)]
    Stack {
        /// The plan, as JSON.
        plan: String,
    },
    /// Makes a directory, and removes it when nobody uses it any more.
    #[command(hide = true)]
    Keep,
}

#[derive(clap::Args)]
struct Compare {
    /// How many pods to measure on each path.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pods: u32,
    /// A Pod manifest to run instead of the built-in one.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// An image for the pod's containers: a reference to pull from its registry, or the path of a
    /// `docker save` archive or an OCI layout's tar.
    #[arg(long, value_name = "REF")]
    image: Option<String>,
    /// Write the raw results here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write report.html, results.json and trace.json into this directory.
    #[arg(long, value_name = "DIR", default_value = "strata-report")]
    report: PathBuf,
    /// The paths: presets, or files that describe one.
    #[arg(long, value_delimiter = ',', default_value = "pre-1.24,direct")]
    paths: Vec<String>,
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let name = args.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    match name.to_str().unwrap_or_default() {
        "strata-kubelet" => kubelet_sim::main(args),
        "strata-dockershim" => dockershim::main(args),
        "strata-dockerd" => docker_daemon_layer::main(args),
        "strata-cri" => cri_layer::main(args),
        "strata-containerd" => containerd_layer::main(args),
        "containerd-shim-strata-v2" => containerd_layer::shim::main(args),
        "strata-runc" => runc_layer::main(args),
        "strata-cni" | "loopback" | "bridge" | "host-local" | "portmap" => cni_layer::main(),
        _ => match lab(Cli::parse_from(args)) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("strata: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn lab(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Verb::Compare(options) => compare(options),
        Verb::Pause => image::pause().map(|()| ExitCode::SUCCESS),
        Verb::Stack { plan } => {
            stack::run(serde_json::from_str(&plan).context("plan")?).map(|()| ExitCode::SUCCESS)
        }
        Verb::Keep => premises::keep().map(|()| ExitCode::SUCCESS),
    }
}

fn compare(cli: Compare) -> Result<ExitCode> {
    block_signals()?;
    let premises = Premises::open()?;
    let interrupted = end_on_signal(premises.clone())?;
    let options = compare::Options {
        pods: cli.pods as usize,
        manifest: cli.manifest,
        image: cli.image,
        paths: cli.paths,
    };
    let compared = compare::run(&options, &premises);
    premises.end();
    while interrupted.load(Ordering::SeqCst) {
        // The thread that was told ends the process.
        std::thread::park();
    }
    let compared = compared?;
    print!("{}", report::table::render(&compared.outcome));
    let json = serde_json::to_vec_pretty(&compared.outcome)?;
    if let Some(path) = &cli.json {
        fs::write(path, &json).with_context(|| path.display().to_string())?;
    }
    let write = |name: &str, bytes: &[u8]| {
        let path = cli.report.join(name);
        fs::write(&path, bytes).with_context(|| path.display().to_string())
    };
    fs::create_dir_all(&cli.report).with_context(|| cli.report.display().to_string())?;
    let paths = compared.outcome.paths.iter().zip(&compared.typical);
    let paths: Vec<_> = paths.map(|(p, spans)| (p.name.clone(), spans.as_slice())).collect();
    write("results.json", &json)?;
    write("trace.json", report::chrome::render(&paths).to_string().as_bytes())?;
    write("report.html", report::html::render(&compared).as_bytes())?;
    println!("Report: {}", cli.report.join("report.html").display());
    Ok(ExitCode::SUCCESS)
}

/// The signals that ask this process to end.
fn ending() -> SigSet {
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])
}

/// Keeps the signals that end this process for the thread that waits for them; to be called before
/// any other thread is made.
fn block_signals() -> Result<()> {
    Ok(ending().thread_block()?)
}

/// Ends the premises when this process is asked to end; what it is at then fails.
fn end_on_signal(premises: Premises) -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    let signals = ending();
    std::thread::Builder::new().spawn(move || {
        if signals.wait().is_ok() {
            flag.store(true, Ordering::SeqCst);
            premises.end();
            // The comparison may be at something that the end of its sandboxes does not end, such
            // as a slow registry's answer.
            eprintln!("strata: interrupted");
            std::process::exit(130);
        }
    })?;
    Ok(interrupted)
}
