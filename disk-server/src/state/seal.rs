//! The bytes of a state file.
//!
//! ```text
//!     ftvm-arbiter 2 d1a54c7e21f6b093
//!     {...}
//! ```
//!
//! The first line has the version of the format, and the XXH64 of all that follows it with the version
//! as its seed, in 16 lower-case hexadecimal digits. The second one is JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh64::xxh64;

/// Far more than any state takes, in bytes.
pub(crate) const MAX_STATE: u64 = 16 << 20;

/// What a state file begins with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    /// Which state it is.
    pub(crate) magic: &'static str,
    /// The version that is written.
    pub(crate) version: u64,
    /// The oldest one that is read.
    pub(crate) oldest: u64,
}

/// What is wrong with a state file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// The file is larger than a state can be, and was not read.
    #[error("the file has more than {MAX_STATE} bytes")]
    Oversize,
    /// It is no state file, or what is at its beginning has changed.
    #[error("it does not begin like a state file")]
    Foreign,
    /// Some of its bytes are missing or have changed.
    #[error("its checksum is not that of its content: bytes are missing or have changed")]
    Checksum,
    /// Its checksum is right, and its content makes no sense.
    #[error("its content is not that of a state: {0}")]
    Content(String),
}

/// Why bytes are no state that can be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// They are sound, and a later version of the server wrote them: the version of their format.
    Later(u64),
    Damaged(Damage),
}

impl From<Damage> for Unusable {
    fn from(damage: Damage) -> Unusable {
        Unusable::Damaged(damage)
    }
}

impl Format {
    /// The bytes of a state.
    ///
    /// # Panics
    /// It has keys that are no text.
    pub(crate) fn seal(&self, state: &impl Serialize) -> Vec<u8> {
        let mut body = serde_json::to_string(state).expect("a state has plain names and numbers");
        body.push('\n');
        let mut text = self.first_line(self.version, body.as_bytes());
        text.push_str(&body);
        text.into_bytes()
    }

    /// The state that these bytes are of.
    ///
    /// # Errors
    /// They are damaged, or of a later version.
    pub(crate) fn open<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Unusable> {
        if bytes.is_empty() {
            return Err(Damage::Empty.into());
        }
        if bytes.len() as u64 > MAX_STATE {
            return Err(Damage::Oversize.into());
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (line, body) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
        let mut ours = self.oldest..=self.version;
        if !ours.any(|version| line == self.first_line(version, body).as_bytes()) {
            return Err(self.complaint(line, body));
        }
        serde_json::from_slice(body).map_err(|error| Damage::Content(error.to_string()).into())
    }

    /// The version seeds the hash, so that the checksum covers it too.
    fn first_line(&self, version: u64, body: &[u8]) -> String {
        let magic = self.magic;
        format!("{magic} {version} {:016x}\n", xxh64(body, version))
    }

    /// What is wrong with a first line that is not this version's of what follows.
    fn complaint(&self, line: &[u8], body: &[u8]) -> Unusable {
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_whitespace();
        if words.next() != Some(self.magic) {
            return Damage::Foreign.into();
        }
        match words.next().map(str::parse) {
            Some(Ok(found)) if line == self.first_line(found, body) => Unusable::Later(found),
            _ => Damage::Checksum.into(),
        }
    }
}
