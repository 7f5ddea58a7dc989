//! Loads that compute in a guest beside Redis, and what they must find.
//!
//! In `load.cpio`, the kernel's command line word `ftvm.load=KIND` starts one:
//! `openssl`, `busy` (the shell), `stress` (stress-ng), `mixed` (a chunk of each
//! in turn), or `tsc` (time stamp counter reads). Every chunk of work gives a
//! *result* with a number, from 1, for its kind: a line `load KIND NUMBER DIGEST`
//! on the console, and field NUMBER of the Redis hash `load:KIND`.
//!
//! Except for `tsc`, the digest depends on kind and number alone, and
//! [`Kind::digest`] computes it on any machine: a guest whose memory, registers
//! or time went wrong in a failover gives another. What a chunk is, and its
//! constants, is in `init/load.sh` as well; a test runs that script.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// The script that computes the chunks, `/usr/bin/load` in the guest.
pub(crate) const SCRIPT: &str = include_str!("init/load.sh");

/// Iterations of the key derivation in a chunk of `openssl`.
const KEY_ITERATIONS: u32 = 60_000;
/// Steps of a chunk of `busy`.
const SHELL_STEPS: u64 = 20_000;
/// Bytes of the file beside stress-ng's workers.
const FILE_BYTES: usize = 1 << 20;
/// Time stamp counter reads in a result.
const TSC_READS: u64 = 2000;

/// Memory that a guest with the load image needs, in MiB: the archive and its
/// unpacked files are in memory together for a moment.
pub const MEMORY_MIB: u32 = 256;

/// Which load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Load {
    /// `openssl speed`, and a key derivation.
    Openssl,
    /// The shell's own arithmetic.
    Busy,
    /// stress-ng's memory workers, which verify what they wrote.
    Stress,
    /// All of these in turn.
    Mixed,
    /// Time stamp counter reads.
    Tsc,
}

/// A kind of result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Of the key derivation.
    Openssl,
    /// Of the shell.
    Busy,
    /// Of stress-ng.
    Stress,
    /// Of the time stamp counter reads.
    Tsc,
}

impl Load {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Openssl => "openssl",
            Self::Busy => "busy",
            Self::Stress => "stress",
            Self::Mixed => "mixed",
            Self::Tsc => "tsc",
        }
    }

    /// The word of the kernel's command line that starts it.
    #[must_use]
    pub fn word(self) -> String {
        format!("ftvm.load={}", self.name())
    }

    /// The kinds of its results, in the order of a round.
    #[must_use]
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Openssl => &[Kind::Openssl],
            Self::Busy => &[Kind::Busy],
            Self::Stress => &[Kind::Stress],
            Self::Mixed => &[Kind::Openssl, Kind::Stress, Kind::Busy],
            Self::Tsc => &[Kind::Tsc],
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// There is no load of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no load `{0}`: openssl, busy, stress, mixed or tsc")]
pub struct UnknownLoad(String);

impl FromStr for Load {
    type Err = UnknownLoad;

    fn from_str(name: &str) -> Result<Self, UnknownLoad> {
        [
            Self::Openssl,
            Self::Busy,
            Self::Stress,
            Self::Mixed,
            Self::Tsc,
        ]
        .into_iter()
        .find(|load| load.name() == name)
        .ok_or_else(|| UnknownLoad(name.to_owned()))
    }
}

impl Kind {
    /// Its name, as in the results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Openssl => "openssl",
            Self::Busy => "busy",
            Self::Stress => "stress",
            Self::Tsc => "tsc",
        }
    }

    /// The digest of the chunk with this number; none for `tsc`, whose results
    /// depend on time.
    #[must_use]
    pub fn digest(self, number: u64) -> Option<String> {
        match self {
            Self::Openssl => Some(key(number)),
            Self::Busy => Some(arithmetic(number)),
            Self::Stress => Some(file(number)),
            Self::Tsc => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

fn key(number: u64) -> String {
    let salt = format!("load-{number}");
    let key: [u8; 8] =
        pbkdf2::pbkdf2_hmac_array::<Sha256, 8>(b"ftvm", salt.as_bytes(), KEY_ITERATIONS);
    format!("{:016x}", u64::from_be_bytes(key))
}

/// The shell computes in 64 bits; what the mask leaves is the same for signed
/// and unsigned numbers.
fn arithmetic(number: u64) -> String {
    let value = (0..SHELL_STEPS).fold(number, |value, step| {
        value.wrapping_mul(1_103_515_245).wrapping_add(12345 + step) & 0x7fff_ffff
    });
    format!("{value:08x}")
}

fn file(number: u64) -> String {
    let line = format!("load stress {number}\n");
    let bytes: Vec<u8> = line.bytes().cycle().take(FILE_BYTES).collect();
    let mut digest = format!("{:x}", Sha256::digest(bytes));
    digest.truncate(16);
    digest
}

/// A result of the load `tsc`: what `programs/tsc.c` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TscLine {
    /// Reads so far.
    pub reads: u64,
    /// The last value.
    pub last: u64,
    /// Reads that were below their predecessor.
    pub backwards: u64,
}

impl TscLine {
    /// Reads a line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut parts = line.trim().strip_prefix("tsc: ")?.split(", ");
        let reads = parts.next()?.strip_suffix(" reads")?.parse().ok()?;
        let last = parts.next()?.strip_prefix("last ")?.parse().ok()?;
        let hash = parts.next()?.strip_prefix("hash ")?;
        let backwards = parts.next()?.strip_prefix("backwards ")?.parse().ok()?;
        let whole = hash.len() == 16 && parts.next().is_none();
        whole.then_some(Self {
            reads,
            last,
            backwards,
        })
    }

    /// Whether this can be the load's result with this number, after the one
    /// before it.
    #[must_use]
    pub fn follows(&self, before: Option<&Self>, number: u64) -> bool {
        self.backwards == 0
            && self.reads == number * TSC_READS
            && before.is_none_or(|before| self.last > before.last)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Runs one chunk of the script on this machine.
    fn script(kind: Kind, number: u64) -> String {
        let output = Command::new("sh")
            .args(["-c", SCRIPT, "load", kind.name(), &number.to_string()])
            .output()
            .expect("a shell");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[test]
    fn the_shell_finds_what_is_expected() {
        for number in [1, 2, 977] {
            let digest = Kind::Busy.digest(number);
            assert_eq!(Some(script(Kind::Busy, number)), digest);
        }
    }

    #[test]
    fn openssl_finds_what_is_expected() {
        assert_eq!(Some(script(Kind::Openssl, 3)), Kind::Openssl.digest(3));
    }

    #[test]
    fn a_file_has_the_digest_of_its_lines() {
        // yes "load stress 1" | head -c 1048576 | sha256sum
        assert_eq!(Kind::Stress.digest(1).as_deref(), Some("719430acda2ad991"));
    }

    #[test]
    fn digests_tell_chunks_and_kinds_apart() {
        for kind in [Kind::Openssl, Kind::Busy, Kind::Stress] {
            assert_ne!(kind.digest(1), kind.digest(2));
        }
        assert_eq!(Kind::Tsc.digest(1), None);
    }

    #[test]
    fn loads_have_names() {
        for load in ["openssl", "busy", "stress", "mixed", "tsc"] {
            assert_eq!(load.parse::<Load>().expect("it").name(), load);
            assert!(SCRIPT.contains(load));
        }
        assert!("openss".parse::<Load>().is_err());
    }

    #[test]
    fn counter_lines_are_read_and_judged() {
        let line = |reads, last, backwards| {
            let text = format!(
                "tsc: {reads} reads, last {last}, hash 0123456789abcdef, backwards {backwards}"
            );
            TscLine::parse(&text).expect("a whole line")
        };
        let first = line(TSC_READS, 500, 0);
        assert!(first.follows(None, 1));
        assert!(line(2 * TSC_READS, 501, 0).follows(Some(&first), 2));
        for wrong in [
            line(2 * TSC_READS, 500, 0),
            line(2 * TSC_READS, 501, 1),
            line(3 * TSC_READS, 501, 0),
        ] {
            assert!(!wrong.follows(Some(&first), 2), "{wrong:?}");
        }
        for broken in [
            "",
            "tsc: 5 reads",
            "tsc: 5 reads, last 1, hash 0, backwards 0",
        ] {
            assert_eq!(TscLine::parse(broken), None);
        }
    }
}
