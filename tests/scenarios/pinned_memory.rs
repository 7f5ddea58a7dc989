//! A recorded guest's memory is there before it runs, and stays where it is; where the host does not
//! allow that, ftvm says so.

use guest_images::micro::DETERMINISTIC;
use testbed::{Exit, Host, HostKind, LIMIT, Result, Signal, Testbed, wait_until};

use crate::recording::command;

/// What a guest has unless it is asked for more, as smaps has it.
const GUEST: &str = "131072 kB";

/// What a host says of the mapping that is the memory of the guest on it, once it is there: the
/// process has others beside it.
fn guest_memory(host: &Host) -> Result<Option<Vec<String>>> {
    let all = host.run(&["sh", "-c", "cat /proc/$(pidof ftvm)/smaps"])?;
    let mut lines = all.stdout.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.join(" ")
    });
    let size = format!("Size: {GUEST}");
    if !lines.any(|line| line == size) {
        return Ok(None);
    }
    let rest = lines.collect::<Vec<_>>();
    let flags = rest.iter().position(|line| line.starts_with("VmFlags:"));
    Ok(flags.map(|last| rest[..=last].to_vec()))
}

#[test]
fn guest_memory_stays_where_it_is() -> Result<()> {
    let testbed = Testbed::with_hosts("pinned-memory", HostKind::Qemu)?;
    let host = testbed.start_host("a")?;
    let guest = |role, options: &[&str]| command(&host, role, "tiny.cpio", "quiet", options);
    for (role, options) in [("record", &["--log", "/tmp/log"][..]), ("run", &[])] {
        let argv = guest(role, options);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let running = host.spawn(&argv)?;
        let expected: [String; 3] = match role {
            "record" => [
                format!("Rss: {GUEST}"),
                format!("Locked: {GUEST}"),
                "THPeligible: 0".to_owned(),
            ],
            _ => ["Locked: 0 kB", "THPeligible: 1", "LazyFree: 0 kB"].map(str::to_owned),
        };
        let mut seen = Vec::new();
        wait_until(
            &format!("the memory of `{role}`: {expected:?}"),
            LIMIT,
            || {
                seen = guest_memory(&host)?.unwrap_or_default();
                Ok(expected.iter().all(|line| seen.contains(line)))
            },
        )?;
        running.signal(Signal::SIGKILL)?;
        running.wait(LIMIT)?;
    }

    // A small guest, and a shell's words before it.
    let image = host.image(&DETERMINISTIC[0].image());
    let record = |before: &str| {
        let script = format!("{before}; exec ftvm record --log /tmp/log --kernel {image}");
        host.run(&["unshare", "--user", "sh", "-c", &script])
    };
    // In a name space of users, root is one who may lock no more than others.
    let unlocked = record("ulimit -l 64")?;
    assert!(unlocked.exit.success(), "{unlocked:?}");
    let warning = "guest memory cannot be locked (the limit is 64 KiB)";
    assert_eq!(unlocked.stderr.matches(warning).count(), 1, "{unlocked:?}");
    assert_eq!(unlocked.stderr.matches("guest memory cannot").count(), 1);

    host.check(&["mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"])?;
    let small = "cd /sys/fs/cgroup && echo +memory > cgroup.subtree_control && mkdir small && \
                 echo 100M > small/memory.max";
    host.check(&["sh", "-c", small])?;
    let script = format!(
        "echo $$ > /sys/fs/cgroup/small/cgroup.procs && \
         exec ftvm record --log /tmp/log --kernel {image}"
    );
    let refused = host.run(&["sh", "-c", &script])?;
    assert_eq!(refused.exit, Exit::Code(1), "{refused:?}");
    for part in [
        "not enough memory: the guest's 128 MiB",
        "memory cgroup /sys/fs/cgroup/small",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
    }
    testbed.succeed();
    Ok(())
}
