//! What the guest of `ftvm selftest` runs: `programs/mix.c`, a mixed load, and `programs/compiled.c`, which
//! that compiles there.

use crate::compiler;
use crate::error::CompileError;

/// The source that is compiled in the guest, `/usr/src/compiled.c`.
pub(crate) const COMPILED: &str = include_str!("programs/compiled.c");

/// The load, a static executable.
///
/// # Errors
///
/// When it cannot be compiled.
pub(crate) fn program() -> Result<Vec<u8>, CompileError> {
    compiler::compile("mix", include_str!("programs/mix.c"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_compiled_finds_itself_right() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = |name: &str| directory.path().join(name);
        fs::write(place("compiled.c"), COMPILED).expect("written");
        let compiler = Command::new("cc")
            .args([
                "-O1",
                "-static",
                "-nostdlib",
                "-o",
                "compiled",
                "compiled.c",
            ])
            .current_dir(directory.path())
            .status();
        assert!(compiler.expect("a compiler").success());
        let status = Command::new(place("compiled")).status();
        assert_eq!(status.expect("it runs").code(), Some(0));
    }

    #[test]
    fn the_load_takes_its_arguments() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("mix");
        fs::write(&path, program().expect("it compiles")).expect("written");
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&path, executable).expect("set");
        for (arguments, status) in [(&["executed", "4"][..], 31), (&["x", "y"], 2), (&[], 2)] {
            let ran = Command::new(&path).args(arguments).output();
            assert_eq!(ran.expect("it runs").status.code(), Some(status));
        }
    }
}
