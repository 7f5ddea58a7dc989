//! `nbd://HOST[:PORT]/EXPORT`: how people name a disk.

use std::fmt;
use std::str::FromStr;

use disk_server::arbiter::ServerAddress;
use disk_server::nbd::ExportName;
use disk_server::nbd::protocol::DEFAULT_PORT;
use serde::Deserialize;

use super::target::DiskTarget;

/// A disk: an export of a disk server.
///
/// The URI is a part of what `doc/uri.md` of the NBD project specifies, so that `nbdinfo` and
/// `qemu-img` take the same one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct DiskUri {
    server: ServerAddress,
    export: ExportName,
}

impl DiskUri {
    /// Where its server is.
    #[must_use]
    pub fn server(&self) -> &ServerAddress {
        &self.server
    }

    /// Its name on its server.
    #[must_use]
    pub fn export(&self) -> &ExportName {
        &self.export
    }

    /// The disk, opened plainly.
    #[must_use]
    pub fn target(&self) -> DiskTarget {
        DiskTarget {
            server: self.server.clone(),
            export: self.export.as_str().to_owned(),
            writer: None,
            client: None,
        }
    }
}

/// A string that is no [`DiskUri`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{uri}\" is no disk: give nbd://HOST[:PORT]/EXPORT ({reason})")]
pub struct DiskUriError {
    uri: String,
    reason: String,
}

fn parse(uri: &str) -> Result<DiskUri, String> {
    let rest = uri
        .strip_prefix("nbd://")
        .ok_or("it does not begin with nbd://")?;
    let (server, export) = rest.split_once('/').ok_or("the export's name is missing")?;
    // A colon within brackets belongs to the address.
    let bare = server.rsplit(']').next().unwrap_or(server);
    let server = if bare.contains(':') {
        server.to_owned()
    } else {
        format!("{server}:{DEFAULT_PORT}")
    };
    let words = |error: &dyn std::error::Error| error.to_string();
    Ok(DiskUri {
        server: server.parse().map_err(|e| words(&e))?,
        export: export.parse().map_err(|e| words(&e))?,
    })
}

impl FromStr for DiskUri {
    type Err = DiskUriError;

    fn from_str(uri: &str) -> Result<Self, DiskUriError> {
        parse(uri).map_err(|reason| DiskUriError {
            uri: uri.to_owned(),
            reason,
        })
    }
}

impl TryFrom<String> for DiskUri {
    type Error = DiskUriError;

    fn try_from(uri: String) -> Result<Self, DiskUriError> {
        uri.parse()
    }
}

impl fmt::Display for DiskUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nbd://{}/{}", self.server, self.export)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_may_be_left_out() {
        for (given, meant) in [
            ("nbd://10.0.0.1/vm", "nbd://10.0.0.1:10809/vm"),
            ("nbd://10.0.0.1:7/vm-0.raw", "nbd://10.0.0.1:7/vm-0.raw"),
            ("nbd://disks.example/a", "nbd://disks.example:10809/a"),
            ("nbd://[fd00::1]/a", "nbd://[fd00::1]:10809/a"),
            ("nbd://[fd00::1]:9/a", "nbd://[fd00::1]:9/a"),
        ] {
            let uri: DiskUri = given.parse().expect(given);
            assert_eq!(uri.to_string(), meant);
            assert_eq!(uri.target().to_string(), meant);
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (uri, reason) in [
            ("/dev/sda", "does not begin with nbd://"),
            ("nbd://host", "export's name is missing"),
            ("nbd://host/", "an export has a name"),
            ("nbd:///vm", "is not HOST:PORT"),
            ("nbd://host:x/vm", "is not HOST:PORT"),
            // Only the hosts of a pair name a writer, and they do so by themselves.
            ("nbd://host/vm@vm:1", "not '@'"),
        ] {
            let error = uri.parse::<DiskUri>().expect_err(uri).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
