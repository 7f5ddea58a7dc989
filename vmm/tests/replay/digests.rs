//! Digests of much memory.

use std::collections::BTreeMap;

use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::{Difference, EngineError};
use ftvm_vmm::fake_cpu::{Op, Script};
use logging_channel::entry::{Entry, Payload, StateDigest};

use crate::world::{MemoryLog, Playback, Quiet};
use crate::{record_in, replay};

const PAGES: u64 = 128;
const FIRST: u64 = 64;

/// A guest that writes to half of its memory, and then to none.
fn writer() -> Script {
    let store = |page: u64| Op::Store {
        address: page * 4096 + 8,
        value: page as u16,
    };
    let mut main: Vec<Op> = (FIRST..FIRST + PAGES).map(store).collect();
    let exit = Op::In {
        port: 0x80,
        size: 1,
    };
    main.resize(main.len() + 3000, exit);
    Script {
        main,
        ..Script::default()
    }
}

/// Guest time from one look at the clock to the next, in nanoseconds: so much that the next part is due before
/// the guest ends, however busy this machine is.
const STEP: u64 = 5_000_000;

fn record() -> Vec<Entry> {
    let log = MemoryLog::default();
    let recorded = record_in(Quiet::new(STEP), log.clone(), &writer(), &mut Dice(1));
    assert!(recorded.ended.is_ok(), "{:?}", recorded.ended);
    log.entries.take()
}

fn digest_of(entry: &mut Entry) -> Option<(u64, &mut StateDigest)> {
    match &mut entry.payload {
        Payload::Digest(digest) => Some((entry.point.exits, digest)),
        _ => None,
    }
}

/// However much it wrote since the last digest, the guest stands still for a part of it at a time.
#[test]
fn a_digest_takes_as_many_stops_as_it_needs() {
    let mut log = record();
    let end = log.last().expect("entries").point.exits;
    let mut at = BTreeMap::<u64, usize>::new();
    let mut next = 0;
    for (exits, digest) in log.iter_mut().filter_map(digest_of) {
        // The last one comes when nobody waits.
        if exits != end {
            assert_eq!(digest.range.start, next, "one part follows the other");
            assert_eq!(digest.last.is_some(), digest.range.end == 256);
            next = digest.range.end % 256;
            *at.entry(exits).or_default() += digest.pages.len();
        }
    }
    assert_eq!(at.values().sum::<usize>() as u64, PAGES, "{at:?}");
    assert!(at.values().all(|pages| *pages <= 64), "{at:?}");
    let replayed = replay(&writer(), &mut Dice(2), Playback::new(log));
    assert!(replayed.ended.is_ok(), "{:?}", replayed.ended);
}

/// A difference is found in the part that has the page.
#[test]
fn every_part_of_a_digest_is_compared() {
    let log = record();
    for page in FIRST..FIRST + PAGES {
        let mut log = log.clone();
        let digests = log.iter_mut().filter_map(digest_of);
        let found = digests
            .flat_map(|(_, digest)| &mut digest.pages)
            .find(|of| of.page == page);
        found.expect("each of them changed").digest ^= 1;
        match replay(&writer(), &mut Dice(2), Playback::new(log)).ended {
            Err(EngineError::Diverged(divergence)) => match divergence.difference {
                Difference::State(difference) => assert_eq!(difference.pages, [page]),
                other => panic!("{other:?}"),
            },
            other => panic!("{page}: {other:?}"),
        }
    }
}
