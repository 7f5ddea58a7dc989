//! Where things are in the checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The directories that the commands work with.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The checkout that this program was built from.
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask's directory has no parent")?
            .to_owned();
        anyhow::ensure!(
            root.join("Cargo.toml").is_file(),
            "{} is gone: run `cargo xtask` from the checkout again",
            root.display()
        );
        Ok(Self { root })
    }

    /// The checkout itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Everything that the commands make, besides cargo's own `target`.
    pub(crate) fn state(&self) -> PathBuf {
        self.root.join(".ftvm")
    }

    /// Unpacked Debian packages.
    pub(crate) fn packages(&self) -> PathBuf {
        self.state().join("packages")
    }

    /// Guest images.
    pub(crate) fn images(&self) -> PathBuf {
        self.state().join("images")
    }
}
