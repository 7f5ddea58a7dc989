//! Inputs for the short share of the fuzz targets that runs with all other tests.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Bytes, and valid inputs with some of theirs changed, taken away or put in between.
pub(crate) fn inputs(valid: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<Index>(), any::<u8>(), 0..4), 0..8);
    let changed = (select(valid), changes).prop_map(|(mut input, changes)| {
        for (at, byte, how) in changes {
            let at = at.index(input.len() + 1);
            match how {
                0 => input.insert(at, byte),
                1 => input.truncate(at),
                2 if at < input.len() => input[at] = byte,
                3 if at < input.len() => input[at] ^= 1 << (byte % 8),
                _ => {}
            }
        }
        input
    });
    prop_oneof![1 => vec(any::<u8>(), 0..600), 3 => changed]
}
