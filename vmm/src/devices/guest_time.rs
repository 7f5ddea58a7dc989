//! Bounds of guest time, and of the timers that count it.

/// Guest time that no guest reaches (292 years), in nanoseconds.
pub(super) const MAX_GUEST_TIME: u64 = u64::MAX / 2;

/// Shortest time between two interrupts of a periodic timer, in nanoseconds of guest time: that of
/// KVM's own timers (`min_timer_period_us`). Each is an entry of the log and an exit or two, so a
/// guest with a shorter one would come to nothing else, and its host neither.
pub(super) const SHORTEST_PERIOD: u64 = 200_000;

/// The period of the interrupts of a counter that runs out every `period` (not 0): the shortest
/// multiple of that which is not below `shortest`. The others are left out, the counter itself runs
/// as it should.
pub(super) fn bounded_period(period: u64, shortest: u64) -> u64 {
    period * shortest.div_ceil(period)
}

/// Ticks that are left out at a time: a tenth of a second of Linux's.
pub(super) const MOST_LEFT_OUT: u64 = 25;

/// Forgets the ticks that a guest missed: one of those that are `due` is left. So that a guest does
/// something else than ticks where it is always held up, as many more are left out of those to come,
/// up to 25, by counting them as `fired`.
pub(super) fn forget_missed(due: &mut u64, fired: &mut u64) {
    let missed = due.saturating_sub(1);
    *due -= missed;
    *fired += missed.min(MOST_LEFT_OUT);
}
