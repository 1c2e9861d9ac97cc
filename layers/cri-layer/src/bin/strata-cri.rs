//! The program `strata-cri`: CRI on containerd.

fn main() -> std::process::ExitCode {
    cri_layer::main(std::env::args_os())
}
