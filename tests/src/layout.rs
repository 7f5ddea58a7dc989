//! Where things are in the checkout.

use std::env;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Variable that names the directory with `ftvm`, `disk-server`, `sabotaged-ftvm` and `next-disk-server`, for builds in
/// unusual places.
pub const PROGRAMS_VARIABLE: &str = "FTVM_PROGRAMS";

/// The program that is `ftvm` with the options that break it on purpose. It is the next version, too: it speaks one
/// more of each protocol.
pub const SABOTAGED_FTVM: &str = "sabotaged-ftvm";

/// The `disk-server` that speaks one version more.
pub const NEXT_DISK_SERVER: &str = "next-disk-server";

/// The program that runs commands in a host; see [`crate::agent`].
pub const HOST_AGENT: &str = "host-agent";

/// Programs that only tests need. They are built as tests are; what is delivered comes from the release
/// build, also for tests.
const OF_TESTS: [&str; 1] = [HOST_AGENT];

/// The directories of a checkout that the testbed and the developer commands
/// work with. All state is below `.ftvm` and cargo's `target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
    /// Where what is delivered is.
    delivered: PathBuf,
    /// Where what only tests need is.
    of_tests: PathBuf,
}

impl Layout {
    /// The checkout that this program was built from.
    #[must_use]
    pub fn find() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("the crate is in a directory of the checkout")
            .to_owned();
        let target = env::current_exe()
            .ok()
            .and_then(|program| Some(target_directory(&program)?.to_owned()))
            .unwrap_or_else(|| root.join("target"));
        Self {
            delivered: env::var_os(PROGRAMS_VARIABLE)
                .map_or_else(|| target.join("release"), PathBuf::from),
            of_tests: target.join("debug"),
            root,
        }
    }

    /// The checkout itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Unpacked Debian packages.
    #[must_use]
    pub fn packages(&self) -> PathBuf {
        self.state("packages")
    }

    /// Guest images.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.state("images")
    }

    /// Packages of the programs that scenarios run, for Debian hosts.
    #[must_use]
    pub fn debs(&self) -> PathBuf {
        self.state("debs")
    }

    /// What hosts are restored from.
    pub(crate) fn host_snapshots(&self) -> PathBuf {
        self.state("host")
    }

    /// Lock files of runs that are alive.
    pub(crate) fn live(&self) -> PathBuf {
        self.state("live")
    }

    /// Logs of runs.
    #[must_use]
    pub fn runs(&self) -> PathBuf {
        self.state("runs")
    }

    /// Hosts that were started to stay.
    pub(crate) fn kept(&self) -> PathBuf {
        self.state("kept")
    }

    fn state(&self, name: &str) -> PathBuf {
        self.root.join(".ftvm").join(name)
    }

    /// A program of the workspace.
    ///
    /// # Errors
    ///
    /// When it was not built.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let directory = if OF_TESTS.contains(&name) {
            &self.of_tests
        } else {
            &self.delivered
        };
        let path = directory.join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(Error::MissingProgram {
            program: name.to_owned(),
            path,
        })
    }
}

/// Cargo's target directory of a program that cargo built.
fn target_directory(program: &Path) -> Option<&Path> {
    program
        .ancestors()
        .find(|path| path.ends_with("debug") || path.ends_with("release"))?
        .parent()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_profiles_are_in_one_directory() {
        for (program, target) in [
            ("/ftvm/target/debug/xtask", Some("/ftvm/target")),
            ("/ftvm/target/debug/deps/scenarios-1", Some("/ftvm/target")),
            ("/ftvm/target/release/xtask", Some("/ftvm/target")),
            ("/usr/bin/xtask", None),
        ] {
            assert_eq!(target_directory(Path::new(program)), target.map(Path::new));
        }
    }
}
