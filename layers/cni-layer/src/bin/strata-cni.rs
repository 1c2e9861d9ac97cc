//! Strata's network plugins in one program: `bridge`, `host-local`, `loopback` and `portmap`, by
//! the name it is called by or by the configuration's `type`.

fn main() -> std::process::ExitCode {
    cni_layer::main()
}
