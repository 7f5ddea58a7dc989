//! What a file for guests has, and where that comes from.

use crate::packages::Package;

/// A file's bytes, and what they are made of.
pub(crate) struct Contents {
    pub(crate) bytes: Vec<u8>,
    pub(crate) made_of: Vec<String>,
}

impl Contents {
    pub(crate) fn new<'a>(bytes: Vec<u8>, packages: impl IntoIterator<Item = &'a Package>) -> Self {
        let made_of = packages
            .into_iter()
            .map(|package| format!("{} {}", package.name(), package.version()))
            .collect();
        Self { bytes, made_of }
    }
}
