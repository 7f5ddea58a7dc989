//! The key of who runs a program, where it is not the machine that speaks.

use std::env;
use std::path::{Path, PathBuf};

use crate::key::KEY_FILE;

/// Where the key of a person is, below the home directory.
const OWN_KEY: &str = ".config/ftvm/key.pem";

/// Where the key of a person is: its own, if it has one, and the machine's otherwise.
#[must_use]
pub fn key_of_person() -> PathBuf {
    let own = env::var_os("HOME").map(|home| Path::new(&home).join(OWN_KEY));
    own.filter(|key| key.exists())
        .unwrap_or_else(|| KEY_FILE.into())
}

/// What who has no key of its own is to do, for messages.
pub const OWN_KEY_HINT: &str = "for a key of your own, `ftvm key generate ~/.config/ftvm/key.pem`, and have its \
                                fingerprint listed under [operators] in trust.toml";
