//! Initramfs images: deterministic cpio archives in the kernel's `newc` format.
//!
//! Equal contents give equal bytes: entries are sorted by path, inode numbers
//! count up, owners and times are 0. The two hosts of a replicated guest can
//! therefore be asked for the same image by its digest.

use std::collections::BTreeMap;
use std::io::{self, Write};

use cpio::newc;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHAR_DEVICE: u32 = 0o020_000;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory,
    File { mode: u32, data: Vec<u8> },
    Symlink { target: String },
    CharDevice { mode: u32, major: u32, minor: u32 },
}

/// The contents of an initramfs, written out as one cpio archive.
///
/// Paths are relative to the root, without a leading slash. Parents of every
/// entry are made on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// An archive without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str) -> &mut Self {
        self.insert(path, Entry::Directory)
    }

    /// Adds a regular file; the last one added at a path counts.
    pub fn file(&mut self, path: &str, mode: u32, data: impl Into<Vec<u8>>) -> &mut Self {
        self.insert(
            path,
            Entry::File {
                mode: mode & 0o7777,
                data: data.into(),
            },
        )
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.insert(
            path,
            Entry::Symlink {
                target: target.to_owned(),
            },
        )
    }

    /// Adds a character device.
    pub fn char_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> &mut Self {
        self.insert(
            path,
            Entry::CharDevice {
                mode: mode & 0o7777,
                major,
                minor,
            },
        )
    }

    /// Adds all of another archive; its entries count.
    pub fn merge(&mut self, other: Self) -> &mut Self {
        self.entries.extend(other.entries);
        self
    }

    /// Whether there is an entry at `path`.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    fn insert(&mut self, path: &str, entry: Entry) -> &mut Self {
        assert!(
            !path.is_empty() && !path.starts_with('/') && !path.ends_with('/'),
            "archive paths are relative and name an entry, unlike {path:?}"
        );
        for (slash, _) in path.match_indices('/') {
            self.entries
                .entry(path[..slash].to_owned())
                .or_insert(Entry::Directory);
        }
        self.entries.insert(path.to_owned(), entry);
        self
    }

    /// Writes the archive, trailer included, padded to 4 bytes so that
    /// archives can be concatenated.
    ///
    /// # Errors
    ///
    /// When the writer fails, or a file has 4 GiB or more.
    pub fn write_to(&self, mut output: impl Write) -> io::Result<()> {
        for (inode, (path, entry)) in (1..).zip(&self.entries) {
            let header = newc::Builder::new(path)
                .ino(inode)
                .nlink(1)
                .uid(0)
                .gid(0)
                .mtime(0);
            let (header, data): (_, &[u8]) = match entry {
                Entry::Directory => (header.nlink(2).mode(DIRECTORY | 0o755), &[]),
                Entry::File { mode, data } => (header.mode(REGULAR | mode), data),
                Entry::Symlink { target } => (header.mode(SYMLINK | 0o777), target.as_bytes()),
                Entry::CharDevice { mode, major, minor } => (
                    header
                        .mode(CHAR_DEVICE | mode)
                        .rdev_major(*major)
                        .rdev_minor(*minor),
                    &[],
                ),
            };
            let size = u32::try_from(data.len()).map_err(|_| {
                io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    format!("{path} has 4 GiB or more"),
                )
            })?;
            let mut writer = header.write(&mut output, size);
            writer.write_all(data)?;
            writer.finish()?;
        }
        newc::trailer(&mut output)?;
        output.flush()
    }

    /// The archive's bytes.
    ///
    /// # Panics
    ///
    /// When a file has 4 GiB or more.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes)
            .expect("no file of an image in memory reaches 4 GiB");
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn sample() -> Archive {
        let mut archive = Archive::new();
        archive
            .file("init", 0o755, *b"#!/bin/sh\n")
            .symlink("bin/sh", "busybox")
            .char_device("dev/console", 0o600, 5, 1)
            .directory("proc");
        archive
    }

    #[test]
    fn equal_contents_give_equal_bytes_in_any_order() {
        let mut other = Archive::new();
        other
            .directory("proc")
            .char_device("dev/console", 0o600, 5, 1)
            .file("init", 0o644, *b"replaced below")
            .symlink("bin/sh", "busybox")
            .file("init", 0o755, *b"#!/bin/sh\n");
        assert_eq!(other.to_bytes(), sample().to_bytes());
    }

    #[test]
    fn the_archive_reads_back() {
        let bytes = sample().to_bytes();
        assert_eq!(bytes.len() % 4, 0);
        let mut input = bytes.as_slice();
        let mut seen = Vec::new();
        loop {
            let mut reader = newc::Reader::new(input).expect("a well-formed header");
            if reader.entry().is_trailer() {
                break;
            }
            let mut data = String::new();
            reader.read_to_string(&mut data).expect("the data");
            let entry = reader.entry();
            assert_eq!((entry.mtime(), entry.uid(), entry.gid()), (0, 0, 0));
            seen.push((entry.name().to_owned(), entry.mode(), data));
            input = reader.finish().expect("the padding");
        }
        let expected: [(&str, u32, &str); 6] = [
            ("bin", 0o040_755, ""),
            ("bin/sh", 0o120_777, "busybox"),
            ("dev", 0o040_755, ""),
            ("dev/console", 0o020_600, ""),
            ("init", 0o100_755, "#!/bin/sh\n"),
            ("proc", 0o040_755, ""),
        ];
        assert_eq!(seen.len(), expected.len());
        for ((name, mode, data), (want_name, want_mode, want_data)) in seen.iter().zip(expected) {
            assert_eq!(
                (name.as_str(), *mode, data.as_str()),
                (want_name, want_mode, want_data)
            );
        }
    }
}
