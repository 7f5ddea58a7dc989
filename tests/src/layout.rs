//! Where things are in the checkout.

use std::env;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Variable that names the directory with `ftvm`, `disk-server` and
/// `host-agent`, for builds in unusual places.
pub const PROGRAMS_VARIABLE: &str = "FTVM_PROGRAMS";

/// The program that is `ftvm` with the options that break it on purpose.
pub const SABOTAGED_FTVM: &str = "sabotaged-ftvm";

/// The directories of a checkout that the testbed and the developer commands
/// work with. All state is below `.ftvm` and cargo's `target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
    programs: PathBuf,
}

impl Layout {
    /// The checkout that this program was built from.
    #[must_use]
    pub fn find() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("the crate is in a directory of the checkout")
            .to_owned();
        Self {
            programs: programs(&root),
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
        let path = self.programs.join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(Error::MissingProgram {
            program: name.to_owned(),
            path,
        })
    }
}

/// Cargo's directory of release builds: next to the profile that we are in.
fn programs(root: &Path) -> PathBuf {
    if let Some(directory) = env::var_os(PROGRAMS_VARIABLE) {
        return directory.into();
    }
    env::current_exe()
        .ok()
        .and_then(|path| {
            path.ancestors()
                .skip(1)
                .map(|directory| directory.join("release"))
                .find(|release| release.is_dir())
        })
        .unwrap_or_else(|| root.join("target/release"))
}
