//! Where a host keeps what about its guests.
//!
//! ```text
//! RUN/lock                      held by the daemon
//! RUN/host.sock                 what this host knows of its guests
//! RUN/ftvm                      the program of the daemon and its guests
//! RUN/guests/VM/lock            held by the guest's process, for as long as that lives
//! RUN/guests/VM/process.json    what it was started with
//! RUN/guests/VM/guest.toml      its configuration
//! RUN/guests/VM/control.sock    where it is asked
//! STATE/guests/VM/log           its standard error; of the run before: log.1
//! STATE/guests/VM/events        its events; events.1
//! STATE/guests/VM/console       its console's output; console.1. What has become too long is there, too
//! ```

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use disk_server::arbiter::VmName;

use super::config::Config;
use super::process::tells_end;

/// How long a file that a guest's process writes to may become.
const MOST_BYTES: u64 = 4 << 20;

/// The longest path of a Unix socket (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// The directories of a host.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    run: PathBuf,
    state: PathBuf,
}

/// The directories of a guest.
#[derive(Debug, Clone)]
pub(super) struct GuestFolders {
    run: PathBuf,
    state: PathBuf,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be made, or listed, or written to.
    #[error("cannot use {}", path.display())]
    Use {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A guest cannot have a directory of this name.
    #[error("a guest called {0:?} can have no directory of its name: call it otherwise")]
    Name(String),
    /// A socket can have no such path.
    #[error(
        "{} is too long for a socket, which has at most {MAX_SOCKET_PATH} bytes: choose a shorter \
         directory (run = \"…\")", path.display()
    )]
    Socket {
        /// The path.
        path: PathBuf,
    },
}

impl FolderError {
    pub(super) fn of(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self::Use {
            path: path.to_owned(),
            source,
        }
    }
}

impl Folders {
    /// Those at these paths.
    pub(super) fn at(run: &Path, state: &Path) -> Self {
        Self {
            run: run.to_owned(),
            state: state.to_owned(),
        }
    }

    /// Makes them where they are missing.
    pub(super) fn make(run: &Path, state: &Path) -> Result<Self, FolderError> {
        let folders = Self::at(run, state);
        for folder in [folders.run.join("guests"), folders.state.join("guests")] {
            fs::create_dir_all(&folder).map_err(FolderError::of(&folder))?;
        }
        Ok(folders)
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    pub(super) fn program(&self) -> PathBuf {
        self.run.join("ftvm")
    }

    pub(super) fn socket(&self) -> Result<PathBuf, FolderError> {
        fits(host_socket(&self.run))
    }

    pub(super) fn guest(&self, vm: &VmName) -> Result<GuestFolders, FolderError> {
        let name = vm.as_str();
        if name.contains('/') || name.starts_with('.') {
            return Err(FolderError::Name(name.to_owned()));
        }
        Ok(GuestFolders {
            run: self.run.join("guests").join(name),
            state: self.state.join("guests").join(name),
        })
    }

    /// The guests that have a directory for a process.
    pub(super) fn guests(&self) -> Result<Vec<VmName>, FolderError> {
        let guests = self.run.join("guests");
        let failed = FolderError::of(&guests);
        let mut names = Vec::new();
        for entry in fs::read_dir(&guests).map_err(&failed)? {
            let name = entry.map_err(&failed)?.file_name();
            names.extend(name.to_str().and_then(|name| name.parse::<VmName>().ok()));
        }
        Ok(names)
    }
}

/// Where the daemon with this directory is asked for its guests.
#[must_use]
pub fn host_socket(run: &Path) -> PathBuf {
    run.join("host.sock")
}

/// The files about a guest that a maintainer may see, whether they are there or not: nothing of its console is in
/// them. Each is a directory that is the daemon's, and a path in it.
///
/// # Errors
/// [`FolderError::Name`].
pub fn papers(config: &Config, vm: &VmName) -> Result<Vec<(PathBuf, PathBuf)>, FolderError> {
    let within = Folders::at(Path::new(""), Path::new("")).guest(vm)?;
    let of_run = within.papers_of_run().map(|path| (&config.run, path));
    let of_state = within.papers_of_state().map(|path| (&config.state, path));
    let papers = of_run.into_iter().chain(of_state);
    Ok(papers
        .map(|(folder, path)| (folder.clone(), path))
        .collect())
}

impl GuestFolders {
    /// Makes them where they are missing.
    pub(super) fn make(&self) -> Result<(), FolderError> {
        [&self.run, &self.state]
            .into_iter()
            .try_for_each(|folder| fs::create_dir_all(folder).map_err(FolderError::of(folder)))
    }

    /// Removes what is about the process.
    pub(super) fn remove_run(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.run)
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    pub(super) fn record(&self) -> PathBuf {
        self.run.join("process.json")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.run.join("guest.toml")
    }

    pub(super) fn control(&self) -> Result<PathBuf, FolderError> {
        fits(self.run.join("control.sock"))
    }

    pub(super) fn log(&self) -> PathBuf {
        self.state.join("log")
    }

    pub(super) fn events(&self) -> PathBuf {
        self.state.join("events")
    }

    pub(super) fn console(&self) -> PathBuf {
        self.state.join("console")
    }

    /// What a maintainer may see of its process.
    fn papers_of_run(&self) -> [PathBuf; 2] {
        [self.config(), self.record()]
    }

    /// What a maintainer may see of what its processes said: all but the console.
    fn papers_of_state(&self) -> [PathBuf; 4] {
        let (log, events) = (self.log(), self.events());
        let (log_1, events_1) = (log.with_extension("1"), events.with_extension("1"));
        [log, log_1, events, events_1]
    }

    /// What its process writes to: always behind what is there.
    fn written(&self) -> [PathBuf; 3] {
        [self.log(), self.events(), self.console()]
    }

    /// Begins those anew that have become too long, in place of what the run before has said. What is written
    /// in the meantime may be lost; that the guest has ended is not: no later daemon has another word of it.
    ///
    /// # Errors
    /// What was said is not kept, as on a full disk: it is begun anew all the same.
    pub(super) fn bound(&self) -> Result<(), FolderError> {
        let mut bounded = Ok(());
        for path in self.written() {
            if !fs::metadata(&path).is_ok_and(|file| file.len() > MOST_BYTES) {
                continue;
            }
            let earlier = path.with_extension("1");
            let kept = fs::copy(&path, &earlier).map_err(FolderError::of(&earlier));
            if path == self.events() && tells_end(&path) {
                continue;
            }
            let emptied = OpenOptions::new().write(true).truncate(true).open(&path);
            let emptied = emptied.map_err(FolderError::of(&path));
            bounded = bounded.and(kept.map(drop)).and(emptied.map(drop));
        }
        bounded
    }

    /// Keeps what the run before has said, in place of what the one before that had.
    pub(super) fn rotate(&self) -> Result<(), FolderError> {
        for path in self.written() {
            match fs::rename(&path, path.with_extension("1")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(FolderError::of(&path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn fits(path: PathBuf) -> Result<PathBuf, FolderError> {
    match path.as_os_str().len() > MAX_SOCKET_PATH {
        true => Err(FolderError::Socket { path }),
        false => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_guest_has_directories_of_its_name_and_no_others() {
        let folder = tempfile::tempdir().expect("a directory");
        let (run, state) = (folder.path().join("run"), folder.path().join("state"));
        let folders = Folders::make(&run, &state).expect("they can be made");
        let vm = |name: &str| name.parse::<VmName>().expect("a name");
        for name in ["..", ".", "../a", "a/b", ".a"] {
            assert!(folders.guest(&vm(name)).is_err(), "{name}");
        }
        let guest = folders.guest(&vm("db.2")).expect("a plain name");
        guest.make().expect("they can be made");
        assert_eq!(folders.guests().expect("a list"), [vm("db.2")]);
        fs::write(guest.log(), "first").expect("a file");
        guest.rotate().expect("it is renamed");
        guest.rotate().expect("there is nothing to rename");
        let kept = fs::read_to_string(state.join("guests/db.2/log.1")).expect("it is kept");
        assert_eq!(kept, "first");
        let writer = OpenOptions::new()
            .create(true)
            .append(true)
            .open(guest.log());
        let mut writer = writer.expect("a file");
        writer
            .write_all(&vec![b'x'; MOST_BYTES as usize])
            .expect("it is written");
        guest.bound().expect("nothing is too long");
        writer.write_all(b"y").expect("it is written");
        guest.bound().expect("it is begun anew");
        writer.write_all(b"z").expect("it is written");
        assert_eq!(fs::read(guest.log()).expect("a file"), b"z");
        let kept = fs::metadata(state.join("guests/db.2/log.1")).expect("it is kept");
        assert_eq!(kept.len(), MOST_BYTES + 1);

        // As where the disk has no room for another.
        fs::remove_file(state.join("guests/db.2/log.1")).expect("it is there");
        fs::create_dir(state.join("guests/db.2/log.1")).expect("it is free");
        let long = vec![b'x'; MOST_BYTES as usize + 1];
        writer.write_all(&long).expect("it is written");
        guest.bound().expect_err("it is not kept");
        assert_eq!(fs::read(guest.log()).expect("a file"), b"", "and gone");
        guest.bound().expect("nothing is too long");

        let end = b"\n{\"event\":\"ended\",\"reason\":\"PowerOff\"}\n";
        fs::write(guest.events(), [&long[..], end].concat()).expect("a file");
        guest.bound().expect("it is kept");
        assert!(tells_end(&guest.events()));
        fs::write(guest.events(), [end, &long[..]].concat()).expect("a file");
        guest.bound().expect("it is begun anew");
        assert_eq!(fs::read(guest.events()).expect("a file"), b"");
        guest.remove_run().expect("it is removed");
        assert_eq!(folders.guests().expect("a list"), []);
        let long = Folders::make(&run.join("x".repeat(100)), &state).expect("they can be made");
        assert!(long.socket().is_err());
    }
}
