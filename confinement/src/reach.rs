//! Which files and ports a process may reach (Landlock; landlock(7)).

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd,
    RestrictSelfAttr as _, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, Scope,
};

/// The newest version of Landlock that is asked for: beyond it there is nothing to be had but to be told of
/// refusals.
const NEWEST: ABI = ABI::V6;

/// Signals to processes that are not confined with this one, and their abstract sockets.
pub(crate) fn scopes() -> BitFlags<Scope> {
    Scope::from_all(NEWEST)
}

/// What is done with a file, or with those below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is read.
    Read,
    /// It is a device, or used as one: read, written, and asked for what it can.
    Device,
    /// Files are appended to, and made anew where they were moved away.
    Append,
    /// A directory where a socket is bound.
    Bind,
    /// A directory whose files are the program's own: made, read, written and deleted.
    Own,
}

impl Use {
    fn access(self) -> BitFlags<AccessFs> {
        match self {
            Self::Read => AccessFs::ReadFile.into(),
            Self::Device => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev,
            Self::Append => AccessFs::WriteFile | AccessFs::MakeReg,
            Self::Bind => AccessFs::MakeSock | AccessFs::RemoveFile,
            Self::Own => {
                AccessFs::ReadFile
                    | AccessFs::ReadDir
                    | AccessFs::WriteFile
                    | AccessFs::Truncate
                    | AccessFs::MakeReg
                    | AccessFs::RemoveFile
            }
        }
    }
}

/// TCP ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Whichever: who names them is not known yet.
    Any,
    /// These.
    These(BTreeSet<u16>),
}

impl Default for Ports {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Ports {
    fn add(&mut self, more: &Self) {
        match (self, more) {
            (Self::These(ports), Self::These(more)) => ports.extend(more),
            (ports, Self::Any) => *ports = Self::Any,
            (Self::Any, _) => {}
        }
    }
}

impl FromIterator<u16> for Ports {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        Self::These(ports.into_iter().collect())
    }
}

/// Files and ports that a process may reach. Nothing, at first.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    files: Vec<(PathBuf, Use)>,
    /// Those that are reached by their directories.
    replaced: Vec<(PathBuf, Use)>,
    connect: Ports,
    bind: Ports,
}

/// Why a process can reach more than it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReachError {
    /// The kernel refuses.
    #[error("this process can reach every file and port of its user: {0}")]
    Landlock(#[from] RulesetError),
    /// It has no Landlock.
    #[error(
        "this process can reach every file and port of its user: this kernel has no Landlock, or has it switched \
         off; take one of 5.13 or newer with CONFIG_SECURITY_LANDLOCK, and `landlock` among `lsm=` of its command line"
    )]
    Missing,
}

/// What the C library reads, for the memory that it gives.
const MEMORY: [&str; 3] = ["/proc/sys/vm", "/sys/devices/system/cpu", "/sys/kernel/mm"];

impl Reach {
    /// What every program reads for as long as it runs.
    #[must_use]
    pub fn of_every_program() -> Self {
        let files = MEMORY.map(|file| (file.into(), Use::Read));
        Self {
            files: files.into(),
            ..Self::default()
        }
    }

    /// A file, or all below a directory, is used so, too. What is not there then is not.
    #[must_use]
    pub fn with(mut self, path: impl Into<PathBuf>, used: Use) -> Self {
        self.files.push((path.into(), used));
        self
    }

    /// The same of a file that others may put another one in the place of: of its directory.
    ///
    /// What is no regular file is used as it is: nobody replaces a pipe or a terminal.
    #[must_use]
    pub fn with_replaced(mut self, path: &Path, used: Use) -> Self {
        match path.metadata() {
            Ok(found) if !found.is_file() => return self.with(path, used),
            _ => {}
        }
        self.replaced.push((path.to_owned(), used));
        // Where the name is a link's, both directories are on the way.
        let reach = match path.canonicalize() {
            Ok(real) if directory_of(&real) != directory_of(path) => {
                self.with_directory_of(&real, used)
            }
            _ => self,
        };
        reach.with_directory_of(path, used)
    }

    /// The same of the directory that a file is in, or is to be in.
    #[must_use]
    pub fn with_directory_of(self, path: &Path, used: Use) -> Self {
        self.with(directory_of(path), used)
    }

    /// Programs that listen at these ports are reached, too.
    #[must_use]
    pub fn connecting(mut self, ports: &Ports) -> Self {
        self.connect.add(ports);
        self
    }

    /// The process listens at these ports, too.
    #[must_use]
    pub fn binding(mut self, ports: &Ports) -> Self {
        self.bind.add(ports);
        self
    }

    /// Both, to be enforced.
    #[must_use]
    pub(crate) fn and(mut self, other: &Self) -> Self {
        self.files.extend_from_slice(&other.files);
        self.connecting(&other.connect).binding(&other.bind)
    }

    /// Lets the calling thread, and those that it starts, reach nothing else from now on; with Linux 7.0 all threads
    /// of the `whole` process. Tells what the kernel cannot keep out of reach.
    /// `scopes` are confined too: once for a process, as a thread that is confined to the same twice could not
    /// signal one that is so once (Linux 6.12).
    ///
    /// The files are to be kept open: a rule is about an inode, and one of /proc is another one once the kernel has
    /// forgotten its name.
    pub(crate) fn enforce(
        &self,
        scopes: BitFlags<Scope>,
        whole: bool,
    ) -> Result<Enforced, ReachError> {
        let (rules, files) = self.rules(scopes)?;
        let status = rules.all_threads(whole)?.restrict_self()?;
        let version = match status.landlock {
            LandlockStatus::Available { effective_abi, .. } => effective_abi,
            _ => return Err(ReachError::Missing),
        };
        let lacking = match status.ruleset {
            RulesetStatus::FullyEnforced => None,
            _ => lacking(version),
        };
        Ok(Enforced { lacking, files })
    }

    /// Whether this process is permitted to use all that is there as it is to, with the capabilities that it has in
    /// effect.
    pub(crate) fn is_permitted(&self) -> bool {
        let replaced = self.replaced.iter().map(|(path, used)| (path, used));
        let files = self.files.iter().map(|(path, used)| (path, used));
        files.chain(replaced).all(|(path, used)| {
            let access = match used {
                Use::Read if path.is_dir() => libc::R_OK | libc::X_OK,
                Use::Read => libc::R_OK,
                Use::Device => libc::R_OK | libc::W_OK,
                Use::Append if !path.is_dir() => libc::W_OK,
                Use::Append | Use::Bind | Use::Own => libc::W_OK | libc::X_OK,
            };
            may_access(path, access)
        })
    }

    fn rules(
        &self,
        scopes: BitFlags<Scope>,
    ) -> Result<(RulesetCreated, Vec<PathFd>), RulesetError> {
        let mut rules = Ruleset::default().handle_access(AccessFs::from_all(NEWEST))?;
        if !scopes.is_empty() {
            rules = rules.scope(scopes)?;
        }
        for (ports, access) in [
            (&self.connect, AccessNet::ConnectTcp),
            (&self.bind, AccessNet::BindTcp),
        ] {
            if *ports != Ports::Any {
                rules = rules.handle_access(access)?;
            }
        }
        let mut rules = rules.create()?;
        let mut files = Vec::new();
        for (path, used) in &self.files {
            // What has no name, as a pipe that is /dev/stdout, is reached by its descriptor, and takes no rule.
            let (Ok(file), Ok(_)) = (PathFd::new(path), path.canonicalize()) else {
                log::debug!("{} is not there to be reached", path.display());
                continue;
            };
            let access = match path.is_dir() {
                true => used.access(),
                false => used.access() & AccessFs::from_file(NEWEST),
            };
            rules = rules.add_rule(PathBeneath::new(file.as_fd(), access))?;
            files.push(file);
        }
        for (ports, access) in [
            (&self.connect, AccessNet::ConnectTcp),
            (&self.bind, AccessNet::BindTcp),
        ] {
            if let Ports::These(ports) = ports {
                for port in ports {
                    rules = rules.add_rule(NetPort::new(*port, access))?;
                }
            }
        }
        Ok((rules, files))
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Enforced {
    /// What the kernel cannot keep out of reach.
    pub(crate) lacking: Option<String>,
    /// What can be reached.
    pub(crate) files: Vec<PathFd>,
}

/// Whether nothing forbids this process to do that with a file (faccessat2(2)), by its capabilities in effect: access(2)
/// goes by those that root could have.
fn may_access(path: &Path, access: i32) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: the kernel reads the text, which ends with a zero and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            libc::AT_FDCWD,
            path.as_ptr(),
            access,
            libc::AT_EACCESS,
        )
    };
    result == 0 || io::Error::last_os_error().kind() != io::ErrorKind::PermissionDenied
}

/// What a version of Landlock cannot do, for people.
fn lacking(version: ABI) -> Option<String> {
    let lacking: Vec<_> = [
        (ABI::V3, "6.2", "truncating files"),
        (ABI::V4, "6.7", "TCP ports"),
        (ABI::V5, "6.10", "requests to devices"),
        (ABI::V6, "6.12", "signals and abstract sockets"),
    ]
    .into_iter()
    .filter(|(since, ..)| version < *since)
    .map(|(_, linux, what)| format!("{what} (Linux {linux})"))
    .collect();
    (!lacking.is_empty()).then(|| {
        format!(
            "this kernel's Landlock does not confine what this process does with {}",
            lacking.join(", ")
        )
    })
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_told_what_it_lacks() {
        assert_eq!(lacking(ABI::V7), None);
        let text = lacking(ABI::V2).expect("it is old");
        assert!(text.contains("TCP ports (Linux 6.7), requests"), "{text}");
    }

    #[test]
    fn whoever_is_not_known_may_be_any() {
        let mut ports: Ports = [7420].into_iter().collect();
        ports.add(&[10809].into_iter().collect());
        assert_eq!(ports, [7420, 10809].into_iter().collect());
        ports.add(&Ports::Any);
        ports.add(&[1].into_iter().collect());
        assert_eq!(ports, Ports::Any);
    }

    #[test]
    fn a_file_that_is_replaced_is_reached_by_its_directory() {
        assert_eq!(directory_of(Path::new("events")), Path::new("."));
        assert_eq!(directory_of(Path::new("/a/events")), Path::new("/a"));
        let of = |path: &str| {
            let reach = Reach::default().with_replaced(Path::new(path), Use::Append);
            reach.files[0].0.clone()
        };
        assert_eq!(of("/dev/null"), Path::new("/dev/null"));
        assert_eq!(of("/proc/cpuinfo"), Path::new("/proc"));
    }
}
