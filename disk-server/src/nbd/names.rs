//! What a client may name: exports, and exports in the name of a virtual machine's epoch.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::arbiter::{MAX_EPOCH, NameError, VmName};
use crate::random;

/// Why a string names no export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportNameError {
    /// It has no characters.
    #[error(
        "an export has a name, and only a server's one export can be left unnamed; ask for the list \
         of exports to see them"
    )]
    Empty,
    /// It has too many characters.
    #[error("an export's name has at most {} characters", ExportName::MAX_LEN)]
    TooLong,
    /// It has a character that would have to be escaped in a URI or on the command line.
    #[error(
        "an export's name consists of ASCII letters, digits, '.', '_' and '-', not {character:?}"
    )]
    Character {
        /// The first offending character.
        character: char,
    },
    /// There is an `@`, and what follows it is neither `VM:EPOCH` nor `~TAG`.
    #[error(
        "behind the '@' of an export's name is VM:EPOCH, as in disk@db:3, or ~ and 16 lower-case \
         hexadecimal digits"
    )]
    Suffix,
    /// What should be an epoch is not one.
    #[error("an epoch is a number from 0 to {MAX_EPOCH}, not {found:?}")]
    Epoch {
        /// What is there instead, or the beginning of it.
        found: String,
    },
    /// What should be the name of a virtual machine is not one.
    #[error(transparent)]
    Vm(#[from] NameError),
}

/// The name of an export: letters, digits, `.`, `_` and `-`, so that it needs no escape in a URI.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExportName(String);

impl ExportName {
    /// The most characters that it may have.
    pub const MAX_LEN: usize = 64;

    /// The name as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ExportName {
    type Err = ExportNameError;

    fn from_str(name: &str) -> Result<Self, ExportNameError> {
        let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() {
            return Err(ExportNameError::Empty);
        }
        if let Some(character) = name.chars().find(|c| !allowed(c)) {
            return Err(ExportNameError::Character { character });
        }
        if name.len() > Self::MAX_LEN {
            return Err(ExportNameError::TooLong);
        }
        Ok(ExportName(name.to_owned()))
    }
}

impl TryFrom<String> for ExportName {
    type Error = ExportNameError;

    fn try_from(name: String) -> Result<Self, ExportNameError> {
        name.parse()
    }
}

impl From<ExportName> for String {
    fn from(name: ExportName) -> String {
        name.0
    }
}

impl fmt::Display for ExportName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad` and not `write_str`, so that tables can align names.
        f.pad(&self.0)
    }
}

/// What a client that belongs to no epoch calls itself, so that its newest connection takes over from
/// its earlier ones. As text, 16 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientTag(u64);

impl ClientTag {
    /// A tag of a number that no other client has.
    #[must_use]
    pub const fn new(number: u64) -> ClientTag {
        ClientTag(number)
    }

    /// A tag that nobody else has.
    ///
    /// # Errors
    /// The kernel's random number device cannot be read.
    pub fn generate() -> io::Result<ClientTag> {
        random::nonce().map(|nonce| ClientTag(nonce as u64))
    }
}

impl FromStr for ClientTag {
    type Err = ExportNameError;

    fn from_str(text: &str) -> Result<Self, ExportNameError> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 16 || !text.bytes().all(digit) {
            return Err(ExportNameError::Suffix);
        }
        u64::from_str_radix(text, 16)
            .map(ClientTag)
            .map_err(|_| ExportNameError::Suffix)
    }
}

impl fmt::Display for ClientTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a client asks for: the text that NBD calls the export's name.
///
/// The text is `NAME`, `NAME@~TAG`, or `NAME@VM:EPOCH`. A VM's name may itself contain `@`, `:` and
/// `~`; the first `@` and the last `:` are the separators, and a tag has no `:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestedExport {
    /// `NAME`: an export as every NBD client opens it. It can be written while no virtual machine
    /// runs on it.
    Plain(ExportName),
    /// `NAME@~TAG`: the same for a client that says who it is. Its newest connection takes over from
    /// its earlier ones.
    Tagged {
        /// The export.
        export: ExportName,
        /// The client.
        tag: ClientTag,
    },
    /// `NAME@VM:EPOCH`: the connection of the host that runs a virtual machine on it.
    Writer {
        /// The export.
        export: ExportName,
        /// The virtual machine that owns it.
        vm: VmName,
        /// The epoch that the client holds; at most [`MAX_EPOCH`].
        epoch: u64,
    },
}

impl RequestedExport {
    /// The export, however it is asked for.
    #[must_use]
    pub fn export(&self) -> &ExportName {
        match self {
            RequestedExport::Plain(export)
            | RequestedExport::Tagged { export, .. }
            | RequestedExport::Writer { export, .. } => export,
        }
    }
}

impl FromStr for RequestedExport {
    type Err = ExportNameError;

    fn from_str(text: &str) -> Result<Self, ExportNameError> {
        let Some((export, who)) = text.split_once('@') else {
            return Ok(RequestedExport::Plain(text.parse()?));
        };
        let Some((vm, epoch)) = who.rsplit_once(':') else {
            let tag = who.strip_prefix('~').ok_or(ExportNameError::Suffix)?;
            return Ok(RequestedExport::Tagged {
                export: export.parse()?,
                tag: tag.parse()?,
            });
        };
        let digits = !epoch.is_empty() && epoch.bytes().all(|b| b.is_ascii_digit());
        let epoch = epoch
            .parse()
            .ok()
            .filter(|epoch| digits && *epoch <= MAX_EPOCH)
            .ok_or_else(|| ExportNameError::Epoch {
                found: epoch[..epoch.floor_char_boundary(24)].to_owned(),
            })?;
        Ok(RequestedExport::Writer {
            export: export.parse()?,
            vm: vm.parse()?,
            epoch,
        })
    }
}

impl fmt::Display for RequestedExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestedExport::Plain(export) => write!(f, "{export}"),
            RequestedExport::Tagged { export, tag } => write!(f, "{export}@~{tag}"),
            RequestedExport::Writer { export, vm, epoch } => write!(f, "{export}@{vm}:{epoch}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_names_and_writers_are_told_apart() {
        let plain: RequestedExport = "disk-0.raw".parse().unwrap();
        assert_eq!(plain, RequestedExport::Plain("disk-0.raw".parse().unwrap()));
        let writer: RequestedExport = "disk@db:12".parse().unwrap();
        let expected = RequestedExport::Writer {
            export: "disk".parse().unwrap(),
            vm: "db".parse().unwrap(),
            epoch: 12,
        };
        assert_eq!(writer, expected);
        assert_eq!(writer.to_string(), "disk@db:12");
        let tagged: RequestedExport = format!("disk@~{:016x}", 10).parse().unwrap();
        let expected = RequestedExport::Tagged {
            export: "disk".parse().unwrap(),
            tag: ClientTag::new(10),
        };
        assert_eq!(tagged, expected);
        let odd: RequestedExport = "disk@~a:3".parse().unwrap();
        assert!(matches!(odd, RequestedExport::Writer { epoch: 3, .. }));
    }

    #[test]
    fn what_names_nothing_is_told() {
        use ExportNameError as E;
        let parse = |text: &str| text.parse::<RequestedExport>().unwrap_err();
        assert_eq!(parse(""), E::Empty);
        assert_eq!(parse("@db:1"), E::Empty);
        assert_eq!(parse(&"x".repeat(65)), E::TooLong);
        assert_eq!(parse("a/b"), E::Character { character: '/' });
        assert_eq!(parse("disk@db"), E::Suffix);
        for tag in ["", "1", &"A".repeat(16), &"+".repeat(16), &"0".repeat(17)] {
            assert_eq!(parse(&format!("disk@~{tag}")), E::Suffix, "{tag}");
        }
        for epoch in ["", "x", "-1", "+1", " 1", "9007199254740992"] {
            let found = epoch.to_owned();
            assert_eq!(parse(&format!("disk@db:{epoch}")), E::Epoch { found });
        }
        assert_eq!(
            parse("disk@:1"),
            E::Vm(NameError::Empty { what: "VM name" })
        );
    }

    proptest! {
        #[test]
        fn text_and_back(
            export in "[A-Za-z0-9._-]{1,64}",
            writer in prop::option::of(("[!-~]{1,64}", 0..=MAX_EPOCH)),
            tag: Option<u64>,
        ) {
            let text = match (writer, tag) {
                (Some((vm, epoch)), _) => format!("{export}@{vm}:{epoch}"),
                (None, Some(tag)) => format!("{export}@~{}", ClientTag::new(tag)),
                (None, None) => export,
            };
            let parsed: RequestedExport = text.parse().unwrap();
            prop_assert_eq!(parsed.to_string(), text);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}") {
            let _ = text.parse::<RequestedExport>();
        }
    }
}
