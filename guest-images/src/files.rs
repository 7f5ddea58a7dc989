//! Files that other runs may be reading or writing at the same time.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Writes a file so that a reader, or the next run after an interruption,
/// sees the old contents or the new, never a part.
///
/// # Errors
///
/// When the directory cannot be made or the file cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// As [`write_atomically`], but leaves a file that has these contents already
/// as it is. Tells whether it wrote.
///
/// # Errors
///
/// As [`write_atomically`].
pub fn write_if_different(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let same_size = fs::metadata(path).is_ok_and(|metadata| metadata.len() == bytes.len() as u64);
    if same_size && fs::read(path)? == bytes {
        return Ok(false);
    }
    write_atomically(path, bytes)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_written() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("below/file");
        assert!(write_if_different(&path, b"one").expect("the first write"));
        assert!(!write_if_different(&path, b"one").expect("the same again"));
        assert!(write_if_different(&path, b"two").expect("a change"));
        assert_eq!(fs::read(&path).expect("the file"), b"two");
        let left: Vec<_> = fs::read_dir(directory.path().join("below"))
            .expect("it")
            .collect();
        assert_eq!(left.len(), 1, "no temporary files stay behind");
    }
}
