//! A stock Debian, from the shared disk: its own init, a login at the console, the network, a database
//! that loses nothing when the primary dies, and a power-off that leaves a clean file system.

use testbed::failover::{Failovers, Fsck, Judgement, Options};
use testbed::pair::{Boot, PATIENCE};
use testbed::workload::Workload;
use testbed::{LIMIT, Result};

/// What is typed at the console, and what it answers. The echo of what is typed has none of the answers.
const ASKED: [[&str; 2]; 3] = [
    [
        "echo \"$(id -un) on $(tty), init is $(cat /proc/1/comm)\"",
        "root on /dev/ttyS0, init is systemd",
    ],
    [
        "echo \"$(findmnt -no SOURCE,FSTYPE,OPTIONS / | tr -s ' ')\"",
        "/dev/vda ext4 rw",
    ],
    // The seed that it was given counts: nothing waits for random numbers.
    [
        "dmesg | grep -m 1 -e 'crng init done' -e 'Run /init'",
        "random: crng init done",
    ],
];

/// What was committed is there once, and the file system is well: in use, and after the end.
#[test]
fn it_loses_nothing_when_the_primary_dies_and_leaves_its_disk_clean() -> Result<()> {
    let options = Options {
        workload: Workload::Postgres,
        boot: Boot::Quick,
        heartbeat_timeout: PATIENCE,
        ..Options::default()
    };
    let mut failovers = Failovers::start("debian", options)?;
    let run = failovers.run(&mut ())?;
    eprintln!("{run:?}");
    assert_eq!(run.judgement, Judgement::Pass, "{:?}", run.reason);
    assert_eq!(
        (run.lost, run.duplicates, run.reconnects),
        (Some(0), Some(0), 0)
    );
    assert_eq!(run.fsck, Some(Fsck::Clean));
    assert!(run.acked > 0);

    let debian = failovers.survivor().expect("the guest goes on");
    for [question, answer] in ASKED {
        debian.type_line(question)?;
        debian.wait_for_console(answer, LIMIT)?;
    }
    debian.type_line("poweroff")?;
    assert_eq!(failovers.ends_by_itself()?, Fsck::Clean);
    Ok(())
}
