//! A report as a tar archive (POSIX.1-1988, ustar), which every system opens.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::paper::Report;

/// What an archive is made of, in bytes.
const BLOCK: usize = 512;

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct ArchiveError {
    path: PathBuf,
    source: io::Error,
}

/// Writes a new archive at `path`, which only its owner may read: a folder `NAME` with what there is, and `missing`
/// with what there is not.
///
/// # Errors
/// [`ArchiveError`], also where there is a file already.
pub fn write(path: &Path, name: &str, report: &Report) -> Result<(), ArchiveError> {
    let mut archive = Vec::new();
    for paper in &report.papers {
        member(&mut archive, name, &paper.name, &paper.text);
    }
    let missing = report.missing.iter();
    let missing = missing.map(|missing| format!("{}: {}\n", missing.name, missing.why));
    member(&mut archive, name, "missing", &missing.collect::<String>());
    // Two blocks of zeros end it.
    archive.resize(archive.len() + 2 * BLOCK, 0);
    let mut options = File::options();
    let opened = options.write(true).create_new(true).mode(0o600).open(path);
    let written = opened.and_then(|mut file| file.write_all(&archive));
    written.map_err(|source| ArchiveError {
        path: path.to_owned(),
        source,
    })
}

fn member(archive: &mut Vec<u8>, folder: &str, name: &str, text: &str) {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut header = [0; BLOCK];
    let mut field = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    let path = format!("{folder}/{name}");
    // Longer than any name of a guest with any of ours.
    field(0, &path.as_bytes()[..path.len().min(100)]);
    field(100, b"0000600\0");
    field(108, b"0000000\0");
    field(116, b"0000000\0");
    field(124, format!("{:011o}\0", text.len()).as_bytes());
    field(136, format!("{:011o}\0", seconds.as_secs()).as_bytes());
    // The checksum counts itself as spaces.
    field(148, b"        ");
    field(156, b"0");
    field(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend(header);
    archive.extend(text.as_bytes());
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_takes_out_what_was_put_in() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("report.tar");
        let mut report = Report::default();
        let long = "x".repeat(3 * BLOCK);
        for (name, text) in [("status.json", "{}"), ("log", &long), ("events", "")] {
            report.put(name, Ok(text.to_owned()));
        }
        report.put("host.toml", Err("there is none".to_owned()));
        let name = "a".repeat(64);
        write(&path, &name, &report).expect("an archive");
        let mode = fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut tar = Command::new("tar");
        let tar = tar.arg("-xf").arg(&path).arg("-C").arg(folder.path());
        assert!(tar.status().expect("every system has it").success());
        let read = |file: &str| fs::read_to_string(folder.path().join(&name).join(file));
        assert_eq!(read("status.json").expect("it is there"), "{}");
        assert_eq!(read("log").expect("it is there"), long);
        assert_eq!(read("events").expect("it is there"), "");
        assert_eq!(
            read("missing").expect("it is there"),
            "host.toml: there is none\n"
        );
        write(&path, &name, &report).expect_err("it is not written over");
    }
}
