//! Which disk requests may go out now: a pure rule, without a clock, thread or connection.
//!
//! A request waits for
//!
//! - every earlier request that it overlaps, if one of the two modifies the disk: what overlaps is
//!   done one after the other, in the order of submission;
//! - the commit of its log entry, if it has one (the Output Rule);
//! - if the backup reads the disk itself (Scales et al. 2010, section 4.2) and the request modifies
//!   it: the backup's execution of every earlier read that it overlaps, so that the backup finds
//!   what the primary's guest found. Such a read keeps its place here until then.
//!
//! Nothing else makes a request wait, so that all others are under way together.
//!
//! Backups come and go. What was read for one of them is held until that one is gone; for the next one it
//! is not, whatever it is told of it.

use std::collections::{BTreeMap, BTreeSet};

use logging_channel::entry::Lsn;

use super::DiskOp;

/// A request's place in the order of submission. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A range of bytes: from `start`, up to `end` without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub start: u64,
    /// Byte behind the last one.
    pub end: u64,
}

impl Extent {
    /// `len` bytes from `start`; cut off at the end of all addresses.
    #[must_use]
    pub fn new(start: u64, len: u64) -> Self {
        Self {
            start,
            end: start.saturating_add(len),
        }
    }

    /// Whether the two have a byte in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// What a request does to the disk, as far as the order depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Reads these bytes.
    Reads(Extent),
    /// Changes these bytes.
    Modifies(Extent),
    /// A flush: covers what was *answered* before it, so it need not wait for anything.
    Flushes,
}

impl Effect {
    /// What a request does.
    #[must_use]
    pub fn of(op: &DiskOp) -> Self {
        match op {
            DiskOp::Read { offset, len } => Self::Reads(Extent::new(*offset, (*len).into())),
            DiskOp::Write { offset, data } => {
                Self::Modifies(Extent::new(*offset, data.len() as u64))
            }
            DiskOp::Discard { offset, len } | DiskOp::WriteZeroes { offset, len, .. } => {
                Self::Modifies(Extent::new(*offset, *len))
            }
            DiskOp::Flush => Self::Flushes,
        }
    }

    /// The bytes that it concerns; none for a flush.
    #[must_use]
    pub fn extent(self) -> Extent {
        match self {
            Self::Reads(extent) | Self::Modifies(extent) => extent,
            Self::Flushes => Extent::new(0, 0),
        }
    }

    /// Whether `later` has to wait for `self`.
    fn holds_up(self, later: Self) -> bool {
        match (self, later) {
            (Self::Modifies(a), Self::Modifies(b) | Self::Reads(b))
            | (Self::Reads(a), Self::Modifies(b)) => a.overlaps(b),
            _ => false,
        }
    }

    /// Whether it changes the disk.
    #[must_use]
    pub fn modifies(self) -> bool {
        matches!(self, Self::Modifies(_))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not at the server, or it is not known whether it was.
    Waiting,
    /// At the server.
    Out,
    /// Answered for now: it waits until [`Order::resume`].
    Paused,
    /// A read that was answered, whose completion the backup has not executed. Its LSN, once it
    /// was logged.
    Held(Option<Lsn>),
}

#[derive(Debug)]
struct Entry {
    effect: Effect,
    commit: Option<Lsn>,
    stage: Stage,
    /// How many earlier entries hold it up.
    held_up_by: usize,
    /// The later entries that it holds up.
    holds_up: Vec<Ticket>,
}

/// The order of one disk's requests.
#[derive(Debug, Default)]
pub struct Order {
    next: u64,
    entries: BTreeMap<Ticket, Entry>,
    /// Waiting, and held up by no other.
    free: BTreeSet<Ticket>,
    committed: Lsn,
    /// What the backup has executed, if it reads the disk itself.
    executed: Option<Lsn>,
    /// Nothing waits for the backup any more: there is none.
    alone: bool,
}

impl Order {
    /// Takes a request that may go out when `commit` is committed.
    pub fn submit(&mut self, effect: Effect, commit: Option<Lsn>) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        let mut held_up_by = 0;
        for earlier in self.entries.values_mut() {
            if earlier.effect.holds_up(effect) {
                earlier.holds_up.push(ticket);
                held_up_by += 1;
            }
        }
        if held_up_by == 0 {
            self.free.insert(ticket);
        }
        self.entries.insert(
            ticket,
            Entry {
                effect,
                commit,
                stage: Stage::Waiting,
                held_up_by,
                holds_up: Vec::new(),
            },
        );
        ticket
    }

    /// Everything up to `lsn` is committed.
    pub fn committed(&mut self, lsn: Lsn) {
        self.committed = self.committed.max(lsn);
    }

    /// The backup has executed everything up to `lsn`.
    pub fn executed(&mut self, lsn: Lsn) {
        let Some(executed) = &mut self.executed else {
            return;
        };
        *executed = lsn.max(*executed);
        self.let_go();
    }

    /// A session with a backup begins. With `backup_reads`, that one reads the disk itself: what is
    /// answered from now on.
    pub fn together(&mut self, backup_reads: bool) {
        self.alone();
        self.alone = false;
        self.executed = backup_reads.then(Lsn::default);
    }

    /// There is no backup, and this host has the right to run alone.
    pub fn alone(&mut self) {
        self.alone = true;
        self.executed = None;
        self.let_go();
    }

    /// Removes the reads that nothing has to wait for any more.
    fn let_go(&mut self) {
        let executed = self.executed;
        let done = |entry: &Entry| match (entry.stage, executed) {
            (Stage::Held(_), None) => true,
            (Stage::Held(Some(lsn)), Some(executed)) => lsn <= executed,
            _ => false,
        };
        let free: Vec<Ticket> = self
            .entries
            .iter()
            .filter(|(_, entry)| done(entry))
            .map(|(&ticket, _)| ticket)
            .collect();
        for ticket in free {
            self.remove(ticket);
        }
    }

    fn is_committed(&self, entry: &Entry) -> bool {
        self.alone || entry.commit.is_none_or(|lsn| lsn <= self.committed)
    }

    /// The first request that may go out and that `fits`; it is out then.
    pub fn next(&mut self, fits: impl Fn(Effect) -> bool) -> Option<Ticket> {
        let ticket = *self.free.iter().find(|ticket| {
            self.entries
                .get(ticket)
                .is_some_and(|entry| self.is_committed(entry) && fits(entry.effect))
        })?;
        self.free.remove(&ticket);
        if let Some(entry) = self.entries.get_mut(&ticket) {
            entry.stage = Stage::Out;
        }
        Some(ticket)
    }

    /// The requests for which nobody but the server is waited: out, or free to go.
    pub fn due(&self) -> impl Iterator<Item = Ticket> + '_ {
        self.entries
            .iter()
            .filter(|(ticket, entry)| match entry.stage {
                Stage::Out | Stage::Paused => true,
                Stage::Waiting => self.free.contains(ticket) && self.is_committed(entry),
                Stage::Held(_) => false,
            })
            .map(|(&ticket, _)| ticket)
    }

    /// The oldest commit that a request waits for.
    #[must_use]
    pub fn wants_commit(&self) -> Option<Lsn> {
        self.entries
            .values()
            .filter(|entry| entry.stage == Stage::Waiting && !self.is_committed(entry))
            .find_map(|entry| entry.commit)
    }

    /// The smallest LSN that the backup has to execute before another request may go out.
    #[must_use]
    pub fn wants_executed(&self) -> Option<Lsn> {
        let held = |entry: &Entry| match entry.stage {
            Stage::Held(lsn) if !entry.holds_up.is_empty() => lsn,
            _ => None,
        };
        self.entries.values().filter_map(held).min()
    }

    /// The request was answered for good. A read keeps its place if the backup will read too.
    pub fn answered(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        if matches!(entry.effect, Effect::Reads(_)) && self.executed.is_some() {
            entry.stage = Stage::Held(None);
            self.free.remove(&ticket);
        } else {
            self.remove(ticket);
        }
    }

    /// Whether the request keeps its place, though it was answered.
    #[must_use]
    pub fn holds(&self, ticket: Ticket) -> bool {
        self.entries
            .get(&ticket)
            .is_some_and(|entry| matches!(entry.stage, Stage::Held(_)))
    }

    /// The completion of a read is in the log at `lsn`.
    pub fn logged(&mut self, ticket: Ticket, lsn: Lsn) {
        let executed = self.executed;
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        if let Stage::Held(at) = &mut entry.stage {
            *at = Some(lsn);
            if executed.is_none_or(|executed| lsn <= executed) {
                self.remove(ticket);
            }
        }
    }

    /// The backup does not have to do this read, which was answered.
    pub fn let_go_of(&mut self, ticket: Ticket) {
        if self.holds(ticket) {
            self.remove(ticket);
        }
    }

    /// The server cannot do the request now: it waits until [`Order::resume`].
    pub fn pause(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entries.get_mut(&ticket)
            && entry.stage == Stage::Out
        {
            entry.stage = Stage::Paused;
        }
    }

    /// Whether a request is paused.
    #[must_use]
    pub fn has_paused(&self) -> bool {
        let paused = |entry: &Entry| entry.stage == Stage::Paused;
        self.entries.values().any(paused)
    }

    /// Requests that were paused may go out again.
    pub fn resume(&mut self) {
        self.back_from(|stage| stage == Stage::Paused);
    }

    /// The connection is lost, and with it every answer: what was out may go out again.
    pub fn put_all_back(&mut self) {
        self.back_from(|stage| matches!(stage, Stage::Out | Stage::Paused));
    }

    fn back_from(&mut self, there: impl Fn(Stage) -> bool) {
        for (&ticket, entry) in &mut self.entries {
            if there(entry.stage) {
                entry.stage = Stage::Waiting;
                self.free.insert(ticket);
            }
        }
    }

    fn remove(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.remove(&ticket) else {
            return;
        };
        self.free.remove(&ticket);
        for later in entry.holds_up {
            if let Some(entry) = self.entries.get_mut(&later) {
                entry.held_up_by -= 1;
                if entry.held_up_by == 0 {
                    self.free.insert(later);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
