//! Runs that are alive, and what dead ones left behind.
//!
//! Every run has an identifier that is part of its namespaces' names, and holds
//! a lock on `.ftvm/live/<id>.lock`. The lock goes with the process, however it
//! ends; the next run finds lock files that nobody holds and removes those
//! runs' namespaces and processes.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Once;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::netns::Namespace;

/// A run's lock.
#[derive(Debug)]
pub(crate) struct RunLock {
    id: String,
    path: PathBuf,
    _lock: File,
}

impl RunLock {
    /// Begins a run: cleans up after dead ones, and finds a free identifier.
    pub(crate) fn begin(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).map_err(|source| file_error(directory, source))?;
        sweep(directory)?;
        let process = std::process::id();
        for number in 0_u32.. {
            let id = format!("{process}-{number}");
            // Another checkout's dead run may have left this name.
            if Namespace::named(namespace_name(&id, "fabric")).exists() {
                continue;
            }
            let path = directory.join(format!("{id}.lock"));
            if let Some(lock) = lock(&path)? {
                return Ok(Self {
                    id,
                    path,
                    _lock: lock,
                });
            }
        }
        unreachable!("some number is free")
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // A file that stays is removed by the next run.
        let _ = fs::remove_file(&self.path);
    }
}

fn file_error(path: &Path, source: std::io::Error) -> Error {
    Error::File {
        path: path.to_owned(),
        source,
    }
}

/// Takes the lock at `path`, unless somebody has it.
fn lock(path: &Path) -> Result<Option<File>> {
    let failed = |source| file_error(path, source);
    let file = File::create(path).map_err(failed)?;
    if file.try_lock().is_err() {
        return Ok(None);
    }
    // A sweep may have removed the file between opening and locking it.
    let inode = file.metadata().map_err(failed)?.ino();
    let same = fs::metadata(path).is_ok_and(|metadata| metadata.ino() == inode);
    Ok(same.then_some(file))
}

/// Cleans up after runs that ended without doing it themselves.
fn sweep(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(|source| file_error(directory, source))? {
        let path = entry
            .map_err(|source| file_error(directory, source))?
            .path();
        let Some(id) = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".lock"))
        else {
            continue;
        };
        if let Some(_held) = lock(&path)? {
            log::info!("cleaning up after run {id}");
            remove_namespaces(id)?;
            fs::remove_file(&path).map_err(|source| file_error(&path, source))?;
        }
    }
    Ok(())
}

/// The name of one of a run's namespaces.
pub(crate) fn namespace_name(id: &str, what: &str) -> String {
    format!("ftvm-{id}-{what}")
}

/// Removes all namespaces of a run and kills what runs in them.
pub(crate) fn remove_namespaces(id: &str) -> Result<()> {
    let prefix = namespace_name(id, "");
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if let Some(name) = entry.file_name().to_str()
            && name.starts_with(&prefix)
        {
            Namespace::named(name).remove()?;
        }
    }
    Ok(())
}

/// Runs of this process whose namespaces go when it is interrupted.
static RUNS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Makes Ctrl-C (and SIGTERM, SIGHUP) remove the namespaces of run `id` before
/// the process ends. Processes in them are killed with them.
pub(crate) fn interrupt_removes(id: &str) {
    static HANDLER: Once = Once::new();
    RUNS.lock().push(id.to_owned());
    HANDLER.call_once(|| {
        let installed = ctrlc::try_set_handler(|| {
            for id in RUNS.lock().iter() {
                if let Err(error) = remove_namespaces(id) {
                    eprintln!("{error}");
                }
            }
            std::process::exit(130);
        });
        if let Err(error) = installed {
            log::warn!("Ctrl-C will leave namespaces to the next run to remove: {error}");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("1-0.lock");
        let first = lock(&path).expect("the lock file");
        assert!(first.is_some());
        assert!(lock(&path).expect("the lock file").is_none());
        drop(first);
        assert!(lock(&path).expect("the lock file").is_some());
    }

    #[test]
    fn a_sweep_removes_only_dead_runs() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let alive = directory.path().join("alive.lock");
        let dead = directory.path().join("dead.lock");
        let _held = lock(&alive).expect("the lock file");
        fs::write(&dead, "").expect("a lock file that nobody holds");
        sweep(directory.path()).expect("the sweep");
        assert!(alive.exists());
        assert!(!dead.exists());
    }
}
