//! The guest's clocks: fine, right from the boot on, and over a failover neither back nor slow.

use std::time::{Duration, Instant};

use guest_images::clock::{self, ClockLine};
use testbed::pair::{Boot, DiskServer, Guest, PATIENCE, Told};
use testbed::{Host, LIMIT, Result, Testbed};

/// How far a guest's clock may be off after a failover. What makes it differ is that a line or a
/// log entry takes longer to one place than to another: some milliseconds. Were the clock to stand
/// still while the loss is noticed, it would be off by the heartbeat timeout and more.
const TOLERANCE: Duration = Duration::from_millis(200);
/// How far a guest's wall clock may seem to be off after its boot. One that was set from the CMOS
/// clock, which has whole seconds, is up to a second late; and with every clock the kernel loses the
/// time from when it sets its clock to when it starts its timer, 48 ms or more with the paravirtual
/// clock, and 375 ms in one run that may have another reason (docs/clock.md, "Wall clock").
const WALL_TOLERANCE: Duration = Duration::from_millis(1200);
/// A fine clock has smaller steps. They are of the guest's time: however busy the machine is, some
/// two reads are that near.
const SMALL_STEP: Duration = Duration::from_millis(1);
/// Lines that are looked at on each host.
const LINES: usize = 40;

/// A line of the guest, and when it came.
#[derive(Debug, Clone, Copy)]
struct Seen {
    line: ClockLine,
    at: Instant,
}

fn seen(told: &Told) -> Vec<Seen> {
    let lines = told.console.iter();
    lines
        .filter_map(|line| {
            let at = line.at;
            ClockLine::parse(&line.text).map(|line| Seen { line, at })
        })
        .collect()
}

/// How far a clock was behind the time since `start`, by the line that came fastest. The lines' way
/// from the guest only adds to that.
fn behind(start: Instant, seen: &[Seen], clock: impl Fn(&ClockLine) -> Duration) -> i128 {
    let behind = seen.iter().map(|seen| {
        let since_start = seen.at.saturating_duration_since(start).as_nanos();
        since_start as i128 - clock(&seen.line).as_nanos() as i128
    });
    behind.min().expect("there are lines")
}

/// How far the host's wall clock is behind the time since `start`.
fn host_behind(testbed: &Testbed, host: &Host, start: Instant) -> Result<i128> {
    let program = testbed.logs().join("clock");
    std::fs::write(&program, clock::program().expect("it compiles")).expect("written");
    let path = host.provide(&program, "clock")?;
    host.check(&["chmod", "755", &path])?;
    let mut told = Vec::new();
    for _ in 0..10 {
        let text = host.check(&[&path, "realtime", "1"])?;
        let line = ClockLine::parse(&text).expect("a line of the program");
        let at = Instant::now();
        told.push(Seen { line, at });
    }
    Ok(behind(start, &told, |line| line.wall))
}

fn is_near(a: i128, b: i128, tolerance: Duration) -> bool {
    (a - b).unsigned_abs() < tolerance.as_nanos()
}

/// How finely a clock goes on while a guest makes no exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Steps {
    /// Each read is a new value.
    Fine,
    /// Some reads are of the same value.
    Coarse,
}

/// A guest with this clock reads it all the time; its wall clock is the host's, its steps
/// are small if they are to be, and a failover costs it no time, which takes `patience` and more.
fn over_a_failover(clock: &str, steps: Steps, patience: Duration) -> Result<()> {
    assert!(patience > 2 * TOLERANCE);
    let testbed = Testbed::new(clock)?;
    let [mut a, b] = testbed.start_hosts(["a", "b"])?;
    let start = Instant::now();
    let host_wall = host_behind(&testbed, &a, start)?;
    let disk_server = DiskServer::start(&testbed)?;
    let mut guest = Guest::tiny(clock, "ftvm.work=0 ftvm.do=clock").boots(Boot::Quick);
    guest.options = ["--console", "--clock", clock].map(str::to_owned).to_vec();
    let timeout = patience.as_millis().to_string();
    let mut primary = guest.primary(&a, &disk_server, &["--heartbeat-timeout", &timeout])?;
    let mut backup = guest.backup(&b, &a, &disk_server)?;
    // A busy machine holds lines up: as more of them come, the fastest one says better and better
    // what the guest's clock is.
    let enough = |told: &Told| Some(seen(told)).filter(|seen| seen.len() >= LINES);
    let before = primary.wait_until("the host's wall clock in the guest", LIMIT, |told| {
        let wall = |seen: &Vec<Seen>| behind(start, seen, |line| line.wall);
        enough(told).filter(|seen| is_near(wall(seen), host_wall, WALL_TOLERANCE))
    })?;
    a.kill();
    backup.wait_for("live", LIMIT)?;
    let went_on = |seen: &Vec<Seen>| {
        let clocks = [(|line| line.last) as fn(&ClockLine) -> Duration, |line| {
            line.wall
        }];
        clocks.into_iter().all(|clock| {
            let (then, now) = (behind(start, &before, clock), behind(start, seen, clock));
            is_near(then, now, TOLERANCE)
        })
    };
    let after = backup.wait_until("clocks that went on", LIMIT, |told| {
        enough(told).filter(went_on)
    })?;
    let before = seen(primary.told());
    let (last, first) = (before.last().expect("lines"), after[0]);
    assert!(first.line.last > last.line.last, "{last:?} {first:?}");
    assert!(first.line.wall > last.line.wall, "{last:?} {first:?}");
    for seen in before.iter().chain(&after) {
        assert_eq!(seen.line.backwards, 0, "{seen:?}");
    }
    for seen in [last, after.last().expect("lines")] {
        let step = seen.line.step.expect("the clock went on");
        match steps {
            Steps::Fine => assert!(seen.line.same == 0 && step < SMALL_STEP, "{seen:?}"),
            Steps::Coarse => assert!(seen.line.same > 0, "{seen:?}"),
        }
    }
    testbed.succeed();
    Ok(())
}

#[test]
fn the_pm_timer_goes_on_over_a_failover() -> Result<()> {
    // Linux takes a step of 2.3 s and more for one back (docs/clock.md).
    let patience = Duration::from_millis(1500);
    over_a_failover("pm-timer", Steps::Fine, patience)
}

#[test]
fn the_paravirtual_clock_goes_on_over_a_failover() -> Result<()> {
    over_a_failover("kvm-clock", Steps::Coarse, PATIENCE)
}

#[test]
fn the_paravirtual_clock_with_exact_reads_goes_on_over_a_failover() -> Result<()> {
    over_a_failover("kvm-clock-exact", Steps::Fine, PATIENCE)
}
