//! Small programs of our own for guests, compiled on this machine.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::CompileError;

/// The compiler: Debian's `gcc` and `libc6-dev` bring it and the static C library.
const COMPILER: &str = "cc";

/// Compiles a C program to a static executable, and gives its bytes.
///
/// Equal sources give equal bytes as long as compiler and C library stay the
/// same: no path, time or build identity goes into the file.
///
/// # Errors
///
/// When there is no compiler, or it refuses the source.
pub fn compile(name: &'static str, source: &str) -> Result<Vec<u8>, CompileError> {
    make(name, source, PROGRAM)
}

/// Compiles a C source to a shared library, and gives its bytes, the same for the
/// same source as with [`compile`].
///
/// # Errors
///
/// As [`compile`].
pub fn compile_library(name: &'static str, source: &str) -> Result<Vec<u8>, CompileError> {
    make(name, source, LIBRARY)
}

/// How the compiler makes a program.
const PROGRAM: &[&str] = &["-static"];
/// How the compiler makes a library.
const LIBRARY: &[&str] = &["-shared", "-fPIC"];

fn make(name: &'static str, source: &str, kind: &[&str]) -> Result<Vec<u8>, CompileError> {
    let scratch = tempfile::tempdir().map_err(|source| CompileError::Scratch {
        path: std::env::temp_dir(),
        source,
    })?;
    let output = scratch.path().join(name);
    build(COMPILER, name, source, kind, &output)?;
    std::fs::read(&output).map_err(|source| CompileError::Scratch {
        path: output,
        source,
    })
}

/// What the compiler calls itself, for the list of what an image is made of.
///
/// # Errors
///
/// When there is no compiler.
pub fn version() -> Result<String, CompileError> {
    let output = Command::new(COMPILER)
        .arg("-dumpfullversion")
        .output()
        .map_err(|source| CompileError::Missing {
            compiler: COMPILER.to_owned(),
            source,
        })?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn build(
    compiler: &str,
    name: &'static str,
    source: &str,
    kind: &[&str],
    output: &Path,
) -> Result<(), CompileError> {
    let missing = |source| CompileError::Missing {
        compiler: compiler.to_owned(),
        source,
    };
    let mut child = Command::new(compiler)
        .args(["-x", "c", "-std=c11", "-O2", "-Wall", "-Werror"])
        .args(kind)
        .args(["-s", "-Wl,--build-id=none", "-o"])
        .arg(output)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A compiler that gives up before the end says why below.
        let _ = stdin.write_all(source.as_bytes());
    }
    let result = child.wait_with_output().map_err(missing)?;
    if result.status.success() {
        return Ok(());
    }
    Err(CompileError::Refused {
        program: PathBuf::from(name).with_extension("c"),
        stderr: String::from_utf8_lossy(&result.stderr).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sources_give_equal_programs() {
        let source = "int main(void) { return 7; }";
        let program = compile("seven", source).expect("a program");
        assert_eq!(program, compile("seven", source).expect("it again"));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("seven");
        build(COMPILER, "seven", source, PROGRAM, &path).expect("the program, to run it");
        let status = Command::new(&path).status().expect("it runs");
        assert_eq!(status.code(), Some(7));
    }

    #[test]
    fn a_refused_source_and_a_missing_compiler_say_so() {
        let error = compile("bad", "int main(void) { return x; }").expect_err("no program");
        assert!(error.to_string().contains('x'), "{error}");
        let nowhere = Path::new("/nonexistent/program");
        let error =
            build("no-such-compiler", "any", "", PROGRAM, nowhere).expect_err("no compiler");
        assert!(error.to_string().contains("libc6-dev"), "{error}");
    }
}
