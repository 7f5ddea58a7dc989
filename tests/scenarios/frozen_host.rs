//! A host stands still for longer than the heartbeat timeout, and wakes up in the belief that no
//! time has passed: the other one runs the guest, and the one that slept halts. All the while nobody
//! reads the guest's console on either host. A new backup joins the guest after each sleep.
//!
//! A primary falls asleep with replies that wait for their acknowledgements. These come when it sleeps,
//! and it finds them when it wakes up.

use std::time::{Duration, Instant};

use testbed::pair::{Guest, PATIENCE, Pair, Side};
use testbed::workload::Client;
use testbed::{
    Exit, GUEST_MAC, Host, HostKind, HostProcess, LIMIT, Network, Result, Testbed, Wiretap,
    wait_until,
};

/// How long nothing comes out of a host that has let out everything: far longer than it takes for a
/// reply, and far below the heartbeat timeout, [`PATIENCE`].
const QUIET: Duration = Duration::from_millis(500);

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

/// Freezes both hosts when the guest on `a` has replied to something that `b` has not acknowledged, and
/// nothing that `b` did acknowledge is in the host `a` any more: what leaves that from now on is what
/// its `ftvm` lets out later.
fn freeze_before_acknowledgements(
    a: &Host,
    b: &Host,
    client: &Client,
    replies: &Wiretap,
) -> Result<()> {
    wait_until("a sleep that begins in time", LIMIT, || {
        client.goes_on("before the sleep")?;
        let since = Instant::now();
        b.freeze()?;
        let mut last = (replies.frames()?, Instant::now());
        while last.1.elapsed() < QUIET {
            a.check(&["true"])?;
            let frames = replies.frames()?;
            if frames != last.0 {
                last = (frames, Instant::now());
            }
        }
        a.freeze()?;
        // Else the one or the other may have found its peer lost.
        let in_time = since.elapsed() < PATIENCE / 2;
        if !in_time {
            a.thaw()?;
            b.thaw()?;
        }
        Ok(in_time)
    })
}

#[test]
fn one_host_runs_the_guest_whoever_slept() -> Result<()> {
    let testbed = Testbed::new("frozen-host")?;
    let hosts = testbed.start_hosts(["a", "b"])?;
    let unread = format!("/tmp/ftvm-unread-{}", std::process::id());
    let _unread = [
        unread_fifo(&hosts[0], &unread)?,
        unread_fifo(&hosts[1], &unread)?,
    ];
    let log = ["--console-log", &unread];
    // A guest goes on although the backup does not for a moment.
    let primary = [&log[..], &["--max-lag", "10000"]].concat();
    let guest = Guest::redis("sleepy").quick();
    let pair = Pair::start_on(&testbed, hosts, guest, &primary, &log)?;
    let pair = one_sleeps(&testbed, pair, Sleeper::Backup, &log)?;
    let pair = one_sleeps(&testbed, pair, Sleeper::Primary, &log)?;
    let host = both_sleep(pair)?;
    host.check(&["rm", &unread])?;
    testbed.succeed();
    Ok(())
}

/// A frozen backup is given up, and does not go live when it wakes up. A frozen primary is replaced, and
/// does not disturb its successor when it wakes up: it has acknowledgements then, and lets nothing out.
/// A new backup, with these options, joins on the host of the one that slept.
fn one_sleeps(testbed: &Testbed, pair: Pair, sleeper: Sleeper, options: &[&str]) -> Result<Pair> {
    let (slept, other) = match sleeper {
        Sleeper::Primary => (&pair.a, &pair.b),
        Sleeper::Backup => (&pair.b, &pair.a),
    };
    let asleep_speaks = Wiretap::start(testbed, slept, Network::Client, GUEST_MAC)?;
    let acknowledgements = Wiretap::of_tcp_data(testbed, &pair.b, Network::Logging)?;
    match sleeper {
        Sleeper::Primary => {
            freeze_before_acknowledgements(&pair.a, &pair.b, &pair.client, &asleep_speaks)?;
        }
        Sleeper::Backup => pair.b.freeze()?,
    }
    let said = asleep_speaks.frames()?;
    let acknowledged = acknowledgements.frames()?;
    let (asleep, mut awake) = match sleeper {
        Sleeper::Primary => {
            pair.b.thaw()?;
            (pair.primary, pair.backup)
        }
        Sleeper::Backup => (pair.backup, pair.primary),
    };
    let live = awake.wait_for("live", LIMIT)?;
    pair.client.goes_on("of the other host")?;
    awake.keep_figures();
    wait_until("figures of a guest that is alone", LIMIT, || {
        Ok(!awake.take_figures().is_empty())
    })?;
    // The link of a host that is a namespace sleeps as well.
    if sleeper == Sleeper::Primary && slept.kind() == HostKind::Qemu {
        assert!(acknowledgements.frames()? > acknowledged);
        assert!(live["resent_frames"].as_u64() > Some(0), "{live}");
    }
    assert_eq!(asleep_speaks.frames()?, said, "frames of one that sleeps");
    slept.thaw()?;
    let (exit, told) = asleep.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(3), "{told:?}");
    assert!(told.has("lost") && !told.has("live"), "{told:?}");
    pair.client.goes_on("after the other host woke up")?;
    let place = testbed.fabric().host_behind(Network::Client, GUEST_MAC)?;
    assert_eq!(
        place.as_deref(),
        Some(other.name()),
        "where the switch has the guest"
    );
    assert_eq!(
        asleep_speaks.frames()?,
        said,
        "frames of the one that slept"
    );
    assert!(!awake.has_ended());

    let on = (other, &mut awake);
    let backup = pair.guest.join(slept, on, &pair.disk_server, options)?;
    let (a, b) = match sleeper {
        Sleeper::Primary => (pair.b, pair.a),
        Sleeper::Backup => (pair.a, pair.b),
    };
    Ok(Pair {
        primary: awake,
        backup,
        a,
        b,
        ..pair
    })
}

/// Both hosts stand still at once, for longer than the heartbeat timeout. Whether they then find
/// each other or not, the guest goes on, at one place.
fn both_sleep(pair: Pair) -> Result<Host> {
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
    Ok(pair.a)
}
