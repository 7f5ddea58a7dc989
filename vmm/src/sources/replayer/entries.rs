//! What comes next in the log, compared with what the guest comes to.

use std::fmt;

use logging_channel::entry::{ExecutionPoint, Lsn, Payload, page_hash};

use super::{Replayer, count};
use crate::devices::Input;
use crate::engine::{Difference, Interruption, Moment, Step};
use crate::ram::{self, PAGE};
use crate::sources::log_source::{Head, LogSource};
use crate::sources::place::{EntryPlace, diverged, input_of, place};

impl<S: LogSource> Replayer<S> {
    /// The head, where it stands, and its digest compared if it stands here.
    pub(super) fn head(
        &mut self,
        at: &mut Moment<'_>,
        doing: &dyn fmt::Display,
    ) -> Step<(Lsn, EntryPlace, &Payload)> {
        self.take_pages(at)?;
        // Two borrows of the log, because an end needs it mutably again.
        if matches!(self.log.head()?, Head::Ended) {
            return Err(self.after_end());
        }
        let Head::Entry(lsn, entry) = self.log.head()? else {
            return Err(Interruption::Failed("the log's head vanished".into()));
        };
        let place = place(at.point, entry.point);
        let Some(place) = place else {
            return Err(diverged(at.point, lsn, entry, doing));
        };
        if matches!(place, EntryPlace::Here)
            && let Some(logged) = entry.check
        {
            let replayed = at.digest()?;
            if logged != replayed {
                return Err(Interruption::diverged(
                    at.point,
                    lsn,
                    Difference::RegisterDigest { logged, replayed },
                ));
            }
            count(&self.counters.digests);
        }
        Ok((lsn, place, &entry.payload))
    }

    /// Uses up progress marks and digests that were reached.
    pub(super) fn pass_marks(&mut self, at: &mut Moment<'_>, doing: &dyn fmt::Display) -> Step<()> {
        loop {
            match self.head(at, doing)? {
                (_, EntryPlace::Here, Payload::Progress | Payload::Protected { .. }) => {}
                (lsn, EntryPlace::Here, Payload::Digest(logged)) => {
                    let logged = (**logged).clone();
                    if let Some(state) = &mut self.state {
                        state.compare(at, lsn, &logged)?;
                        if logged.last.is_some() {
                            count(&self.counters.states);
                        }
                    }
                }
                _ => return Ok(()),
            }
            self.advance();
        }
    }

    /// The head's payload if it belongs here and `wanted` takes it; a divergence otherwise.
    pub(super) fn expect<T>(
        &mut self,
        at: &mut Moment<'_>,
        doing: &dyn fmt::Display,
        wanted: impl FnOnce(&Payload) -> Option<T>,
    ) -> Step<(Lsn, T)> {
        self.pass_marks(at, doing)?;
        let (lsn, place, payload) = self.head(at, doing)?;
        let answer = if matches!(place, EntryPlace::Here) {
            wanted(payload)
        } else {
            None
        };
        match answer {
            Some(answer) => {
                self.advance();
                Ok((lsn, answer))
            }
            None => Err(self.unexpected(at, doing)?),
        }
    }

    /// The divergence that the head is something else than what the guest came to.
    pub(super) fn unexpected(
        &mut self,
        at: &Moment<'_>,
        doing: &dyn fmt::Display,
    ) -> Step<Interruption> {
        match self.log.head()? {
            Head::Entry(lsn, entry) => Ok(diverged(at.point, lsn, entry, doing)),
            Head::Ended => Err(Interruption::Failed("the log's head vanished".into())),
        }
    }

    /// The input at the head of the log; a divergence if none is there, here.
    pub(super) fn input(&mut self, at: &mut Moment<'_>, doing: &dyn fmt::Display) -> Step<Input> {
        self.completions.begin();
        loop {
            let begun = self.completions.is_begun();
            match self.head(at, doing)? {
                (_, EntryPlace::Here, Payload::DiskData(part)) => {
                    let part = part.clone();
                    if !self.completions.take(&part) {
                        return Err(self.unexpected(at, &"more than a read of the disk can be of")?);
                    }
                    self.advance();
                }
                (lsn, EntryPlace::Here, &Payload::DiskDone { id, outcome }) => {
                    let input = self.completions.finish(at, lsn, id, outcome)?;
                    self.advance();
                    return Ok(input);
                }
                _ if begun => {
                    return Err(self.unexpected(at, &"the rest of what was read from the disk")?);
                }
                _ => return self.expect(at, doing, input_of).map(|(_, input)| input),
            }
        }
    }

    /// Compares guest memory with the hashes that follow the guest's end in a verified recording.
    pub(super) fn compare_memory(&mut self, point: ExecutionPoint) -> Step<()> {
        let mut first_difference = None;
        let mut different = 0;
        while let Head::Entry(lsn, entry) = self.log.head()? {
            let Payload::MemoryHashes { first_page, hashes } = &entry.payload else {
                return Err(diverged(point, lsn, entry, &"the guest's end"));
            };
            for (n, logged) in (0..).zip(hashes) {
                let page = first_page.saturating_add(n);
                count(&self.counters.pages);
                if page >= ram::page_count(&self.memory)
                    || page_hash(&ram::page(&self.memory, page)) != *logged
                {
                    different += 1;
                    first_difference.get_or_insert((lsn, page.saturating_mul(PAGE as u64)));
                }
            }
            self.advance();
        }
        match first_difference {
            None => Ok(()),
            Some((lsn, first)) => Err(Interruption::diverged(
                point,
                lsn,
                Difference::Memory {
                    first,
                    pages: different,
                },
            )),
        }
    }
}
