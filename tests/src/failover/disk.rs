//! The guest's disk: one image, used in one run after the other, and looked at between them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use guest_images::debian;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::pair::{DiskServer, Export};
use crate::sparse;
use crate::workload::Committed;

/// The name under which the disk server offers it.
const EXPORT: &str = "root";
/// e2fsck's exit status when it found nothing that it would mend.
const CLEAN: i32 = 0;
/// e2fsck's exit status when it mended something.
const MENDED: i32 = 1;

/// What e2fsck found on the file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum Fsck {
    /// Nothing to mend, once the journal was replayed, as a mount does it.
    Clean,
    /// This.
    Dirty(String),
}

impl From<Fsck> for String {
    fn from(fsck: Fsck) -> Self {
        fsck.to_string()
    }
}

impl std::fmt::Display for Fsck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Clean => f.pad("clean"),
            Self::Dirty(found) => f.write_str(found),
        }
    }
}

/// The disk of all runs of a demo.
#[derive(Debug)]
pub struct Disk {
    /// What it was copied from.
    original: PathBuf,
    image: PathBuf,
    /// What earlier runs left on it.
    committed: Vec<Committed>,
}

impl Disk {
    /// A copy of Debian's image in a directory.
    ///
    /// # Errors
    ///
    /// When it cannot be copied.
    pub fn new(layout: &Layout, directory: &Path) -> Result<Self> {
        let disk = Self {
            original: layout.images().join(debian::NAME),
            image: directory.join("disk.raw"),
            committed: Vec::new(),
        };
        sparse::copy(&disk.original, &disk.image)?;
        Ok(disk)
    }

    /// How the disk server offers it to a guest.
    #[must_use]
    pub fn export(&self, guest: &str) -> Export {
        Export {
            name: EXPORT.to_owned(),
            image: self.image.clone(),
            guest: Some(guest.to_owned()),
        }
    }

    /// Where it is, for `--disk`.
    #[must_use]
    pub fn uri(&self, server: &DiskServer) -> String {
        server.uri(EXPORT)
    }

    /// What earlier runs left on it.
    pub(super) fn committed(&self) -> &[Committed] {
        &self.committed
    }

    /// Remembers what a run that went well left on it.
    pub(super) fn keep(&mut self, committed: Committed) {
        self.committed.push(committed);
    }

    /// After a run that did not go well: puts it aside for a look, and takes a fresh copy.
    pub(super) fn renew(&mut self, run: u32) -> Result<()> {
        let aside = self.image.with_file_name(format!("disk-run-{run}.raw"));
        fs::rename(&self.image, &aside).map_err(|source| Error::File {
            path: aside,
            source,
        })?;
        self.committed.clear();
        sparse::copy(&self.original, &self.image)
    }

    /// Looks for damage of a file system that is not in use any more.
    pub(super) fn as_it_is(&self) -> Result<Fsck> {
        look(&self.image)
    }

    /// Looks for damage of the file system as it is at this moment, in use.
    ///
    /// A file system in use is never clean as it stands: changes are in its journal only, and the
    /// counts in its superblock are those of its last unmount. So this looks at a copy, made while
    /// the disk server does nothing, as a power failure would leave it, and first does with the
    /// copy what mounting it would do: `e2fsck -p` replays the journal, frees the space of files
    /// that were deleted while they were open, and adds the counts up. It does no more unless the
    /// guest's kernel marked the file system as damaged, which it says. Then `e2fsck -fn` looks at
    /// everything, and must find nothing.
    ///
    /// # Errors
    ///
    /// When it cannot be copied or looked at.
    pub fn check(&self, server: &mut DiskServer) -> Result<Fsck> {
        let snapshot = self.image.with_file_name("disk-fsck.raw");
        server.paused(|| sparse::copy(&self.image, &snapshot))?;
        let fsck = e2fsck(&snapshot);
        fs::remove_file(&snapshot).map_err(|source| Error::File {
            path: snapshot,
            source,
        })?;
        fsck
    }
}

fn e2fsck(image: &Path) -> Result<Fsck> {
    let (status, output) = run(Command::new("e2fsck").arg("-p").arg(image))?;
    if !(status == CLEAN || status == MENDED) || output.contains("with errors") {
        let found = format!("e2fsck -p: status {status}: {output}");
        return Ok(Fsck::Dirty(found));
    }
    look(image)
}

/// Looks at everything, and mends nothing.
fn look(image: &Path) -> Result<Fsck> {
    let (status, output) = run(Command::new("e2fsck").args(["-f", "-n"]).arg(image))?;
    Ok(match status {
        CLEAN => Fsck::Clean,
        _ => Fsck::Dirty(format!("e2fsck -fn: status {status}: {output}")),
    })
}

/// Runs a command to its end: its exit status, and all that it printed.
fn run(command: &mut Command) -> Result<(i32, String)> {
    let output = command
        .env("LC_ALL", "C")
        .output()
        .map_err(|source| Error::Start {
            command: format!("{command:?}"),
            source,
        })?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    Ok((output.status.code().unwrap_or(-1), text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    /// An image with an empty ext4 file system.
    fn image(directory: &Path) -> PathBuf {
        let image = directory.join("image.raw");
        let file = fs::File::create(&image).expect("a file");
        file.set_len(16 << 20).expect("its size");
        let (status, output) = run(Command::new("mkfs.ext4").arg("-q").arg(&image)).expect("mkfs");
        assert_eq!(status, 0, "{output}");
        image
    }

    #[test]
    fn damage_is_found() {
        let directory = tempfile::tempdir().expect("a directory");
        let image = image(directory.path());
        assert_eq!(e2fsck(&image).expect("e2fsck"), Fsck::Clean);
        let twin = directory.path().join("copy.raw");
        sparse::copy(&image, &twin).expect("a copy");

        // The root directory becomes a hole.
        let text = ["-R", "stat <2>"];
        let (_, stat) = run(Command::new("debugfs").args(text).arg(&twin)).expect("debugfs");
        let block = stat.split("(0):").nth(1).expect("its first block");
        let block: u64 = block
            .split_whitespace()
            .next()
            .expect("a number")
            .trim_end_matches(',')
            .parse()
            .expect("a number");
        let file = fs::File::options()
            .write(true)
            .open(&twin)
            .expect("it is there");
        file.write_all_at(&[0xa5; 1024], block * 1024)
            .expect("damage");
        let found = e2fsck(&twin).expect("e2fsck");
        assert!(matches!(found, Fsck::Dirty(_)), "{found}");
    }
}
