//! Rust's backtraces: a server that was started with RUST_BACKTRACE would send them to clients, build paths included, with every
//! error.

use std::backtrace::Backtrace;
use std::env;

/// What decides, before RUST_BACKTRACE, whether errors carry a backtrace.
const VARIABLE: &str = "RUST_LIB_BACKTRACE";

/// Has the errors of this library come without a backtrace, whatever the server's environment says. What the environment says is
/// read once, here; other libraries in Rust find it as it was.
pub fn keep_from_clients() {
    let before = env::var_os(VARIABLE);
    // SAFETY: the postmaster, or a backend, has one thread while it loads a library.
    unsafe {
        env::set_var(VARIABLE, "0");
        drop(Backtrace::capture());
        match before {
            Some(value) => env::set_var(VARIABLE, value),
            None => env::remove_var(VARIABLE),
        }
    }
}
