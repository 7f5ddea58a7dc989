//! How long the network takes, there and back.
//!
//! As RTCP does it (RFC 3550, section 6.4.1, LSR and DLSR): a heartbeat names the last one that its
//! sender heard, and how long ago that was. No datagram is sent for it, and nobody has to answer at
//! once. TCP's own estimate is of no use here: a batch whose acknowledgement may wait has its
//! receipt confirmed as late as that.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Echo;

/// Heartbeats whose time is remembered. An echo of an older one says nothing.
const REMEMBERED: usize = 64;

/// The estimate is the median of so many measurements. A mean (as that of RFC 6298) would have in it
/// for seconds what one heartbeat waited while a host stood still.
const RECENT: usize = 15;

/// One side's estimate of the round trip.
#[derive(Debug, Default)]
pub(crate) struct RoundTrip {
    /// Numbers of own heartbeats, and when they were sent.
    sent: VecDeque<(u64, Instant)>,
    /// The peer's last heartbeat, and when it was heard.
    heard: Option<(u64, Instant)>,
    /// The last measurements.
    recent: VecDeque<Duration>,
}

impl RoundTrip {
    /// What the next heartbeat has to say of the peer's.
    pub(crate) fn echo(&self, now: Instant) -> Option<Echo> {
        let (sequence, at) = self.heard?;
        Some(Echo {
            sequence,
            held: now.saturating_duration_since(at),
        })
    }

    /// The own heartbeat `sequence` leaves.
    pub(crate) fn sent(&mut self, sequence: u64, now: Instant) {
        push_bounded(&mut self.sent, (sequence, now), REMEMBERED);
    }

    /// When the own heartbeat `sequence` left, if that is remembered.
    pub(crate) fn sent_at(&self, sequence: u64) -> Option<Instant> {
        let found = self.sent.iter().find(|(number, _)| *number == sequence);
        found.map(|&(_, at)| at)
    }

    /// What was measured last.
    pub(crate) fn latest(&self) -> Option<Duration> {
        self.recent.back().copied()
    }

    /// The peer's heartbeat `sequence` came. Returns the new estimate if there is one.
    pub(crate) fn heard(
        &mut self,
        sequence: u64,
        echo: Option<Echo>,
        now: Instant,
    ) -> Option<Duration> {
        if self.heard.is_none_or(|(last, _)| last < sequence) {
            self.heard = Some((sequence, now));
        }
        let Echo { sequence, held } = echo?;
        let sent = self.sent_at(sequence)?;
        // A peer that claims to have held it for longer than it was away says nothing.
        let measured = now.saturating_duration_since(sent).checked_sub(held)?;
        push_bounded(&mut self.recent, measured, RECENT);
        let mut sorted: Vec<Duration> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        Some(sorted[sorted.len() / 2])
    }
}

/// Adds one, and forgets the oldest where there are `most`.
fn push_bounded<T>(queue: &mut VecDeque<T>, one: T, most: usize) {
    if queue.len() == most {
        queue.pop_front();
    }
    queue.push_back(one);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn what_the_peer_held_is_no_part_of_it() {
        let start = Instant::now();
        let (mut here, mut there) = (RoundTrip::default(), RoundTrip::default());
        assert_eq!(there.echo(start), None, "nothing was heard yet");
        here.sent(1, start);
        assert_eq!(there.heard(1, None, start + ms(2)), None);
        let echo = there.echo(start + ms(72));
        assert_eq!(
            echo,
            Some(Echo {
                sequence: 1,
                held: ms(70)
            })
        );
        assert_eq!(here.heard(1, echo, start + ms(75)), Some(ms(5)));
    }

    #[test]
    fn a_host_that_stood_still_once_does_not_count_and_a_slower_network_does() {
        let start = Instant::now();
        let mut it = RoundTrip::default();
        let mut measure = |sequence: u64, trip| {
            let sent = start + ms(1000) * sequence as u32;
            it.sent(sequence, sent);
            let held = ms(30);
            it.heard(sequence, Some(Echo { sequence, held }), sent + held + trip)
                .expect("an estimate")
        };
        for sequence in 1..=10 {
            assert_eq!(measure(sequence, ms(8)), ms(8));
        }
        assert_eq!(measure(11, ms(5000)), ms(8));
        let last = (12..12 + RECENT as u64).map(|n| measure(n, ms(40))).last();
        assert_eq!(last, Some(ms(40)));
    }

    #[test]
    fn echoes_of_what_was_not_sent_or_is_forgotten_or_held_too_long_say_nothing() {
        let start = Instant::now();
        let mut it = RoundTrip::default();
        for sequence in 1..=REMEMBERED as u64 + 1 {
            it.sent(sequence, start);
        }
        let mut hear = |sequence, held| {
            let echo = Some(Echo { sequence, held });
            it.heard(1, echo, start + ms(10))
        };
        assert_eq!(hear(1, ms(0)), None, "forgotten");
        assert_eq!(hear(REMEMBERED as u64 + 2, ms(0)), None, "not sent");
        assert_eq!(hear(2, ms(11)), None, "held for longer than it was away");
        assert_eq!(hear(2, ms(10)), Some(ms(0)));
    }

    #[test]
    fn heartbeats_that_overtook_each_other_are_echoed_once_by_the_newest() {
        let start = Instant::now();
        let mut it = RoundTrip::default();
        it.heard(7, None, start);
        it.heard(5, None, start + ms(3));
        let echo = it.echo(start + ms(4)).expect("heard");
        assert_eq!((echo.sequence, echo.held), (7, ms(4)));
    }
}
