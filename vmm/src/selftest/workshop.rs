//! Where a selftest works: the guests' images, and a directory for what it makes.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::error::SelftestError;
use super::trial::needed_images;
use crate::doctor::Purpose;

/// So many rounds that went wrong are kept to be looked at: each may have hundreds of megabytes.
const KEPT: usize = 3;

/// The images, and a temporary directory that stays if something in it is to be looked at.
pub(super) struct Workshop {
    images: PathBuf,
    /// What `ftvm record` and `ftvm replay` are told of this host.
    allowed: &'static [&'static str],
    scratch: TempDir,
    kept: Cell<usize>,
}

impl Workshop {
    pub(super) fn open(images: &Path, purpose: Purpose) -> Result<Self, SelftestError> {
        for name in needed_images() {
            let image = images.join(name);
            if !image.exists() {
                return Err(SelftestError::NoImages(image));
            }
        }
        let scratch = tempfile::Builder::new().prefix("ftvm-selftest-").tempdir();
        Ok(Self {
            images: images.to_owned(),
            allowed: match purpose {
                Purpose::Replication {
                    allow_nested_paging: true,
                } => &["--allow-nested-paging"],
                _ => &[],
            },
            scratch: scratch.map_err(SelftestError::Scratch)?,
            kept: Cell::new(0),
        })
    }

    pub(super) fn images(&self) -> &Path {
        &self.images
    }

    /// Options of `ftvm record` and `ftvm replay` that are this host's.
    pub(super) fn allowed(&self) -> impl Iterator<Item = String> {
        self.allowed.iter().map(|&option| option.to_owned())
    }

    pub(super) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// A file of a round.
    pub(super) fn file(&self, round: usize, what: &str) -> PathBuf {
        self.scratch.path().join(format!("round-{round}.{what}"))
    }

    /// Removes the files of a round, but its log.
    pub(super) fn remove(&self, round: usize) {
        for what in ["console", "record", "replay"] {
            // Not all of them are there; and what is left goes with the directory.
            let _ = fs::remove_file(self.file(round, what));
        }
    }

    /// Whether the files of a round that went wrong are to stay.
    pub(super) fn keeps_another(&self) -> bool {
        let kept = self.kept.get();
        self.kept.set((kept + 1).min(KEPT));
        kept < KEPT
    }

    /// What may be told others: names of directories are this host's own business.
    pub(super) fn without_paths(&self, words: &str, log: &Path) -> String {
        let scratch = [
            (self.scratch.path(), "TMP"),
            (self.images.as_path(), "IMAGES"),
        ];
        let directories = scratch
            .into_iter()
            .chain(log.parent().map(|kept| (kept, "DIR")));
        directories
            .filter(|(path, _)| !path.as_os_str().is_empty())
            .fold(words.to_owned(), |words, (path, name)| {
                words.replace(&*path.to_string_lossy(), name)
            })
    }

    /// Removes what is of no use any more.
    pub(super) fn close(self) {
        if self.kept.get() > 0 {
            let _ = fs::remove_file(self.scratch.path().join("swap.raw"));
            let stays = self.scratch.keep();
            log::error!("what is to be looked at stays in {}", stays.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_images_are_named_with_what_to_do() {
        let empty = tempfile::tempdir().expect("a directory");
        let error = Workshop::open(empty.path(), Purpose::Alone)
            .err()
            .expect("no images")
            .to_string();
        assert!(error.contains("/vmlinux is missing"), "{error}");
        assert!(error.contains("--images"), "{error}");
    }

    #[test]
    fn nothing_tells_where_files_are() {
        let images = tempfile::tempdir().expect("a directory");
        for name in needed_images() {
            fs::write(images.path().join(name), "").expect("an image");
        }
        let workshop = Workshop::open(images.path(), Purpose::Alone).expect("all there");
        let said = format!(
            "cannot read {}/vmlinux, {}/x, /home/ada/records/round-1.log",
            images.path().display(),
            workshop.scratch().display()
        );
        let told = workshop.without_paths(&said, Path::new("/home/ada/records/round-1.log"));
        assert_eq!(told, "cannot read IMAGES/vmlinux, TMP/x, DIR/round-1.log");
    }
}
