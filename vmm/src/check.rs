//! Finds all that is wrong with a configuration, by the code that reads it at a start.
//!
//! Which kind of file it is shows in what it says: the kind that knows most of its keys, and of those the one that
//! misses fewest. That needs no name of a file, which may be any, and no list of keys beside those that are read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use transport::configuration::{Fault, FaultKind, Faults, Place};
use transport::{EndpointError, TrustError, check_trust, parse_trust};

use crate::boot::{BootError, BootImages};
use crate::config::VmConfig;
use crate::host::{Config, DaemonError, Images, hindrances};
use crate::operator::define;

/// What is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A host: host.toml.
    Host,
    /// A guest, as `ftvm vm define` takes it.
    Guest,
    /// Who is trusted: trust.toml.
    Trust,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It could be one of several kinds.
    #[error(
        "{} says too little of what it configures: add --as host, --as guest or --as trust",
        path.display()
    )]
    Ambiguous {
        /// Its path.
        path: PathBuf,
    },
    /// This is wrong.
    #[error("{}", .0.join("\n"))]
    Wrong(Vec<String>),
}

impl Kind {
    const ALL: [Self; 3] = [Self::Host, Self::Guest, Self::Trust];

    /// What a file of this kind is, in words.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Host => "a host's configuration",
            Self::Guest => "a guest's configuration",
            Self::Trust => "a list of who is trusted",
        }
    }

    fn parse(self, text: &str) -> Result<(), Faults> {
        match self {
            Self::Host => Config::parse(text).map(drop),
            Self::Guest => VmConfig::parse(text).map(drop),
            Self::Trust => parse_trust(text),
        }
    }

    /// The kind that the text is of, if that shows.
    fn of(text: &str) -> Option<Self> {
        let misfit = |kind: Self| {
            let faults = kind.parse(text).err();
            [
                FaultKind::UnknownKey,
                FaultKind::MissingKey,
                FaultKind::Value,
            ]
            .map(|of| faults.as_ref().map_or(0, |faults| faults.count(of)))
        };
        let mut kinds = Self::ALL.map(|kind| (misfit(kind), kind));
        kinds.sort_by_key(|(misfit, _)| *misfit);
        let [(least, kind), (next, _), _] = kinds;
        (least < next).then_some(kind)
    }
}

/// Checks a file, with what it names on this machine. The kind is told, or found out.
///
/// # Errors
/// [`CheckError`].
pub fn check(path: &Path, kind: Option<Kind>) -> Result<Kind, CheckError> {
    let text = fs::read_to_string(path).map_err(|source| CheckError::Read {
        path: path.to_owned(),
        source,
    })?;
    let found = kind.or_else(|| Kind::of(&text));
    let kind = found.ok_or_else(|| CheckError::Ambiguous {
        path: path.to_owned(),
    })?;
    let file = File { path, text: &text };
    let wrong = match kind {
        Kind::Host => file.host(),
        Kind::Guest => file.guest(),
        Kind::Trust => file.trust(),
    };
    match wrong.is_empty() {
        true => Ok(kind),
        false => Err(CheckError::Wrong(wrong)),
    }
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn host(&self) -> Vec<String> {
        let config = match Config::parse(self.text) {
            Ok(config) => config,
            Err(faults) => return self.all(&faults),
        };
        let found = hindrances(&config).into_iter();
        found
            .flat_map(|hindrance| match hindrance.error {
                // It has places of its own.
                DaemonError::Keys(EndpointError::Trust(TrustError::Parse { path, faults })) => {
                    lines(&faults, &path)
                }
                error => vec![self.at(hindrance.key, error)],
            })
            .collect()
    }

    fn guest(&self) -> Vec<String> {
        // With its paths as they are meant.
        let read = match VmConfig::parse(self.text) {
            Ok(vm) => vm.in_folder_of(self.path),
            Err(faults) => return self.all(&faults),
        };
        let mut images = Images::default();
        let paths = [
            ("kernel", Some(&read.kernel)),
            ("initrd", read.initrd.as_ref()),
        ];
        let paths = paths
            .into_iter()
            .filter_map(|(key, path)| Some((key, path?)));
        let unread = paths.filter_map(|(key, path)| {
            let error = define::image(path, &mut images).err()?;
            Some(self.at(key, error))
        });
        let unread: Vec<String> = unread.collect();
        if !unread.is_empty() {
            return unread;
        }
        let boots = BootImages::open(
            &read.kernel,
            read.initrd.as_deref(),
            &read.command_line(),
            read.clock.kernel_reads(),
            read.memory_bytes(),
        );
        let boots = boots.err().map(|error| self.at(key_of(&error), error));
        let defined = define::definition(read, &mut images).err();
        let defined = defined.map(|error| self.at("name", error));
        boots.into_iter().chain(defined).collect()
    }

    fn trust(&self) -> Vec<String> {
        match check_trust(self.path) {
            Ok(()) => Vec::new(),
            Err(TrustError::Parse { faults, .. }) => self.all(&faults),
            Err(error) => vec![format!("{:#}", anyhow::Error::from(error))],
        }
    }

    fn all(&self, faults: &Faults) -> Vec<String> {
        lines(faults, self.path)
    }

    /// An error that a key's value leads to.
    fn at(&self, key: &str, error: impl Into<anyhow::Error>) -> String {
        let fault = Fault {
            place: Place::of_key(self.text, key),
            kind: FaultKind::Value,
            reason: format!("{:#}", error.into()),
        };
        Faults::from(fault).in_file(self.path)
    }
}

/// The key of a guest's configuration that keeps it from booting.
fn key_of(error: &BootError) -> &'static str {
    match error {
        BootError::CommandLine(_) => "append",
        BootError::TooLarge { .. } => "memory_mib",
        BootError::Read { .. }
        | BootError::Compressed(_)
        | BootError::NotAKernel { .. }
        | BootError::Rewrite(_)
        | BootError::Load(_) => "kernel",
    }
}

fn lines(faults: &Faults, path: &Path) -> Vec<String> {
    faults.in_file(path).lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use transport::{Role, key_set};

    use super::*;

    const HOST: &str = "disk_server = \"192.0.2.1:7420\"\nlogging_address = \"127.0.0.1\"\n\
                        console = \"127.0.0.1:0\"\nbridge = \"no-such-bridge\"\n";

    fn check(path: &Path, text: &str) -> Result<Kind, CheckError> {
        fs::write(path, text).expect("a file");
        super::check(path, None)
    }

    /// What is wrong, without where the file is.
    fn wrong(path: &Path, text: &str) -> Vec<String> {
        match check(path, text) {
            Err(CheckError::Wrong(faults)) => faults
                .iter()
                .map(|fault| fault.replace(&*path.display().to_string(), "FILE"))
                .collect(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn the_kind_shows_in_what_a_file_says() {
        for (text, kind) in [
            (HOST, Some(Kind::Host)),
            ("logging_adress = \"10.0.1.1\"\nports = 1", Some(Kind::Host)),
            ("kernel = \"k\"\nhosts = [\"a\"]", Some(Kind::Guest)),
            (
                "name = \"db\"\nmemroy_mib = 1\nkernel = 2",
                Some(Kind::Guest),
            ),
            ("[hosts]\na = \"signed\"", Some(Kind::Trust)),
            ("[operators]\na = 1\nb = 2", Some(Kind::Trust)),
            ("", None),
            ("name = \"db\"", None),
        ] {
            assert_eq!(Kind::of(text), kind, "{text}");
        }
    }

    #[test]
    fn who_says_too_little_is_asked() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("a.toml");
        let error = check(&path, "").expect_err("of which kind?").to_string();
        assert!(error.contains("--as host"), "{error}");
        let told = super::check(&path, Some(Kind::Guest));
        let Err(CheckError::Wrong(faults)) = told else {
            panic!("{told:?}");
        };
        assert!(
            faults[0].ends_with(":1:1: the key `name` is missing"),
            "{faults:?}"
        );
        let error = super::check(&folder.path().join("b"), None).expect_err("no file");
        assert!(matches!(error, CheckError::Read { .. }), "{error}");
    }

    #[test]
    fn of_a_host_all_that_is_not_there_is_told_at_its_key() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("host.toml");
        let (key, trust) = (
            folder.path().join("key.pem"),
            folder.path().join("trust.toml"),
        );
        let text = format!(
            "{HOST}key = \"{}\"\ntrust = \"{}\"\n",
            key.display(),
            trust.display()
        );
        let faults = wrong(&path, &text);
        assert_eq!(faults.len(), 3, "{faults:?}");
        for (fault, start) in faults
            .iter()
            .zip(["FILE:5:1: ", "FILE:6:1: ", "FILE:4:1: "])
        {
            assert!(fault.starts_with(start), "{fault}");
        }
        assert!(faults[2].contains("no-such-bridge"), "{faults:?}");

        fs::write(&trust, "[hosts]\na = 1\nb = 2\n").expect("a file");
        let faults = wrong(&path, &text).join("\n");
        assert!(
            faults.contains("trust.toml:2:5: ") && faults.contains("trust.toml:3:5: "),
            "{faults}"
        );

        let elsewhere = text.replace("127.0.0.1", "192.0.2.7");
        let faults = wrong(&path, &elsewhere);
        assert_eq!(faults.len(), 5, "{faults:?}");
        let faults = faults.join("\n");
        assert!(
            faults.contains("FILE:2:1: cannot listen on 192.0.2.7:0"),
            "{faults}"
        );

        let watched = "metrics = \"192.0.2.8:1\"\n";
        let long = format!("run = \"/{}\"\n", "x".repeat(100));
        let faults = wrong(&path, &format!("{HOST}plain = true\n{watched}{long}"));
        let [bridge, run, metrics] = &faults[..] else {
            panic!("{faults:?}");
        };
        assert!(bridge.contains("no-such-bridge"), "{faults:?}");
        assert!(
            run.starts_with("FILE:7:1: ") && run.contains("too long for a socket"),
            "{faults:?}"
        );
        assert!(
            metrics.starts_with("FILE:6:1: cannot listen on 192.0.2.8:1"),
            "{faults:?}"
        );

        let faults = wrong(&path, &format!("{HOST}ports = -1\nbrigde = 2\n"));
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn a_port_on_which_the_daemon_may_listen_is_no_fault() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("it has one").to_string();
        let folder = tempfile::tempdir().expect("a directory");
        let text = HOST.replace("127.0.0.1:0", &address);
        let faults = wrong(
            &folder.path().join("host.toml"),
            &format!("{text}plain = true\n"),
        );
        assert_eq!(faults.len(), 1, "the bridge alone: {faults:?}");
    }

    #[test]
    fn of_a_guest_every_image_that_is_not_there_is_told() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("db.toml");
        let text = "name = \"db\"\nkernel = \"vmlinux\"\ninitrd = \"initrd\"\n";
        let faults = wrong(&path, text);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("FILE:2:1: ") && faults[0].contains("vmlinux"));
        assert!(faults[1].starts_with("FILE:3:1: ") && faults[1].contains("initrd"));
        fs::write(folder.path().join("vmlinux"), "no kernel").expect("a file");
        fs::write(folder.path().join("initrd"), "").expect("a file");
        let faults = wrong(&path, text);
        assert!(faults[0].starts_with("FILE:2:1: "), "{faults:?}");
        let faults = wrong(&path, &format!("{text}append = \"\\u0001\"\n"));
        assert!(faults[0].starts_with("FILE:4:1: "), "{faults:?}");
    }

    #[test]
    fn a_list_that_others_could_write_is_none() {
        let folder = tempfile::tempdir().expect("a directory");
        let set = key_set(folder.path(), &[(Role::Host, "a")]).expect("keys");
        let path = set.trust();
        assert_eq!(super::check(&path, None).expect("it is right"), Kind::Trust);
        let own = "[hosts]\na = \"signed\"\nb = \"signed\"\n";
        let faults = wrong(&path, own);
        assert_eq!(faults.len(), 2, "{faults:?}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("it is ours");
        let faults = wrong(&path, own);
        assert!(faults[0].contains("chmod go-w"), "{faults:?}");
    }
}
