//! A run that is killed leaves nothing that lasts.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use testbed::{HostKind, LIMIT, LocalProcess, Namespace, Result, Testbed, wait_until};

const MARK: &str = "fabric and logs: ";

/// Not a test of its own: the run that is killed.
#[test]
#[ignore = "started by the next one"]
fn victim() -> Result<()> {
    // One that is a namespace does not run in the fabric.
    let testbed = Testbed::with_hosts("victim", HostKind::Qemu)?;
    let _host = testbed.start_host("a")?;
    println!(
        "\n{MARK}{} {}",
        testbed.fabric().namespace().name(),
        testbed.logs().display()
    );
    loop {
        std::thread::park();
    }
}

#[test]
fn the_next_run_cleans_up_after_one_that_was_killed() -> Result<()> {
    let mut command = Command::new(std::env::current_exe().expect("the path of this test"));
    command
        .args(["leftovers::victim", "--exact", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut victim = LocalProcess::start(command)?;
    let output = victim.child().stdout.take().expect("its standard output");
    let mark = BufReader::new(output)
        .lines()
        .map_while(std::io::Result::ok)
        .find_map(|line| Some(line.strip_prefix(MARK)?.to_owned()))
        .expect("the victim makes its networks");
    let (name, logs) = mark.split_once(' ').expect("a namespace and a directory");
    let fabric = Namespace::named(name);
    assert_eq!(fabric.processes()?.len(), 1, "the victim's host");

    victim.kill();
    wait_until("the end of the victim's host", LIMIT, || {
        Ok(fabric.processes()?.is_empty())
    })?;
    assert!(fabric.exists(), "its namespaces are still there");

    let next = Testbed::new("next")?;
    assert!(!fabric.exists(), "the next run removed them");
    let own = next.fabric().namespace().clone();
    assert!(own.exists());
    next.succeed();
    assert!(!own.exists());
    std::fs::remove_dir_all(logs).expect("the victim's logs, which it could not remove");
    Ok(())
}
