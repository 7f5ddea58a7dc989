//! Recordings that stay, for another host: a directory with logs, and a file that says what they are of.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::host::HostFacts;
use super::trial::TestGuest;

const MANIFEST: &str = "selftest.json";

/// Why recordings cannot be kept, or replayed.
#[derive(Debug, thiserror::Error)]
pub enum RecordingsError {
    /// The directory cannot be written.
    #[error("cannot keep recordings in {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// There are recordings in it.
    #[error("{} has recordings already: name a new directory", .0.display())]
    NotEmpty(PathBuf),
    /// There are none in it.
    #[error("{} has no recordings: make some with `ftvm selftest --record`, and copy all of the directory", .0.display())]
    Missing(PathBuf, #[source] Option<io::Error>),
    /// The list of them is not what it should be.
    #[error("{} is not a list of recordings of this version of ftvm", .0.display())]
    Damaged(PathBuf, #[source] serde_json::Error),
}

/// One recording.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Recording {
    /// Of its file, without the extension.
    pub(super) name: String,
    pub(super) guest: TestGuest,
    /// What the guest said of its load.
    pub(super) load: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    host: HostFacts,
    recordings: Vec<Recording>,
}

/// The recordings in a directory.
#[derive(Debug)]
pub(super) struct Recordings {
    directory: PathBuf,
    manifest: Manifest,
}

impl Recordings {
    /// None yet, of this host.
    pub(super) fn create(directory: &Path, host: HostFacts) -> Result<Self, RecordingsError> {
        let failed = |source| RecordingsError::Write(directory.to_owned(), source);
        fs::create_dir_all(directory).map_err(failed)?;
        if directory.join(MANIFEST).exists() {
            return Err(RecordingsError::NotEmpty(directory.to_owned()));
        }
        let recordings = Self {
            directory: directory.to_owned(),
            manifest: Manifest {
                host,
                recordings: Vec::new(),
            },
        };
        recordings.write()?;
        Ok(recordings)
    }

    /// Those that are there.
    pub(super) fn open(directory: &Path) -> Result<Self, RecordingsError> {
        let path = directory.join(MANIFEST);
        let missing = |source| RecordingsError::Missing(directory.to_owned(), source);
        let text = fs::read(&path).map_err(|source| missing(Some(source)))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|source| RecordingsError::Damaged(path, source))?;
        if manifest.recordings.is_empty() {
            return Err(missing(None));
        }
        Ok(Self {
            directory: directory.to_owned(),
            manifest,
        })
    }

    /// The log of the recording of this name.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    /// Adds one whose log is there.
    pub(super) fn add(&mut self, recording: Recording) -> Result<(), RecordingsError> {
        self.manifest.recordings.push(recording);
        self.write()
    }

    pub(super) fn all(&self) -> &[Recording] {
        &self.manifest.recordings
    }

    /// The host that they were made on.
    pub(super) fn host(&self) -> &HostFacts {
        &self.manifest.host
    }

    fn write(&self) -> Result<(), RecordingsError> {
        let text = serde_json::to_vec_pretty(&self.manifest).expect("plain data");
        let failed = |source| RecordingsError::Write(self.directory.clone(), source);
        fs::write(self.directory.join(MANIFEST), text).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{self, Effort};

    #[test]
    fn a_directory_without_recordings_is_told_so() {
        let directory = tempfile::tempdir().expect("a directory");
        let is_missing = || {
            let opened = Recordings::open(directory.path());
            matches!(opened, Err(RecordingsError::Missing(..)))
        };
        assert!(is_missing(), "nothing is there");
        let host = HostFacts::of_this_host(&doctor::examine(Effort::Needed));
        Recordings::create(directory.path(), host).expect("a list");
        assert!(is_missing(), "the list is empty");
    }
}
