//! What the file of those who are trusted says.
//!
//! ```toml
//! authority = "SHA256:…"     # of the user's own; only for those who are "signed"
//!
//! [hosts]
//! a = "SHA256:…"             # this key
//! b = "signed"               # any key of which the authority says that it is the host b's
//!
//! [disk_servers]
//! [operators]
//! [monitors]
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::configuration::{self, Fault, FaultKind, Faults};
use crate::credential::Credential;
use crate::fingerprint::Fingerprint;
use crate::peer::{Peer, Role};

/// Those who are trusted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct List {
    authority: Option<Fingerprint>,
    pinned: BTreeMap<Fingerprint, Peer>,
    /// By what certificates say of them.
    signed: BTreeMap<String, Peer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    authority: Option<Fingerprint>,
    #[serde(default)]
    hosts: Table,
    #[serde(default)]
    disk_servers: Table,
    #[serde(default)]
    operators: Table,
    #[serde(default)]
    monitors: Table,
}

type Table = BTreeMap<String, Spanned<Listed>>;

/// How somebody is listed.
enum Listed {
    Pinned(Fingerprint),
    Signed,
}

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "signed" => Ok(Listed::Signed),
            fingerprint => fingerprint
                .parse()
                .map(Listed::Pinned)
                .map_err(|error| serde::de::Error::custom(format!("{error}, or \"signed\""))),
        }
    }
}

impl List {
    /// # Errors
    /// All that is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, Faults> {
        let file: File = configuration::parse(text)?;
        let mut list = List {
            authority: file.authority,
            ..List::default()
        };
        let tables = [
            (Role::Host, file.hosts),
            (Role::DiskServer, file.disk_servers),
            (Role::Operator, file.operators),
            (Role::Monitor, file.monitors),
        ];
        let mut faults = Vec::new();
        for (role, table) in tables {
            for (name, listed) in table {
                let place = listed.span().start;
                let added = list.add(Peer { name, role }, listed.into_inner());
                faults.extend(
                    added
                        .err()
                        .map(|reason| Fault::at(text, place, FaultKind::Value, reason)),
                );
            }
        }
        if faults.is_empty() && list.pinned.is_empty() && list.signed.is_empty() {
            faults.push(Fault::at(
                text,
                0,
                FaultKind::MissingKey,
                "nobody is listed: who is trusted has a line, in [hosts] or another table",
            ));
        }
        Faults::none(faults).map(|()| list)
    }

    fn add(&mut self, peer: Peer, listed: Listed) -> Result<(), String> {
        match listed {
            Listed::Pinned(fingerprint) => {
                let text = peer.to_string();
                match self.pinned.insert(fingerprint, peer) {
                    None => Ok(()),
                    Some(other) => Err(format!(
                        "the {text} and the {other} have the same key, and each has its own"
                    )),
                }
            }
            Listed::Signed if self.authority.is_none() => Err(format!(
                "the {peer} is to be signed: by whom? Put authority = \"SHA256:…\" at the top"
            )),
            Listed::Signed => {
                self.signed.insert(peer.uri(), peer);
                Ok(())
            }
        }
    }

    /// Who has this credential.
    pub(super) fn identify(&self, credential: &Credential) -> Option<Peer> {
        if let Some(peer) = self.pinned.get(&credential.fingerprint) {
            return Some(peer.clone());
        }
        let signed = credential.signed.as_ref()?;
        if Some(signed.authority) != self.authority {
            return None;
        }
        let peer = signed.uris.iter().find_map(|uri| self.signed.get(uri));
        peer.cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Signed;

    fn key(n: u8) -> Fingerprint {
        Fingerprint::of(&[n])
    }

    fn credential(fingerprint: Fingerprint, signed: Option<(Fingerprint, &str)>) -> Credential {
        let signed = signed.map(|(authority, uri)| Signed {
            authority,
            uris: vec![uri.to_owned()],
        });
        Credential {
            fingerprint,
            signed,
        }
    }

    #[test]
    fn a_key_is_known_by_itself_or_by_the_authority() {
        let text = format!(
            "authority = \"{}\"\n[hosts]\na = \"{}\"\nb = \"signed\"\n[monitors]\nm = \"{}\"\n",
            key(0),
            key(1),
            key(2)
        );
        let list = List::parse(&text).expect("it is right");
        let who = |credential: Credential| list.identify(&credential).map(|peer| peer.to_string());
        assert_eq!(who(credential(key(1), None)).as_deref(), Some("host a"));
        assert_eq!(who(credential(key(2), None)).as_deref(), Some("monitor m"));
        assert_eq!(who(credential(key(3), None)), None);
        let signed = |by, uri| who(credential(key(3), Some((by, uri))));
        assert_eq!(signed(key(0), "ftvm:host/b").as_deref(), Some("host b"));
        assert_eq!(signed(key(9), "ftvm:host/b"), None, "another authority");
        assert_eq!(signed(key(0), "ftvm:host/c"), None, "nobody's name");
        assert_eq!(signed(key(0), "ftvm:monitor/b"), None, "another role");
        assert_eq!(
            signed(key(0), "ftvm:host/a"),
            None,
            "a is known by its key alone"
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let same = format!("[hosts]\na = \"{0}\"\n[operators]\no = \"{0}\"\n", key(1));
        for (text, words) in [
            ("[hosts]\na = \"mine\"\n", ["line 2", "ftvm key show"]),
            ("[host]\n", ["line 1", "host"]),
            ("", ["nobody", "[hosts]"]),
            ("[hosts]\n[monitors]\n", ["nobody", "[hosts]"]),
            ("[hosts]\na = \"signed\"\n", ["line 2", "by whom"]),
            ("authority = \"me\"\n", ["line 1", "SHA256"]),
            (&same, ["line 4", "the same key"]),
            ("[hosts]\na = 1\n", ["line 2", "string"]),
        ] {
            let error = List::parse(text).expect_err(text).to_string();
            let named = words.iter().all(|word| error.contains(word));
            assert!(named, "{text}: {error}");
        }
    }
}
