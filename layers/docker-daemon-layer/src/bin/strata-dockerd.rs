//! `strata-dockerd`: see [`docker_daemon_layer::main`].

use std::process::ExitCode;

fn main() -> ExitCode {
    docker_daemon_layer::main(std::env::args_os())
}
