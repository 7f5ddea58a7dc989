//! What operators want, on stable storage: a [state](crate::state) that changes as a whole.

use std::sync::Arc;

use super::intents::Intents;
use crate::state::{self, Folder, Format, OpenStateError, ReplaceError, StateDirectory, Unusable};

/// The name of the state file in the state directory.
pub const FLEET_FILE: &str = "fleet.state";

const FORMAT: Format = Format {
    magic: "ftvm-fleet",
    version: 2,
    // Hosts did not drain themselves in version 1.
    oldest: 1,
};

/// What is said of a damaged one.
const REMEDY: &str = "; see \"When its state is damaged\" in docs/fleet.md";

/// Where [`Intents`] are kept.
#[derive(Debug)]
pub(super) struct IntentStore(pub(super) Box<dyn Folder>);

impl IntentStore {
    /// Opens it, with what it has: nothing, if there was none.
    ///
    /// # Errors
    /// See [`OpenStateError`]. A damaged file is refused and left alone.
    pub(super) fn open(directory: &Arc<StateDirectory>) -> Result<(Self, Intents), OpenStateError> {
        let mut file = directory.file(FLEET_FILE);
        let path = directory.path().join(FLEET_FILE);
        let intents = state::load(&mut file, &path, decode, REMEDY)?;
        Ok((Self(Box::new(file)), intents.unwrap_or_default()))
    }

    /// Keeps these. When this has returned well they survive.
    ///
    /// # Errors
    /// See [`ReplaceError`].
    pub(super) fn store(&mut self, intents: &Intents) -> Result<(), ReplaceError> {
        state::replace(&mut *self.0, &FORMAT.seal(intents))
    }
}

fn decode(bytes: &[u8]) -> Result<Intents, Unusable> {
    FORMAT.open(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_version_1_kept_counts() {
        let place = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(place.path()).unwrap();
        let before = Format {
            version: 1,
            oldest: 1,
            ..FORMAT
        };
        let kept = serde_json::json!({
            "orders": 7, "guests": {}, "drained": {"a": {"order": 7, "done": true, "owes": {}}},
        });
        fs::write(place.path().join(FLEET_FILE), before.seal(&kept)).unwrap();
        let (_, found) = IntentStore::open(&directory).unwrap();
        assert!(found.is_drained(&"a".parse().unwrap()));
        assert!(found.drained_by_itself.is_empty());
    }

    #[test]
    fn a_missing_file_is_a_fleet_without_guests_and_a_damaged_one_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(place.path()).unwrap();
        let (mut store, fresh) = IntentStore::open(&directory).unwrap();
        assert_eq!(fresh, Intents::default());
        let intents = Intents {
            orders: 7,
            ..Intents::default()
        };
        store.store(&intents).unwrap();
        let (_, found) = IntentStore::open(&directory).unwrap();
        assert_eq!(found, intents);
        let path = place.path().join(FLEET_FILE);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 2]).unwrap();
        let error = IntentStore::open(&directory).unwrap_err();
        assert!(matches!(error, OpenStateError::Corrupt { .. }), "{error:?}");
        let said = error.to_string();
        assert!(
            said.contains("fleet.state") && said.contains("docs/fleet.md"),
            "{said}"
        );
    }
}
