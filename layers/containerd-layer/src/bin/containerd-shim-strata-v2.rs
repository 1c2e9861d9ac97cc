//! `containerd-shim-strata-v2`: the shim that containerd executes for the runtime
//! `io.containerd.strata.v2`.

fn main() -> std::process::ExitCode {
    containerd_layer::shim::main(std::env::args_os())
}
