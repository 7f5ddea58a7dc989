//! Whether this host has the very images of which a guest is made.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;

use disk_server::fleet::{Image, ImageDigest};
use sha2::{Digest as _, Sha256};

/// The digests of files, each computed once for as long as its file stays as it is.
#[derive(Debug, Default)]
pub struct Images {
    known: HashMap<String, (Stamp, ImageDigest)>,
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

impl Images {
    /// Checks that an image is here as it was when the guest was defined.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn check(&mut self, image: &Image) -> Result<(), ImageError> {
        let found = self
            .digest(&image.path)
            .map_err(|source| ImageError::Read {
                path: image.path.clone(),
                source,
            })?;
        match found == image.sha256 {
            true => Ok(()),
            false => Err(ImageError::Differs {
                path: image.path.clone(),
                found: found.to_string(),
                defined: image.sha256.to_string(),
            }),
        }
    }

    /// The SHA-256 of a file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn digest(&mut self, path: &str) -> io::Result<ImageDigest> {
        let mut file = File::open(path)?;
        let stamp = Stamp::of(&file.metadata()?);
        if let Some((seen, digest)) = self.known.get(path)
            && *seen == stamp
        {
            return Ok(*digest);
        }
        let mut hash = Sha256::new();
        io::copy(&mut file, &mut hash)?;
        let digest = ImageDigest(hash.finalize().into());
        // One that changes while it is read is not known.
        if Stamp::of(&file.metadata()?) == stamp {
            self.known.insert(path.to_owned(), (stamp, digest));
        }
        Ok(digest)
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
}
