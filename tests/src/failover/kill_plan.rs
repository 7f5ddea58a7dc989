//! When the host and the disk server are killed: at random, but repeatably so.

use std::time::Duration;

use fastrand::Rng;

/// One kill in so many is during the guest's boot: the second one is the first of them.
const BOOT_KILLS: u32 = 3;
/// No kill is so late in the boot that it might be over: one that is quicker than the last one.
const BOOT_PART: f64 = 0.9;

/// The moments of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KillPlan {
    /// After both hosts have the guest running, whether it has booted or not.
    pub(super) after_start: Option<Duration>,
    /// After the client's first reply.
    pub(super) after_reply: Duration,
    /// How long the client goes on with the other host.
    pub(super) go_on: Duration,
}

impl KillPlan {
    /// The moments of run `number`, from 1. The first run is under load: it shows how long
    /// a boot takes, and it is what somebody who asks for one run wants to see.
    pub(super) fn next(random: &mut Rng, number: u32, boot: Option<Duration>) -> Self {
        // Every number is drawn in every run, so that a seed means the same
        // moments whatever was measured.
        let during_boot = number % BOOT_KILLS == 2;
        let part = BOOT_PART * random.f64();
        let after_reply = Duration::from_millis(random.u64(500..=5000));
        let go_on = Duration::from_millis(random.u64(1000..=2000));
        Self {
            after_start: boot.filter(|_| during_boot).map(|boot| boot.mul_f64(part)),
            after_reply,
            go_on,
        }
    }
}

/// When the disk server is killed and started again, in a run with that fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ServerPlan {
    /// At this part of the time up to the kill of the host.
    Before(f64),
    /// So long after the kill of the host: while the other one asks for the right to go on, or
    /// later.
    After(Duration),
}

impl ServerPlan {
    /// The next run's moment, and how long the server is down.
    pub(super) fn next(random: &mut Rng) -> (Self, Duration) {
        let before = random.bool();
        let part = random.f64();
        let after = Duration::from_millis(random.u64(0..=2000));
        let down = Duration::from_millis(random.u64(0..=2000));
        match before {
            true => (Self::Before(part), down),
            false => (Self::After(after), down),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Duration = Duration::from_secs(15);

    #[test]
    fn moments_are_repeatable_and_some_are_during_the_boot() {
        let plans = |seed| {
            let mut random = Rng::with_seed(seed);
            (1..=30)
                .map(|number| KillPlan::next(&mut random, number, Some(BOOT)))
                .collect::<Vec<_>>()
        };
        assert_eq!(plans(7), plans(7));
        assert_ne!(plans(7), plans(8));
        for seed in 0..20 {
            let plans = plans(seed);
            let boots: Vec<bool> = plans
                .iter()
                .map(|plan| plan.after_start.is_some_and(|after| after < BOOT))
                .collect();
            assert_eq!(boots[..6], [false, true, false, false, true, false]);
        }
        let unknown = KillPlan::next(&mut Rng::with_seed(7), 2, None);
        assert_eq!(unknown.after_start, None);
    }

    #[test]
    fn the_disk_server_goes_before_and_after_the_host() {
        let mut random = Rng::with_seed(7);
        let before = (0..400)
            .filter(|_| matches!(ServerPlan::next(&mut random).0, ServerPlan::Before(_)))
            .count();
        assert!((100..300).contains(&before), "{before} of 400");
    }
}
