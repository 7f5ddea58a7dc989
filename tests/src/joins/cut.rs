//! One join that is cut off, and what is looked at then.

use std::fmt;
use std::time::{Duration, Instant};

use super::kind::{Cut, Kind, Moment, Outcome};
use super::life::Life;
use super::{Joins, LIMIT};
use crate::Signal;
use crate::error::{Error, Result};
use crate::host_kind::HostKind;
use crate::network::Network;
use crate::pair::{Guest, Side, Told};
use crate::protocol::Exit;
use crate::wait::wait_until;

/// A link is cut, and the disk server gone, for up to so many heartbeat timeouts.
const LONGEST_HOLD: f64 = 2.0;
/// For how long a backup tries to reach a primary that may be gone.
const CONNECT: &str = "6";
const KILLED: Exit = Exit::Signal(Signal::SIGKILL as i32);
/// ftvm's exit status when a backup has not begun.
const NOT_BEGUN: Exit = Exit::Code(1);
/// When another host won the guest.
const LOST: Exit = Exit::Code(3);
/// When a backup is not fit to go on with it.
const UNFIT: Exit = Exit::Code(4);

/// A cgroup of the host, whose memory is what makes the host run out of it.
const CONFINE: &str = "\
    set -e
    cgroup=/sys/fs/cgroup
    [ -e $cgroup/cgroup.procs ] || mount -t cgroup2 none $cgroup
    echo +memory > $cgroup/cgroup.subtree_control
    mkdir -p $cgroup/confined
    echo max > $cgroup/confined/memory.max
    echo '#!/bin/sh' > /tmp/confined-ftvm
    echo \"echo \\$\\$ > $cgroup/confined/cgroup.procs; exec ftvm \\\"\\$@\\\"\" >> /tmp/confined-ftvm
    chmod +x /tmp/confined-ftvm";
const CONFINED: &str = "/tmp/confined-ftvm";
const SQUEEZE: &str = "echo 1M > /sys/fs/cgroup/confined/memory.max";

/// Ends something that disturbs the two hosts.
type Mend = fn(&mut Joins) -> Result<()>;

/// How it stands with the two of them when nothing changes any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settled {
    /// The guest runs where it ran, without a backup.
    Alone,
    /// With one.
    Protected,
    /// It runs where the backup was.
    TookOver,
    /// It runs nowhere.
    Gone,
}

impl Joins {
    /// A backup joins, and that is cut off. What must not be is an error.
    ///
    /// # Errors
    ///
    /// When the guest does not go on where it should, the client lost something, one that had not
    /// joined ran the guest, or a host, the disk server or the guest cannot be started again.
    pub fn cut(&mut self, kind: Kind, moment: Moment) -> Result<Cut> {
        let hold = self.options.heartbeat_timeout;
        let hold = hold.mul_f64(LONGEST_HOLD * self.random.f64());
        let mut life = self.life()?;
        let seen = life.side.told().events.len();
        let before = self.record(&life.guest)?;

        let start = Instant::now();
        let mut target = self.start_target(&life.guest, kind)?;
        wait_until("the moment of a cut", LIMIT, || {
            let told = life.side.told();
            Ok(match moment {
                Moment::Part(part) => start.elapsed() >= self.took.mul_f64(part),
                Moment::Told(percent) => {
                    told.joining(seen)
                        .is_some_and(|join| join.percent >= percent)
                        || told.joined(seen).is_some()
                        || target.has_ended()
                }
            })
        })?;
        let percent = life.side.told().joining(seen).map(|join| join.percent);
        let mend = self.strike(kind, &life.side, &target)?;
        if let Some(mend) = mend {
            let held = Instant::now();
            wait_until("the end of a disturbance", LIMIT, || {
                Ok(held.elapsed() >= hold)
            })?;
            mend(self)?;
        }
        let settled = self.settle(kind, &mut life.side, &mut target, seen)?;
        let outcome = self.judge(settled, kind, life, target, (seen, before))?;
        for host in &mut self.hosts {
            if !host.is_alive() {
                self.testbed.boot_again(host)?;
            }
        }
        Ok(Cut {
            kind,
            moment,
            percent,
            outcome,
        })
    }

    fn start_target(&self, guest: &Guest, kind: Kind) -> Result<Side> {
        let [source, target] = [self.on, self.other()].map(|which| &self.hosts[which]);
        let mut guest = guest.clone();
        if kind == Kind::TargetOutOfMemory && target.kind() == HostKind::Qemu {
            target.check(&["sh", "-c", CONFINE])?;
            guest.program = CONFINED.to_owned();
        }
        let options = ["--connect-timeout", CONNECT];
        guest.backup_with(target, source, &self.disk_server, &options)
    }

    /// Does it. What is to be called to end it, if it is not for good.
    fn strike(&mut self, kind: Kind, source: &Side, target: &Side) -> Result<Option<Mend>> {
        let other = self.other();
        match kind {
            Kind::TargetKilled => target.signal(Signal::SIGKILL)?,
            Kind::TargetOutOfMemory => match self.hosts[other].kind() {
                HostKind::Qemu | HostKind::Debian => {
                    self.hosts[other].check(&["sh", "-c", SQUEEZE]).map(drop)?
                }
                // The memory of this machine is not to be played with.
                HostKind::Namespace => target.signal(Signal::SIGKILL)?,
            },
            Kind::TargetHostKilled => self.hosts[other].kill(),
            Kind::SourceKilled => source.signal(Signal::SIGKILL)?,
            Kind::SourceHostKilled => self.hosts[self.on].kill(),
            Kind::LinkCut => {
                self.hosts[other].cut(Network::Logging)?;
                return Ok(Some(|joins| {
                    joins.hosts[joins.other()].heal(Network::Logging)
                }));
            }
            Kind::LinkCutFromTarget => {
                self.hosts[other].lose(Network::Logging, 1.0)?;
                return Ok(Some(|joins| {
                    joins.hosts[joins.other()].undisturb(Network::Logging)
                }));
            }
            Kind::LinkCutToTarget => {
                self.hosts[self.on].lose(Network::Logging, 1.0)?;
                return Ok(Some(|joins| {
                    joins.hosts[joins.on].undisturb(Network::Logging)
                }));
            }
            Kind::DiskServerGone => {
                self.disk_server.kill();
                return Ok(Some(|joins| joins.disk_server.restart(&joins.testbed)));
            }
            Kind::DiskServerRestarted => self.disk_server.restart(&self.testbed)?,
        }
        Ok(None)
    }

    /// Waits until nothing changes any more: the join is complete, or one of the two has ended, and the
    /// other one knows.
    fn settle(
        &self,
        kind: Kind,
        source: &mut Side,
        target: &mut Side,
        seen: usize,
    ) -> Result<Settled> {
        // A loss that has begun is found within so long.
        let calm = self.options.heartbeat_timeout;
        let deadline = Instant::now() + LIMIT;
        let mut protected_since = None;
        loop {
            let ended = [source.has_ended(), target.has_ended()];
            let told = source.told();
            let newest = newest(told, seen);
            let is_protected = newest == Some("protected") && target.told().has("joined");
            match ended {
                [true, false] if target.told().has("live") => return Ok(Settled::TookOver),
                [true, true] => return Ok(Settled::Gone),
                [false, true] if matches!(newest, None | Some("join-cut" | "live")) => {
                    return Ok(Settled::Alone);
                }
                [false, false] if is_protected => {
                    let since = *protected_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= calm || is_harmless(kind) {
                        return Ok(Settled::Protected);
                    }
                }
                _ => protected_since = None,
            }
            if Instant::now() > deadline {
                return Err(Error::Timeout {
                    what: format!("an end of a join that was cut by: {kind}"),
                    limit: LIMIT,
                    seen: format!("source: {:?}\ntarget: {:?}", source.told(), target.told()),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether that is as it should be: the source had told of `seen` events, and `before` is who could
    /// run the guest then.
    fn judge(
        &mut self,
        settled: Settled,
        kind: Kind,
        mut life: Life,
        target: Side,
        (seen, before): (usize, (u64, String)),
    ) -> Result<Outcome> {
        if differs(life.side.told()) {
            return wrong(kind, "a backup differed", life.side.told());
        }
        let epoch = before.0;
        match settled {
            Settled::Protected => {
                life.goes_on("of a guest whose backup joined in spite of a disturbance")?;
                self.is_run_by(&life.guest, epoch, self.on)?;
                self.fail_over(life, target)?;
                Ok(Outcome::Protected)
            }
            Settled::TookOver => {
                self.took_over(kind, life, target, epoch)?;
                Ok(Outcome::TookOver)
            }
            Settled::Alone => {
                let claimed = newest(life.side.told(), seen) == Some("live");
                let end = End::of(kind, target)?;
                if !end.is_as_it_should(kind, claimed) {
                    return wrong(kind, "the target ended otherwise", &end);
                }
                life.goes_on("of a guest whose backup was lost in its join")?;
                match claimed {
                    true => self.is_run_by(&life.guest, epoch, self.on)?,
                    false => self.is_unclaimed(kind, &life, &before)?,
                }
                self.life = Some(life);
                Ok(match claimed {
                    true => Outcome::BackupLost,
                    false => Outcome::Discarded,
                })
            }
            Settled::Gone if !kind.is_of_source() => wrong(kind, "both ended", life.side.told()),
            Settled::Gone => {
                self.is_gone(kind, life, &End::of(kind, target)?, &before)?;
                Ok(Outcome::Gone)
            }
        }
    }

    /// The guest goes on where its backup was.
    fn took_over(
        &mut self,
        kind: Kind,
        mut life: Life,
        mut target: Side,
        epoch: u64,
    ) -> Result<()> {
        let expected = match kind {
            Kind::SourceHostKilled => None,
            Kind::SourceKilled => Some(KILLED),
            _ => Some(LOST),
        };
        if let Some(expected) = expected {
            let (exit, told) = life.side.end(LIMIT)?;
            if exit != expected {
                return wrong(kind, "the source ended otherwise", &(exit, told));
            }
        }
        if !target.told().has("joined") || differs(target.told()) {
            return wrong(kind, "a backup went live that must not", target.told());
        }
        life.side = target;
        self.on = self.other();
        life.goes_on("of a backup that took over")?;
        self.is_run_by(&life.guest, epoch, self.on)?;
        self.life = Some(life);
        Ok(())
    }

    /// The guest runs nowhere, and everybody says so.
    fn is_gone(&self, kind: Kind, life: Life, end: &End, before: &(u64, String)) -> Result<()> {
        let words = ["it was joining", "so is the guest"];
        let says_why = words.iter().all(|words| end.told.errors.contains(words));
        let is_right = match end.exit {
            Some(UNFIT) => says_why && end.told.has("refused"),
            Some(NOT_BEGUN) => !end.told.has("role"),
            _ => false,
        };
        if !is_right || end.told.has("live") || end.told.errors.contains("panicked") {
            return wrong(kind, "the target ended otherwise", end);
        }
        self.is_unclaimed(kind, &life, before)?;
        let seen = life.client.abandon();
        if seen.irregular.is_some() {
            return wrong(kind, "the client had a wrong reply", &seen.irregular);
        }
        // Nobody starts it anew by mistake.
        let host = &self.hosts[self.other()];
        let primary = life.guest.primary_at_once(host, &self.disk_server, &[])?;
        let (exit, told) = primary.end(LIMIT)?;
        match exit == NOT_BEGUN && told.errors.contains("start again with --force") {
            true => Ok(()),
            false => wrong(kind, "a primary started in its place", &(exit, told)),
        }
    }

    /// Who may run the guest is the same as before, perhaps in an epoch that it has since taken with a backup.
    fn is_unclaimed(&self, kind: Kind, life: &Life, before: &(u64, String)) -> Result<()> {
        let now = self.record(&life.guest)?;
        match now.0 >= before.0 && now.1 == before.1 {
            true => Ok(()),
            false => wrong(kind, "somebody claimed an epoch", &(before, now)),
        }
    }
}

fn wrong<T>(kind: Kind, what: &str, seen: &dyn fmt::Debug) -> Result<T> {
    Err(Error::Wrong {
        what: format!("{kind}: {what}"),
        seen: format!("{seen:?}"),
    })
}

fn differs(told: &Told) -> bool {
    told.has("diverged") || told.has("backup-diverged")
}

/// How one that joined ended.
#[derive(Debug)]
struct End {
    /// None of one whose host was killed.
    exit: Option<Exit>,
    told: Told,
}

impl End {
    fn of(kind: Kind, mut target: Side) -> Result<Self> {
        if kind == Kind::TargetHostKilled {
            let told = target.told().clone();
            return Ok(Self { exit: None, told });
        }
        let (exit, told) = target.end(LIMIT)?;
        let exit = Some(exit);
        Ok(Self { exit, told })
    }

    /// The source runs the guest; it `claimed` it if this one protected that.
    fn is_as_it_should(&self, kind: Kind, claimed: bool) -> bool {
        let is_expected = match self.exit {
            None => true,
            Some(KILLED) => kind.is_of_target(),
            Some(UNFIT) => !claimed && self.told.errors.contains("it was joining"),
            Some(LOST) => claimed,
            Some(NOT_BEGUN) => !self.told.has("role"),
            Some(_) => false,
        };
        let knows = !self.told.has("live") && (claimed || !self.told.has("joined"));
        // None had a guest of its own yet, or all of them were equal.
        let knows = knows && !differs(&self.told);
        is_expected && knows && !self.told.errors.contains("panicked")
    }
}

/// What a source told last of a backup, after its first `seen` events.
fn newest(told: &Told, seen: usize) -> Option<&str> {
    const KINDS: [&str; 5] = ["joining", "join-cut", "protected", "peer-lost", "live"];
    told.events[seen..]
        .iter()
        .filter_map(|event| event["event"].as_str())
        .rfind(|kind| KINDS.contains(kind))
}

/// Whether a pair that is protected stays so.
fn is_harmless(kind: Kind) -> bool {
    matches!(kind, Kind::DiskServerGone | Kind::DiskServerRestarted)
}
