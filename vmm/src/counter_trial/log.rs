//! A log in memory.

use std::cell::RefCell;
use std::rc::Rc;

use logging_channel::entry::{Entry, Lsn};

use crate::engine::{Interruption, Step};
use crate::sources::{Head, LogSink, LogSource};

/// Entries, for a recorder to append to.
#[derive(Debug, Clone, Default)]
pub(super) struct MemoryLog(Rc<RefCell<Vec<Entry>>>);

impl MemoryLog {
    /// What was appended.
    pub(super) fn take(&self) -> Vec<Entry> {
        self.0.take()
    }
}

impl LogSink for MemoryLog {
    fn append(&mut self, entry: Entry) -> Step<Lsn> {
        let mut entries = self.0.borrow_mut();
        entries.push(entry);
        Ok(Lsn(entries.len() as u64))
    }
}

/// Entries, for a replayer to read.
pub(super) struct Playback {
    entries: Rc<[Entry]>,
    next: usize,
}

impl Playback {
    pub(super) fn of(entries: Rc<[Entry]>) -> Self {
        Self { entries, next: 0 }
    }
}

impl LogSource for Playback {
    fn head(&mut self) -> Step<Head<'_>> {
        let lsn = Lsn(self.next as u64 + 1);
        Ok(match self.entries.get(self.next) {
            Some(entry) => Head::Entry(lsn, entry),
            None => Head::Ended,
        })
    }

    fn advance(&mut self) {
        self.next += 1;
    }

    fn after_end(&mut self) -> Interruption {
        Interruption::Failed("the guest goes on after the end of its log".into())
    }
}
