//! Whether this host has the very images of which a guest is made.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use disk_server::fleet::{Image, ImageDigest};
use sha2::{Digest as _, Sha256};

use crate::threads;

/// How long an image may take to be read while other guests wait to be started.
const PATIENCE: Duration = Duration::from_secs(20);

/// The digests of files, each computed once for as long as its file stays as it is.
#[derive(Debug)]
pub struct Images {
    known: HashMap<String, Known>,
    /// Those that were not read in time, and are being read.
    late: HashMap<String, Receiver<io::Result<Known>>>,
    patience: Duration,
}

/// What a file had in it.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// `None` of one that was changed while it was read.
    stamp: Option<Stamp>,
    digest: ImageDigest,
}

/// What changes with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// An image is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be read.
    #[error("cannot read the image {path}: have it on every host")]
    Read {
        /// Its path.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It does not come to an end.
    #[error(
        "the image {path} was not read in {} s: see whether what it is on is slow, or hangs", patience.as_secs()
    )]
    Late {
        /// Its path.
        path: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// It is another one.
    #[error(
        "the image {path} is another one here (SHA-256 {found:.8}…, defined {defined:.8}…): copy the right \
         one to this host, or define the guest anew"
    )]
    Differs {
        /// Its path.
        path: String,
        /// What this host has.
        found: String,
        /// What the guest was defined with.
        defined: String,
    },
}

impl Default for Images {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            late: HashMap::new(),
            patience: PATIENCE,
        }
    }
}

impl Images {
    /// Checks that an image is here as it was when the guest was defined. One that is not read in time is read on,
    /// and not waited for again: another check fails at once until that is done.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn check(&mut self, image: &Image) -> Result<(), ImageError> {
        let found = self.digest_in_time(&image.path)?;
        match found == image.sha256 {
            true => Ok(()),
            false => Err(ImageError::Differs {
                path: image.path.clone(),
                found: found.to_string(),
                defined: image.sha256.to_string(),
            }),
        }
    }

    fn digest_in_time(&mut self, path: &str) -> Result<ImageDigest, ImageError> {
        let patience = self.patience;
        let late = || ImageError::Late {
            path: path.to_owned(),
            patience,
        };
        if let Some(earlier) = self.late.get(path) {
            match earlier.recv_timeout(Duration::ZERO) {
                Err(RecvTimeoutError::Timeout) => return Err(late()),
                // Perhaps the file has changed since: what is known of it spares to read it again if not.
                Ok(Ok(known)) => drop(self.known.insert(path.to_owned(), known)),
                Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => {}
            }
            self.late.remove(path);
        }
        let unreadable = |source| ImageError::Read {
            path: path.to_owned(),
            source,
        };
        let (done, read) = bounded(1);
        let (file, known) = (path.to_owned(), self.known.get(path).copied());
        let reading = threads::start("image", threads::UNCONFINED, move || {
            // Who waited may have gone.
            let _ = done.send(Known::of(&file, known));
        });
        reading.map_err(unreadable)?;
        match read.recv_timeout(patience) {
            Ok(found) => Ok(self.keep(path, found.map_err(unreadable)?)),
            Err(RecvTimeoutError::Timeout) => {
                self.late.insert(path.to_owned(), read);
                Err(late())
            }
            Err(RecvTimeoutError::Disconnected) => Err(unreadable(io::ErrorKind::Other.into())),
        }
    }

    fn keep(&mut self, path: &str, known: Known) -> ImageDigest {
        self.known.insert(path.to_owned(), known);
        known.digest
    }

    /// The SHA-256 of a file, however long that takes.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn digest(&mut self, path: &str) -> io::Result<ImageDigest> {
        let known = Known::of(path, self.known.get(path).copied())?;
        Ok(self.keep(path, known))
    }
}

impl Known {
    /// What a file has in it; it is not read if it is as it was `before`.
    fn of(path: &str, before: Option<Self>) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let stamp = Stamp::of(&file.metadata()?);
        if let Some(known) = before.filter(|known| known.stamp == Some(stamp)) {
            return Ok(known);
        }
        let mut hash = Sha256::new();
        io::copy(&mut file, &mut hash)?;
        let is_as_before = Stamp::of(&file.metadata()?) == stamp;
        Ok(Self {
            stamp: is_as_before.then_some(stamp),
            digest: ImageDigest(hash.finalize().into()),
        })
    }
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_image_is_known_by_what_is_in_it() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("vmlinux").display().to_string();
        // Of the empty file.
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let image = Image {
            path: path.clone(),
            sha256: empty.parse().expect("a digest"),
        };
        let mut images = Images::default();
        let error = images.check(&image).expect_err("there is none").to_string();
        assert!(error.contains("on every host"), "{error}");
        fs::write(&path, "").expect("a file");
        images.check(&image).expect("it is the same");
        fs::write(&path, "another").expect("a file");
        let error = images.check(&image).expect_err("it differs").to_string();
        assert!(error.contains("defined e3b0c442…"), "{error}");
        assert!(
            error.len() < 160 + path.len(),
            "it fits where it is told: {error}"
        );
    }

    #[test]
    fn an_image_that_hangs_is_not_waited_for_again_until_it_was_read() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("vmlinux");
        // It opens when there is a writer.
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let image = Image {
            path: path.display().to_string(),
            sha256: empty.parse().expect("a digest"),
        };
        let mut images = Images {
            patience: Duration::from_millis(1),
            ..Images::default()
        };
        let late = |error| matches!(error, Err(ImageError::Late { .. }));
        assert!(late(images.check(&image)));
        // Nobody waits so long.
        images.patience = Duration::from_secs(3600);
        assert!(late(images.check(&image)));
        let another = Image {
            path: folder.path().join("other").display().to_string(),
            ..image.clone()
        };
        fs::write(&another.path, "").expect("a file");
        images.check(&another).expect("it does not hang");
        drop(File::options().write(true).open(&path).expect("it is read"));
        fs::remove_file(&path).expect("it is there");
        fs::write(&path, "").expect("a file");
        while late(images.check(&image)) {
            std::thread::yield_now();
        }
        images.check(&image).expect("it was read");
    }
}
