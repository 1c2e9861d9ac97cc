//! `strata-dockershim`: see the library.

fn main() -> std::process::ExitCode {
    dockershim::main(std::env::args_os())
}
