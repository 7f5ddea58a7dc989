//! How often the guest's state is taken, and what that came to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often the guest's state is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How long an input may wait for a guest that makes no exits before the guest is stopped for
    /// it. It waits less where that costs little, and more where stops are so expensive that the
    /// guest would do nothing else.
    pub latency: Duration,
    /// Time between two digests.
    pub digest_interval: Duration,
    /// Time to spend at once on a digest.
    pub digest_slice: Duration,
    /// For how long at most the guest is stopped at once for a state delta, as long as it gets on at all.
    pub longest_stop: Duration,
    /// What a transfer of the whole state may take.
    pub transfer: TransferPace,
}

/// What a transfer of the whole state may take of the guest's time and of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferPace {
    /// For how long the guest may stand still at its end.
    pub max_pause: Duration,
    /// Bytes a second; `None` is as many as the network takes.
    pub limit: Option<u64>,
    /// Whether a guest that writes faster than the network takes is slowed down.
    pub throttles: bool,
}

impl TransferPace {
    /// As long as nobody asks for anything else.
    pub const DEFAULT: Self = Self {
        max_pause: Duration::from_millis(100),
        limit: None,
        throttles: false,
    };
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(50),
            digest_interval: Duration::from_secs(1),
            digest_slice: Duration::from_millis(2),
            longest_stop: LONGEST_STOP,
            transfer: TransferPace::DEFAULT,
        }
    }
}

/// As long as an input waits for a guest that computes, by default: who talks to the guest sees no
/// more of a transfer than of that. And a quarter of the least time after which TCP sends again
/// (Linux, TCP_RTO_MIN).
const LONGEST_STOP: Duration = Duration::from_millis(50);

/// Cheap stops are made more often than the latency asks for, as long as the guest runs this many
/// times as long as its last state delta took.
const CHEAP_DELTA_SHARE: u32 = 20;

/// The guest runs at least this many times as long as its last state delta took, whatever the
/// latency.
const DELTA_SHARE: u32 = 2;

/// To fault in again the pages that a delta looked at takes the guest about so many times as long as that
/// delta took: measured where the host is emulated. On metal a fault may cost less beside a delta: then
/// deltas come up to four times as seldom as they could, which bounds the latency of a guest that
/// computes.
const FAULTS_SHARE: u32 = 3;

/// As often as the timer of a guest ticks, and no more often.
const SHORTEST: Duration = Duration::from_millis(4);

/// As [`DELTA_SHARE`], for the parts of digests. Not much more: a difference in memory of which much
/// is written would stay unnoticed for minutes.
const DIGEST_SHARE: u32 = 20;

/// When a guest that makes no exits is stopped next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextStop {
    /// When it has made no exit for this long,
    pub interval: Duration,
    /// but not within this time after its last stop. So one expensive stop delays the next, and
    /// not all that come after.
    pub pause: Duration,
}

impl NextStop {
    /// After a run of `time`.
    pub(super) fn after(time: Duration) -> Self {
        Self {
            interval: time,
            pause: Duration::ZERO,
        }
    }
}

impl Pace {
    /// The next stop after one whose state delta took `cost`.
    #[must_use]
    pub fn next_stop(&self, cost: Duration) -> NextStop {
        let cheap = (cost * CHEAP_DELTA_SHARE).max(SHORTEST);
        NextStop {
            interval: cheap.min(self.latency),
            pause: cost * DELTA_SHARE,
        }
    }

    /// As [`Pace::next_stop`], where the guest spends its next time with faulting in again what the delta
    /// looked at.
    #[must_use]
    pub fn next_stop_with_faults(&self, cost: Duration) -> NextStop {
        self.next_stop(cost * (1 + FAULTS_SHARE))
    }

    /// Time to the next part of a digest after one that took `cost`, and was the last one or not.
    #[must_use]
    pub fn digest_after(&self, cost: Duration, is_last: bool) -> Duration {
        let pause = cost * DIGEST_SHARE;
        if is_last {
            self.digest_interval.max(pause)
        } else {
            pause
        }
    }
}

/// Counts what was done with the guest's state, for figures. Shared between threads.
#[derive(Debug, Default)]
pub struct StateCounters {
    deltas: AtomicU64,
    delta_bytes: AtomicU64,
    delta_nanos: AtomicU64,
    stop_nanos: AtomicU64,
    digests: AtomicU64,
    digest_nanos: AtomicU64,
    transfers: AtomicU64,
    transfer_bytes: AtomicU64,
}

/// What [`StateCounters`] counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateFigures {
    /// State deltas sent or taken over.
    pub deltas: u64,
    /// Their size in the log.
    pub delta_bytes: u64,
    /// How long the guest stood still for the last one.
    pub delta_cost: Duration,
    /// How long it may run without an exit before it is stopped next: the latency bound that holds
    /// now.
    pub stop_interval: Duration,
    /// Digests logged or compared.
    pub digests: u64,
    /// How long the guest stood still for the last part of one.
    pub digest_cost: Duration,
    /// Transfers of the whole state completed.
    pub transfers: u64,
    /// Their size in the log.
    pub transfer_bytes: u64,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

fn set(value: &AtomicU64, duration: Duration) {
    value.store(duration.as_nanos() as u64, Ordering::Relaxed);
}

impl StateCounters {
    /// Part of a delta.
    pub fn delta_bytes(&self, bytes: u64) {
        add(&self.delta_bytes, bytes);
    }

    /// A delta is complete that held the guest up for `cost` in all.
    pub fn delta(&self, cost: Duration, next: NextStop) {
        add(&self.deltas, 1);
        set(&self.delta_nanos, cost);
        set(&self.stop_nanos, next.interval.max(next.pause));
    }

    /// A delta of `bytes` that was taken over in `cost`.
    pub fn taken_over(&self, bytes: u64, cost: Duration) {
        add(&self.deltas, 1);
        add(&self.delta_bytes, bytes);
        set(&self.delta_nanos, cost);
    }

    /// A part of a digest, the last one or not, that held the guest up for `cost`.
    pub fn digest(&self, cost: Duration, is_last: bool) {
        add(&self.digests, is_last.into());
        set(&self.digest_nanos, cost);
    }

    /// Part of a transfer of the whole state.
    pub fn transfer_bytes(&self, bytes: u64) {
        add(&self.transfer_bytes, bytes);
    }

    /// A transfer of the whole state is complete.
    pub fn transfer(&self) {
        add(&self.transfers, 1);
    }

    /// What was counted so far.
    #[must_use]
    pub fn figures(&self) -> StateFigures {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let time = |nanos: &AtomicU64| Duration::from_nanos(number(nanos));
        StateFigures {
            deltas: number(&self.deltas),
            delta_bytes: number(&self.delta_bytes),
            delta_cost: time(&self.delta_nanos),
            stop_interval: time(&self.stop_nanos),
            digests: number(&self.digests),
            digest_cost: time(&self.digest_nanos),
            transfers: number(&self.transfers),
            transfer_bytes: number(&self.transfer_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_grow_with_the_cost() {
        let pace = Pace::default();
        let ms = Duration::from_millis;
        let next = |cost| {
            let next = pace.next_stop(cost);
            (next.interval, next.pause)
        };
        assert_eq!(next(ms(0)), (SHORTEST, ms(0)));
        assert_eq!(next(ms(1)), (ms(20), ms(2)));
        assert_eq!(next(ms(20)), (pace.latency, ms(40)));
        let slow = ms(100);
        assert_eq!(next(slow), (pace.latency, ms(200)));
        let with_faults = pace.next_stop_with_faults(ms(10));
        assert_eq!(with_faults, pace.next_stop(ms(10) * (1 + FAULTS_SHARE)));
        for is_last in [false, true] {
            assert_eq!(pace.digest_after(slow, is_last), slow * DIGEST_SHARE);
        }
        assert_eq!(pace.digest_after(ms(1), true), pace.digest_interval);
        assert_eq!(pace.digest_after(ms(1), false), ms(1) * DIGEST_SHARE);
    }
}
