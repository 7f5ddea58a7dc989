//! When hosts and the disk server are killed: at random, but repeatably so.

use std::time::Duration;

use fastrand::Rng;

/// One kill in so many is during the guest's boot: the second one is the first of them.
const BOOT_KILLS: u32 = 3;
/// No kill is so late in the boot that it might be over: one that is quicker than the last one.
const BOOT_PART: f64 = 0.9;

/// How late the disk server may go in a join, as a part of it.
const LATEST_PART: f64 = 1.1;

/// The disk server's moments are drawn apart, so that a seed means the same kills with and without
/// that fault.
const SERVER_SEED: u64 = 0x6469_736b;
/// Those of the joins as well.
const JOIN_SEED: u64 = 0x6a6f_696e;
/// And those of the disk server while a backup joins.
const JOIN_SERVER_SEED: u64 = 0x626f_7468;

/// The moments of one run after the other.
#[derive(Debug)]
pub(super) struct Plans {
    kills: Rng,
    server: Rng,
    joins: Rng,
    join_server: Rng,
    /// Runs that have a plan.
    pub(super) runs: u32,
    /// How long the guest's last undisturbed boot took.
    pub(super) boot: Option<Duration>,
}

/// All moments of one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// The run, from 1.
    pub(super) number: u32,
    pub(super) kill: KillPlan,
    /// When the disk server is killed, and how long it is down.
    pub(super) server: (ServerPlan, Duration),
    /// The same once more, while the next backup joins.
    pub(super) join_server: (ServerPlan, Duration),
    /// How far the first join may come before its host is killed, in percent.
    pub(super) cut: Option<f64>,
}

impl Plans {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            kills: Rng::with_seed(seed),
            server: Rng::with_seed(seed ^ SERVER_SEED),
            joins: Rng::with_seed(seed ^ JOIN_SEED),
            join_server: Rng::with_seed(seed ^ JOIN_SERVER_SEED),
            runs: 0,
            boot: None,
        }
    }

    /// The plan of the next run: one of a guest that boots, or one of a guest that has booted.
    pub(super) fn next(&mut self, boots: bool) -> Plan {
        self.runs += 1;
        let boot = self.boot.filter(|_| boots);
        Plan {
            number: self.runs,
            kill: KillPlan::next(&mut self.kills, self.runs, boot),
            server: ServerPlan::next(&mut self.server),
            join_server: ServerPlan::in_join(&mut self.join_server),
            cut: next_cut(&mut self.joins, self.runs),
        }
    }
}

/// The moments of one kill.
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
    /// At this part of the time that a join takes, from the start of the process that joins on. Some come
    /// when it is complete.
    Joining(f64),
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

    /// The moment in a join, and how long the server is down.
    fn in_join(random: &mut Rng) -> (Self, Duration) {
        let part = LATEST_PART * random.f64();
        let down = Duration::from_millis(random.u64(0..=2000));
        (Self::Joining(part), down)
    }
}

/// From this run on the host that joins is killed, too: who watches has seen how joins go by then.
const FIRST_CUT: u32 = 3;
/// No join is cut so late that it might be complete: one that is nearer to its end, in percent.
const CUT_PERCENT: f64 = 70.0;

/// How far the first join of run `number` may come before its host is killed, in percent; none if it
/// is left alone.
fn next_cut(random: &mut Rng, number: u32) -> Option<f64> {
    let percent = CUT_PERCENT * random.f64();
    (number >= FIRST_CUT).then_some(percent)
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
    fn joins_are_cut_from_the_third_run_on() {
        let mut random = Rng::with_seed(7);
        let cuts: Vec<_> = (1..=30).map(|run| next_cut(&mut random, run)).collect();
        assert_eq!(cuts[..2], [None, None]);
        assert!(
            cuts[2..]
                .iter()
                .all(|cut| cut.is_some_and(|percent| percent < 100.0))
        );
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
