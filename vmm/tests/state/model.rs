//! Two guests, beside a model of what the second one's memory has to be.

use std::time::Duration;

use ftvm_vmm::ram::PAGE;
use proptest::prelude::*;

use crate::{Guest, Pair};

const PAGES: u64 = 256;

/// Some bytes of a page.
#[derive(Debug, Clone)]
struct Write {
    page: u64,
    at: usize,
    value: u8,
    len: usize,
}

impl Write {
    fn to(&self, guest: &Guest) {
        guest.write(self.page, self.at, &vec![self.value; self.len]);
    }
}

#[derive(Debug, Clone)]
enum Deed {
    /// Both guests write, and make an exit.
    Run(Vec<Write>),
    /// The primary's guest writes behind its last exit. The backup's does so when it gets there by running.
    RunAhead(Vec<Write>),
    /// The primary's guest is stopped for a part of a delta.
    Stop,
    /// It is stopped until a delta is complete.
    Delta,
    /// A part of a digest is compared.
    Digest,
    /// The backup differs in these pages, and gets the whole state while the primary's guest writes.
    Repair(Vec<u64>, Vec<Write>),
}

/// Few values, so that pages become what they were before; some pages more often than others.
fn writes() -> impl Strategy<Value = Vec<Write>> {
    let page = prop_oneof![3 => 0u64..8, 2 => 0u64..64, 1 => 0..PAGES];
    let write = (page, 0usize..8, 0u8..2, 1usize..20).prop_map(|(page, at, value, len)| Write {
        page,
        at: at * 500,
        value,
        len,
    });
    prop::collection::vec(write, 0..40)
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let differs = prop::collection::vec(0..PAGES, 0..5);
    let deed = prop_oneof![
        4 => writes().prop_map(Deed::Run),
        4 => writes().prop_map(Deed::RunAhead),
        4 => Just(Deed::Stop),
        3 => Just(Deed::Delta),
        2 => Just(Deed::Digest),
        1 => (differs, writes()).prop_map(|(pages, writes)| Deed::Repair(pages, writes)),
    ];
    prop::collection::vec(deed, 1..40)
}

struct Model {
    pair: Pair,
    /// The memory of a guest that made `pair.exits` exits.
    memory: Vec<[u8; PAGE]>,
    /// What the primary's guest wrote since then.
    ahead: Vec<Write>,
    /// The first page of the next part of a digest.
    digested: u64,
}

impl Model {
    fn new(nested_paging: bool) -> Self {
        let initial = |page: u64| (page < 40).then_some([page as u8 % 3; PAGE]);
        Self {
            pair: Pair::new(PAGES, &initial, nested_paging),
            memory: (0..PAGES)
                .map(|page| initial(page).unwrap_or([0; PAGE]))
                .collect(),
            ahead: Vec::new(),
            digested: 0,
        }
    }

    fn write_ahead(&mut self, writes: Vec<Write>) {
        for write in &writes {
            write.to(&self.pair.primary);
        }
        self.ahead.extend(writes);
    }

    fn take_ahead(&mut self) {
        for write in self.ahead.drain(..) {
            self.memory[write.page as usize][write.at..][..write.len].fill(write.value);
        }
    }

    /// The backup's guest gets to the next exit by running.
    fn exit(&mut self) {
        for write in &self.ahead {
            write.to(&self.pair.backup);
        }
        self.take_ahead();
        self.pair.exit();
    }

    /// It is at the next exit with the primary's state.
    fn arrive(&mut self) {
        self.take_ahead();
        self.pair.exits += 1;
    }

    fn does(&mut self, deed: Deed) {
        match deed {
            Deed::Run(writes) => {
                self.write_ahead(writes);
                self.exit();
            }
            Deed::RunAhead(writes) => self.write_ahead(writes),
            Deed::Stop => {
                if self.pair.delta(Some(Duration::ZERO)) {
                    self.arrive();
                }
            }
            Deed::Delta => {
                assert!(self.pair.delta(None));
                self.arrive();
            }
            Deed::Digest => {
                self.exit();
                let [logged, own] = self.pair.digest(self.digested, Some(Duration::ZERO));
                assert_eq!(logged, own);
                self.digested = logged.range.end % PAGES;
            }
            Deed::Repair(pages, writes) => {
                self.exit();
                for page in pages {
                    self.pair.backup.write(page, 7, &[9; 100]);
                }
                self.pair.begin_whole();
                // The guest writes what is being sent.
                for writes in writes.chunks(10) {
                    self.write_ahead(writes.to_vec());
                    self.pair.round();
                }
                self.pair.commit_whole();
                self.arrive();
            }
        }
        // Whenever the primary is lost, this is what the backup's guest goes on with.
        for (page, expected) in (0..).zip(&self.memory) {
            assert!(self.pair.backup.page(page) == *expected, "page {page}");
        }
    }
}

proptest! {
    #[test]
    fn the_backup_has_the_memory_of_the_place_where_it_is(deeds in deeds(), nested_paging: bool) {
        let mut model = Model::new(nested_paging);
        for deed in deeds {
            model.does(deed);
        }
    }
}
