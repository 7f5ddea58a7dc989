//! What happens to the hosts, networks and the disk server in a schedule.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use crate::clock::DRIFT_PPM;

/// How long a host takes to boot, at most.
pub(crate) const BOOT: Duration = Duration::from_millis(3300);
/// What lasts is not made shorter than that.
const SHORTEST: Duration = Duration::from_millis(10);
/// Hosts.
pub(crate) const HOSTS: usize = 3;

/// Whom a fault meets, as things stand then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The host that runs the guest.
    Live,
    /// One that follows it.
    Follower,
    /// Whichever there is.
    Host(usize),
}

/// A way between two that takes nothing for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    There,
    Back,
    Both,
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process is killed; its kernel says so to its peers.
    KillProcess(Who),
    /// The host loses its power, and boots again.
    KillHost(Who),
    /// The same, although it may have the only copy.
    KillOnlyCopy,
    Freeze(Who, Duration),
    /// The host stands still, and its clocks with it.
    Suspend(Who, Duration),
    /// The host's wall clock is set, by so many milliseconds.
    ClockJump(Who, i64),
    /// The host's clocks go at another rate from then on, by so many parts in a million.
    ClockDrift(Who, i64),
    Cut(Who, Way, Duration),
    /// Heartbeats get through, and the log does not.
    CutStreams(Who, Way, Duration),
    /// The host that runs the guest does not reach its disk, and gives way to its backup.
    GiveWay(Duration),
    Loss(u32, Duration),
    Latency(Duration, Duration),
    /// Its process is killed, and started again after that time.
    DiskServerDown(Duration),
    /// Its machine loses its power.
    DiskServerPower(Duration),
    /// So many requests fail that come to the disk within a time.
    DiskError(u32, Duration),
    /// There is no room for what is written.
    DiskFull(Duration),
    DiskServerSlow(Duration, Duration),
    DiskServerCut(Who, Way, Duration),
    SlowReplay(Duration, Duration),
    /// No fault: an operator hands the guest over to its backup.
    HandOver,
    /// A bit of the follower's memory flips.
    Flip,
}

impl Fault {
    /// How long it lasts.
    pub(crate) fn duration(mut self) -> Duration {
        match self {
            Self::KillHost(_) | Self::KillOnlyCopy => BOOT,
            _ => self.time().map_or(Duration::ZERO, |time| *time),
        }
    }

    /// The same for half as long, if it lasts.
    pub(crate) fn shorter(mut self) -> Option<Self> {
        *self.time()? /= 2;
        (self.duration() >= SHORTEST).then_some(self)
    }

    /// How long it lasts, if that may be chosen.
    fn time(&mut self) -> Option<&mut Duration> {
        match self {
            Self::KillProcess(_)
            | Self::KillHost(_)
            | Self::KillOnlyCopy
            | Self::Flip
            | Self::HandOver
            | Self::ClockJump(..)
            | Self::ClockDrift(..) => None,
            Self::Freeze(_, time)
            | Self::Suspend(_, time)
            | Self::Cut(_, _, time)
            | Self::CutStreams(_, _, time)
            | Self::GiveWay(time)
            | Self::Loss(_, time)
            | Self::Latency(_, time)
            | Self::DiskServerDown(time)
            | Self::DiskServerPower(time)
            | Self::DiskError(_, time)
            | Self::DiskFull(time)
            | Self::DiskServerSlow(_, time)
            | Self::DiskServerCut(_, _, time)
            | Self::SlowReplay(_, time) => Some(time),
        }
    }

    /// What is tried at every moment of a join.
    pub(crate) fn at_moments() -> impl Iterator<Item = Self> {
        let ways = [Way::There, Way::Back, Way::Both];
        let (short, long) = (Duration::from_millis(300), Duration::from_secs(3));
        [
            Self::KillOnlyCopy,
            Self::KillHost(Who::Follower),
            Self::KillProcess(Who::Live),
            Self::KillProcess(Who::Follower),
            Self::Freeze(Who::Live, short),
            Self::Freeze(Who::Live, long),
            Self::Freeze(Who::Follower, long),
            Self::GiveWay(long),
            Self::HandOver,
            Self::Flip,
            Self::DiskServerDown(long),
            Self::DiskServerPower(long),
        ]
        .into_iter()
        .chain(ways.map(|way| Self::Cut(Who::Follower, way, long)))
        .chain(ways.map(|way| Self::CutStreams(Who::Follower, way, long)))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A schedule: what is drawn from the seed, and may be left out.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// What delays, losses and loads are drawn from.
    pub(crate) seed: u64,
    /// One way between two hosts.
    pub(crate) latency: Duration,
    /// One way to the disk server.
    pub(crate) to_disk_server: Duration,
    pub(crate) heartbeat_timeout: Duration,
    pub(crate) faults: Vec<(Duration, Fault)>,
}

fn ms(range: std::ops::Range<u64>, rng: &mut Rng) -> Duration {
    Duration::from_millis(rng.u64(range))
}

impl Schedule {
    /// The schedule of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let latency = match rng.u32(..4) {
            0 => Duration::from_micros(rng.u64(10_000..120_000)),
            _ => Duration::from_micros(rng.u64(50..3000)),
        };
        let to_disk_server = Duration::from_micros(rng.u64(50..4000));
        let heartbeat_timeout = ms(100..1000, &mut rng);
        let number = rng.usize(2..14);
        let mut at = Duration::from_millis(rng.u64(20..1500));
        let mut faults = Vec::new();
        for _ in 0..number {
            faults.push((at, fault(&mut rng)));
            // In bursts: what meets something else on its way is what is interesting.
            at += match rng.u32(..3) {
                0 => ms(0..40, &mut rng),
                1 => ms(0..500, &mut rng),
                _ => ms(300..4000, &mut rng),
            };
        }
        // Beside what goes wrong, in any order.
        for _ in 0..rng.u32(..3) {
            let at = Duration::from_millis(rng.u64(500..15_000));
            faults.push((at, Fault::HandOver));
        }
        Self {
            seed,
            latency,
            to_disk_server,
            heartbeat_timeout,
            faults,
        }
    }
}

impl Schedule {
    /// The same with other faults.
    pub(crate) fn with(&self, faults: Vec<(Duration, Fault)>) -> Self {
        Self {
            faults,
            ..self.clone()
        }
    }
}

fn fault(rng: &mut Rng) -> Fault {
    let who = match rng.u32(..5) {
        0..2 => Who::Live,
        2..4 => Who::Follower,
        _ => Who::Host(rng.usize(..HOSTS)),
    };
    let way = [Way::There, Way::Back, Way::Both][rng.usize(..3)];
    let long = match rng.bool() {
        true => ms(20..900, rng),
        false => ms(500..6000, rng),
    };
    match rng.u32(..45) {
        0..4 => Fault::KillProcess(who),
        4..10 => Fault::KillHost(who),
        10 if rng.u32(..4) == 0 => Fault::KillOnlyCopy,
        10..15 => Fault::Freeze(who, long),
        15..18 => Fault::Cut(who, way, long),
        18 | 19 => Fault::CutStreams(who, way, long),
        20 => Fault::Loss(rng.u32(10..95), long),
        21 => Fault::Latency(ms(1..80, rng), long),
        22 | 23 => Fault::DiskServerDown(long),
        24 => Fault::DiskServerSlow(ms(5..3000, rng), long),
        25..28 => Fault::DiskServerCut(who, way, long),
        28 => Fault::SlowReplay(ms(1..60, rng), long),
        29 | 30 => Fault::GiveWay(long),
        31 | 32 => Fault::DiskServerPower(long),
        33..36 => Fault::DiskError(rng.u32(1..20), long),
        44 => Fault::DiskFull(long),
        36 => Fault::Suspend(who, long),
        37 => Fault::ClockJump(who, rng.i64(-5000..5000)),
        38..40 => Fault::ClockDrift(who, rng.i64(-DRIFT_PPM..=DRIFT_PPM)),
        _ => Fault::Flip,
    }
}
