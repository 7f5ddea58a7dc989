//! The `ftvm` command.

fn main() -> std::process::ExitCode {
    ftvm_vmm::cli::main()
}
