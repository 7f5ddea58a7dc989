//! Pages that wait for the end of a delta.

use std::collections::BTreeMap;

use super::error::StateError;
use crate::ram::{PAGE, Room};

/// Whether there is room for more is looked at once in so many pages: 16 MiB.
const AT_ONCE: usize = 4096;

/// So much is left to the host.
const MARGIN: u64 = 64 << 20;

/// Pages that a delta has brought, and that are not in guest memory before its end.
pub(super) struct Aside {
    places: BTreeMap<u64, usize>,
    /// As one allocation, which goes back to the host when it is dropped.
    contents: Vec<[u8; PAGE]>,
    room: fn() -> Room,
}

impl Default for Aside {
    fn default() -> Self {
        Self {
            places: BTreeMap::new(),
            contents: Vec::new(),
            room: Room::left,
        }
    }
}

impl Aside {
    /// Puts a page aside, in place of what it was before.
    ///
    /// # Errors
    /// [`StateError::NoRoom`]: better no delta than Linux ending the process.
    pub(super) fn put(&mut self, page: u64, content: &[u8; PAGE]) -> Result<(), StateError> {
        if let Some(place) = self.places.get(&page) {
            self.contents[*place] = *content;
            return Ok(());
        }
        let place = self.contents.len();
        if place.is_multiple_of(AT_ONCE) {
            let room = (self.room)();
            let wanted = MARGIN + (AT_ONCE * PAGE) as u64;
            if place > 0 && room.bytes < wanted || self.contents.try_reserve(AT_ONCE).is_err() {
                return Err(StateError::NoRoom {
                    mib: (place * PAGE) >> 20,
                    room: room.to_string(),
                });
            }
        }
        self.places.insert(page, place);
        self.contents.push(*content);
        Ok(())
    }

    /// What a page is, if it was put aside.
    pub(super) fn get(&self, page: u64) -> Option<&[u8; PAGE]> {
        Some(&self.contents[*self.places.get(&page)?])
    }

    /// Gives all of it back.
    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.contents = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_was_put_there_last() {
        let mut aside = Aside::default();
        let mut put = |page, value| aside.put(page, &[value; PAGE]).expect("some pages");
        put(7, 1);
        put(3, 2);
        put(7, 3);
        assert_eq!(aside.get(7), Some(&[3; PAGE]));
        assert_eq!(aside.get(3), Some(&[2; PAGE]));
        assert_eq!(aside.get(1), None);
        aside.clear();
        assert_eq!((aside.get(7), aside.contents.capacity()), (None, 0));
    }

    #[test]
    fn a_delta_that_the_host_has_no_room_for_is_refused() {
        let mut aside = Aside {
            room: || Room::of(MARGIN),
            ..Aside::default()
        };
        let pages = 0..2 * AT_ONCE as u64;
        let refused = pages.map(|page| aside.put(page, &[1; PAGE]));
        let (page, error) = (0..)
            .zip(refused)
            .find_map(|(page, put)| Some((page, put.err()?)))
            .expect("there is no more room");
        assert_eq!(page, AT_ONCE);
        let error = error.to_string();
        assert!(error.contains("has more than 16 MiB"), "{error}");
        assert!(error.contains("this host has 64 MiB left"), "{error}");
    }
}
