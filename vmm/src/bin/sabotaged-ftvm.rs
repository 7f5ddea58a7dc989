//! An `ftvm` that can be told to break itself.

fn main() -> std::process::ExitCode {
    ftvm_vmm::cli::main()
}
