//! `strata-kubelet`: see the library.

fn main() -> std::process::ExitCode {
    kubelet_sim::main(std::env::args_os())
}
