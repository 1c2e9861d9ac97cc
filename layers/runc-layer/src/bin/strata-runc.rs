//! The OCI runtime as a program.
//!
//! It is entered without Rust's runtime, whose preparations (an alternate signal stack, the
//! thread's stack guard, a look at the standard streams) cost a program that lives for
//! milliseconds some 20 system calls each time, and which ignores SIGPIPE.
#![no_main]

/// The C library's entry.
#[allow(unsafe_code, reason = "the name of main is claimed here and nowhere else")]
#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    // The standard library has the arguments from the C library's start-up.
    runc_layer::run(std::env::args_os().collect()).into()
}
