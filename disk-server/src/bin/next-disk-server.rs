//! A `disk-server` that speaks one version more of the protocol.

#[path = "../main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main()
}
