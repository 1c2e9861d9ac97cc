//! `strata-containerd`, the program.

use crate::{Config, Engine, log, metrics::Listener, server::Server};
use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use hops::{
    Cx, Handle,
    proto::{Any, containerd::services::events::v1::PublishRequest},
    trace::Spans,
};
use prost::Message;
use std::{
    ffi::OsString,
    io::{self, Read, Write},
    path::PathBuf,
    process::ExitCode,
};

/// The layer's name in traces.
const LAYER: &str = "containerd-layer";

/// containerd, as Strata has it.
#[derive(Debug, Parser)]
#[command(name = "strata-containerd", version, disable_help_subcommand = true)]
struct Arguments {
    /// Configuration file (containerd's, version 2)
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Log level: trace, debug, info, warn, error
    #[arg(short, long, value_name = "LEVEL", global = true)]
    log_level: Option<String>,
    /// Address of the gRPC socket
    #[arg(short, long, value_name = "PATH", global = true)]
    address: Option<PathBuf>,
    /// Directory for what is kept
    #[arg(long, value_name = "DIR", global = true)]
    root: Option<PathBuf>,
    /// Directory for what is lost at reboot
    #[arg(long, value_name = "DIR", global = true)]
    state: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a configuration to standard output
    Config {
        #[command(subcommand)]
        which: Which,
    },
    /// Publish an event that stands on standard input (shims use it)
    Publish {
        /// The namespace of the event
        #[arg(long)]
        namespace: String,
        /// The topic of the event
        #[arg(long)]
        topic: String,
    },
}

#[derive(Debug, Subcommand)]
enum Which {
    /// What holds where nothing else is said
    Default,
    /// What holds with this file and these options
    Dump,
}

/// `strata-containerd`: `args` begins with the program's own name.
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
            let _ = writeln!(io::stderr(), "strata-containerd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let config = configured(&arguments)?;
    match arguments.command {
        Some(Command::Config { which }) => {
            let shown = match which {
                Which::Default => Config::default(),
                Which::Dump => config,
            };
            io::stdout().write_all(shown.to_toml()?.as_bytes())?;
            Ok(())
        }
        Some(Command::Publish { namespace, topic }) => {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(publish(config, namespace, topic))
        }
        None => {
            config.check()?;
            log::begin(config.tracing_level()?, config.json)?;
            for remark in &config.remarks {
                tracing::warn!("configuration: {remark}");
            }
            score(config.oom_score);
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?
                .block_on(daemon(config))
        }
    }
}

/// The options over the file over the defaults.
fn configured(arguments: &Arguments) -> Result<Config> {
    let mut config = Config::default();
    if let Some(file) = &arguments.config {
        config.read(file)?;
    }
    if let Some(root) = &arguments.root {
        config.root.clone_from(root);
    }
    if let Some(state) = &arguments.state {
        config.state.clone_from(state);
    }
    if let Some(address) = &arguments.address {
        config.address = wire::socket::path_of(&address.to_string_lossy());
    }
    if let Some(level) = &arguments.log_level {
        config.level.clone_from(level);
    }
    Ok(config)
}

/// Tells the kernel how willingly to kill this process when memory is short.
fn score(score: i32) {
    // A negative one takes a privilege that this process may lack; containerd goes on, too.
    if score != 0
        && let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string())
    {
        tracing::error!(%error, "failed to change OOM score to {score}");
    }
}

async fn daemon(config: Config) -> Result<()> {
    let spans = Spans::from_env(LAYER);
    crate::services::introspection::require(&config)?;
    // Shims that live deliver their events as soon as the socket is there: it comes first.
    let server = Server::listen(&config)?;
    let metrics = match &config.metrics {
        Some(address) => Some(Listener::bind(address).await?),
        None => None,
    };
    let engine = Engine::open(&config, spans.clone()).await?;
    tracing::info!(address = %config.address.display(), "serving");
    if let Some(metrics) = metrics {
        tokio::spawn(metrics.serve(engine.clone(), server.calls()));
    }
    server.serve(engine, spans, wire::daemon::shutdown()).await;
    Ok(())
}

async fn publish(config: Config, namespace: String, topic: String) -> Result<()> {
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes)?;
    let event = Any::decode(bytes.as_slice()).context("the event on standard input")?;
    let client = wire::grpc::Client::new(&config.address);
    let cx = Cx::background().in_namespace(namespace);
    client.handle(&cx, PublishRequest { topic, event: Some(event) }).await?;
    Ok(())
}
