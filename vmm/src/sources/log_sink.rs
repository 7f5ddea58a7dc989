//! Where a recorder's log goes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use logging_channel::entry::{Entry, Lsn};

use crate::engine::Step;
use crate::state::{Progress, SendBlocks};

/// What sending the whole state came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of memory and of the rest, as they are in the log.
    pub bytes: u64,
    /// How often memory was gone through: what was written in one round is sent in the next.
    pub rounds: u64,
    /// For how long the guest stood still at the end.
    pub pause: Duration,
}

/// Where a log goes.
pub trait LogSink {
    /// Appends an entry. May wait for room.
    ///
    /// # Errors
    /// [`crate::engine::Interruption::Failed`] when the log cannot be written.
    fn append(&mut self, entry: Entry) -> Step<Lsn>;

    /// Something waits for what was appended: send it now.
    fn flush(&mut self) {}

    /// Called at every exit: may hold the guest up so that a replay can catch up.
    fn throttle(&mut self) {}

    /// Whether there is a log at all.
    fn is_kept(&self) -> bool {
        true
    }

    /// Whether anybody replays the log. If not, nothing is taken from the guest for it.
    fn is_replayed(&self) -> bool {
        true
    }

    /// A replay begins that knows nothing of the guest: it gets the log from here on, and first of all
    /// the whole state. Told once of each.
    fn begins(&mut self) -> bool {
        false
    }

    /// The replay has taken over the state with which it began: from here on it may go on with the
    /// guest, and outputs wait for it. Told once of each, and noted in the log.
    fn protects(&mut self) -> bool {
        false
    }

    /// The replay asks for the whole state, because its own differed at this entry. Each request
    /// is given out once.
    fn state_wanted(&mut self) -> Option<Lsn> {
        None
    }

    /// Who keeps the log, to replay it later, asks for the whole state (a renewal), so as to have less of it.
    /// Each request is given out once.
    fn renewal_wanted(&mut self) -> bool {
        false
    }

    /// Whether the guest is to be handed over to the replay, at the next exit. Asked at every exit.
    fn hands_over(&self) -> bool {
        false
    }

    /// Hands it over: everything up to here is in the log. The guest stands still until it is known who goes on
    /// with it.
    ///
    /// # Errors
    /// [`crate::engine::Interruption::Halt`]: the replay does.
    fn hand_over(&mut self) -> Step<()> {
        Ok(())
    }

    /// Whether the replay finds places by a count. Once it does not, it never does again.
    fn takes_counts(&self) -> bool {
        true
    }

    /// The replay differs, for so many times lately, and gets the whole state after `wait`.
    fn is_unprotected(&mut self, divergences: usize, wait: Duration) {
        let _ = (divergences, wait);
    }

    /// Where the guest's memory goes to the replay that begins.
    fn memory_streams(&mut self) -> Vec<Box<dyn SendBlocks>> {
        Vec::new()
    }

    /// The guest's memory cannot be sent to the replay, which is lost with that.
    fn lose_replay(&mut self, why: &io::Error) {
        let _ = why;
    }

    /// Has the guest's thread look around, from another one.
    fn waker(&self) -> Box<dyn Fn() + Send + Sync> {
        Box::new(|| {})
    }

    /// The guest's memory is sent, as this says.
    fn memory_is_sent(&mut self, progress: Arc<Progress>) {
        let _ = progress;
    }

    /// A transfer of the whole state does not come to an end: the guest writes, and the network takes, so
    /// many bytes a second.
    fn does_not_converge(&mut self, guest: u64, network: u64) {
        let _ = (guest, network);
    }

    /// The whole state was sent.
    fn state_sent(&mut self, sent: Sent) {
        let _ = sent;
    }

    /// The guest ended and everything was appended.
    ///
    /// # Errors
    /// [`crate::engine::Interruption::Failed`] when the log cannot be completed.
    fn finish(&mut self) -> Step<()> {
        Ok(())
    }
}

/// No log: a guest that runs alone.
pub struct NoLog;

impl LogSink for NoLog {
    fn append(&mut self, _: Entry) -> Step<Lsn> {
        Ok(Lsn::default())
    }

    fn is_kept(&self) -> bool {
        false
    }

    fn is_replayed(&self) -> bool {
        false
    }
}
