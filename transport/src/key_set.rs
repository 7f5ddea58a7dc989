//! Keys for a whole installation at a time, for tests and trials: where it matters, each key is made where it
//! stays.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::key::{Key, KeyError};
use crate::peer::Role;
use crate::trust::TRUST_FILE;

/// Keys of some, who trust each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySet {
    directory: PathBuf,
}

impl KeySet {
    /// Where the key of `name` is.
    #[must_use]
    pub fn key(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.pem"))
    }

    /// Where the file is that says who they all are.
    #[must_use]
    pub fn trust(&self) -> PathBuf {
        let name = Path::new(TRUST_FILE).file_name();
        self.directory.join(name.expect("it is a file"))
    }
}

/// Makes a key for each of `members`, and the file in which all of them are trusted, in a directory.
///
/// # Errors
/// [`KeyError`].
pub fn key_set(directory: &Path, members: &[(Role, &str)]) -> Result<KeySet, KeyError> {
    let set = KeySet {
        directory: directory.to_owned(),
    };
    let mut trust = String::new();
    for role in Role::ALL {
        let _ = writeln!(trust, "[{}]", role.table());
        for (_, name) in members.iter().filter(|(of, _)| *of == role) {
            let key = Key::create(&set.key(name))?;
            let _ = writeln!(trust, "{name:?} = \"{}\"", key.fingerprint());
        }
    }
    let path = set.trust();
    fs::write(&path, trust).map_err(|source| KeyError::Write { path, source })?;
    Ok(set)
}
