//! A host stands still for longer than the heartbeat timeout, and wakes up in the belief that no
//! time has passed: the other one runs the guest, and the one that slept halts. All the while nobody
//! reads the guest's console on either host.
//!
//! A primary falls asleep with replies that wait for their acknowledgements, and finds these when it
//! wakes up.

use std::time::{Duration, Instant};

use testbed::pair::{Guest, PATIENCE, Pair, Side};
use testbed::{Exit, GUEST_MAC, Host, HostProcess, Network, Result, Testbed, Wiretap, wait_until};

const LIMIT: Duration = Duration::from_secs(180);
/// How long acknowledgements take. Far longer than a host takes for a request and to fall asleep, and
/// far below the heartbeat timeout, [`PATIENCE`].
const UNDER_WAY: Duration = Duration::from_millis(600);

/// Which of the two hosts sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleeper {
    Primary,
    Backup,
}

/// Makes a FIFO in a host that is full and that nobody reads, as long as the process lives.
pub(crate) fn unread_fifo(host: &Host, path: &str) -> Result<HostProcess> {
    let script = format!(
        "[ -p {path} ] || mkfifo {path}; exec 3<>{path}; cat /dev/zero >&3 & echo ready; \
         exec sleep 1000"
    );
    let mut keeper = host.spawn(&["sh", "-c", &script])?;
    keeper.wait_for_line("ready", LIMIT)?;
    Ok(keeper)
}

fn one_sleeps(sleeper: Sleeper) -> Result<()> {
    let testbed = Testbed::new("frozen-host")?;
    let hosts = testbed.start_hosts(["a", "b"])?;
    let unread = format!("/tmp/ftvm-unread-{}-{}", std::process::id(), sleeper as u8);
    let _unread = [
        unread_fifo(&hosts[0], &unread)?,
        unread_fifo(&hosts[1], &unread)?,
    ];
    let log = ["--console-log", &unread];
    let pair = Pair::start_on(&testbed, hosts, Guest::redis("sleepy"), &log, &log)?;

    let (host, asleep, mut awake) = match sleeper {
        Sleeper::Primary => (&pair.a, pair.primary, pair.backup),
        Sleeper::Backup => (&pair.b, pair.backup, pair.primary),
    };
    // A reply has left, and the next request is there: its reply leaves when the acknowledgement comes.
    pair.b.delay(Network::Logging, UNDER_WAY)?;
    pair.client.goes_on("with late acknowledgements")?;
    host.check(&["true"])?;
    host.freeze()?;
    awake.wait_for("live", LIMIT)?;
    pair.client.goes_on("of the other host")?;
    awake.keep_figures();
    wait_until("figures of a guest that is alone", LIMIT, || {
        Ok(!awake.take_figures().is_empty())
    })?;
    host.thaw()?;
    let (exit, told) = asleep.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(3), "{told:?}");
    assert!(told.has("lost") && !told.has("live"), "{told:?}");
    let asleep_speaks = Wiretap::start(&testbed, host, Network::Client, GUEST_MAC)?;
    let other = if sleeper == Sleeper::Primary {
        "b"
    } else {
        "a"
    };
    // A frame that was in the host's network card when it fell asleep comes out of it when it wakes up,
    // and the new host speaks again when it hears it.
    wait_until(
        "that the switch has the guest at the other host",
        LIMIT,
        || {
            let place = testbed.fabric().host_behind(Network::Client, GUEST_MAC)?;
            Ok(place.as_deref() == Some(other))
        },
    )?;
    pair.client.goes_on("after the other host woke up")?;
    pair.client.lost_nothing();
    assert_eq!(asleep_speaks.frames()?, 0, "frames of the one that slept");
    assert!(!awake.has_ended());
    pair.a.check(&["rm", &unread])?;

    testbed.succeed();
    Ok(())
}

/// A frozen primary is replaced, and does not disturb its successor when it wakes up.
#[test]
fn a_primary_that_slept_halts() -> Result<()> {
    one_sleeps(Sleeper::Primary)
}

/// A frozen backup is given up, and does not go live when it wakes up.
#[test]
fn a_backup_that_slept_halts() -> Result<()> {
    one_sleeps(Sleeper::Backup)
}

/// Both hosts stand still at once, for longer than the heartbeat timeout. Whether they then find
/// each other or not, the guest goes on, at one place.
#[test]
fn two_hosts_that_slept_run_one_guest() -> Result<()> {
    let testbed = Testbed::new("frozen-hosts")?;
    let pair = Pair::start(&testbed, Guest::redis("sleepier"))?;
    pair.a.freeze()?;
    pair.b.freeze()?;
    let since = Instant::now();
    wait_until("an end of their sleep", LIMIT, || {
        Ok(since.elapsed() > 2 * PATIENCE)
    })?;
    pair.a.thaw()?;
    pair.b.thaw()?;
    pair.client.goes_on("after both slept")?;

    let mut sides = [pair.primary, pair.backup];
    let count = |sides: &mut [Side; 2], is_so: fn(&mut Side) -> bool| {
        let sides = sides.iter_mut().map(is_so);
        sides.filter(|is_so| *is_so).count()
    };
    // Who lost the other asks the disk server; both must know by the end who goes on.
    wait_until("that they agree who runs the guest", LIMIT, || {
        let lost = count(&mut sides, |side| side.told().has("peer-lost"));
        let live = count(&mut sides, |side| side.told().has("live"));
        Ok(lost == 0 || (live, count(&mut sides, Side::has_ended)) == (1, 1))
    })?;
    pair.client.goes_on("once they agreed")?;
    pair.client.lost_nothing();
    for mut side in sides {
        if side.has_ended() {
            let (exit, told) = side.end(LIMIT)?;
            assert_eq!(exit, Exit::Code(3), "{told:?}");
            assert!(!told.has("live"), "{told:?}");
        }
    }
    testbed.succeed();
    Ok(())
}
