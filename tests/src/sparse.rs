//! Copies of disk images.

use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};

/// Copies an image; what is not used in it takes no space in the copy either. A file that is there
/// is written over.
///
/// # Errors
///
/// When one of them cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command
        .args(["--sparse=always", "--reflink=auto", "--"])
        .args([from, to]);
    let line = format!("{command:?}");
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Error::Command {
            command: line,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
        Err(source) => Err(Error::Start {
            command: line,
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::*;

    #[test]
    fn a_copy_is_as_sparse_as_its_original() {
        let directory = tempfile::tempdir().expect("a directory");
        let [original, twin] = ["a", "b"].map(|name| directory.path().join(name));
        let file = File::create(&original).expect("a file");
        file.set_len(64 << 20).expect("a size");
        file.write_all_at(b"x", 32 << 20).expect("a byte");
        copy(&original, &twin).expect("a copy");
        let copied = fs::metadata(&twin).expect("it is there");
        assert_eq!(copied.len(), 64 << 20);
        assert!(copied.blocks() < (1 << 20) / 512, "{}", copied.blocks());
        assert!(copy(&directory.path().join("c"), &twin).is_err());
    }
}
