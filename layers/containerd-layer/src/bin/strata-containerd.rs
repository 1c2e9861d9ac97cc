//! containerd, as Strata has it.

use std::process::ExitCode;

fn main() -> ExitCode {
    containerd_layer::main(std::env::args_os())
}
