//! A guest with less memory than its programs use, and swap on the shared disk: Linux reclaims pages by
//! their accessed bits, and the replay does not differ.

use std::fs::{self, File};

use guest_images::{Archive, page_pressure};
use testbed::pair::{DiskServer, Export, QUICK};
use testbed::{Host, Result, Testbed};

use crate::recording::{command, run};

const SWAP_BYTES: u64 = 64 << 20;
const MEMORY: [&str; 2] = ["--memory", "104"];
/// Three processes of 18 MiB.
const INIT: &str = "#!/bin/sh\n\
    /bin/busybox mount -t proc proc /proc\n\
    mount -t devtmpfs devtmpfs /dev\n\
    cd \"/modules/$(uname -r)\"\n\
    while read -r module; do insmod \"$module\"; done < order\n\
    mkswap /dev/vda && swapon /dev/vda && page-pressure 3 18 6000\n\
    poweroff -f\n";

/// Makes an initramfs in a host: the tiny guest's, with [`INIT`] and the program.
fn initrd(testbed: &Testbed, host: &Host) -> Result<String> {
    let mut archive = Archive::new();
    let program = page_pressure::program().expect("it compiles");
    archive
        .file("pressure/init", 0o755, INIT)
        .file("bin/page-pressure", 0o755, program);
    let local = testbed.logs().join("pressure.cpio");
    fs::write(&local, archive.to_bytes()).expect("a file in the run's directory");
    let (tiny, ours) = (
        host.image("tiny.cpio"),
        host.provide(&local, "pressure.cpio")?,
    );
    let both = "/tmp/guest.cpio";
    host.check(&["sh", "-c", &format!("cat {tiny} {ours} > {both}")])?;
    Ok(both.to_owned())
}

#[test]
fn page_reclaim_with_swap_is_replayed_without_a_difference() -> Result<()> {
    let testbed = Testbed::new("page-reclaim")?;
    let image = testbed.logs().join("swap.raw");
    let file = File::create(&image).expect("an image");
    file.set_len(SWAP_BYTES).expect("a size");
    let export = Export {
        name: "swap".to_owned(),
        image,
        guest: None,
    };
    let disk_server = DiskServer::start_with(&testbed, vec![export])?;
    let host = testbed.start_host("a")?;
    let initrd = initrd(&testbed, &host)?;
    let words = &format!("quiet mitigations=off rdinit=/pressure/init {QUICK}");

    let uri = disk_server.uri("swap");
    let log = ["--verify", "--log", "/tmp/pressure.log"];
    let rest = ["--console-log", "/tmp/console", "--disk", &uri];
    let record = [&MEMORY[..], &log, &rest, disk_server.key_options()].concat();
    let recorded = run(&host, &command(&host, "record", &initrd, words, &record))?;
    assert!(recorded.exit.success(), "{recorded:?}");
    let console = host.check(&["cat", "/tmp/console"])?;
    let swapped = page_pressure::swapped(&console);
    eprintln!("pages swapped in and out: {swapped:?}");
    assert!(
        swapped.is_some_and(|counts| counts.iter().all(|pages| *pages > 0)),
        "{console}"
    );
    let replay = [&MEMORY[..], &["/tmp/pressure.log"]].concat();
    let replayed = run(&host, &command(&host, "replay", &initrd, words, &replay))?;
    assert!(replayed.exit.success(), "{replayed:?}");
    assert!(
        replayed.stdout.starts_with("no difference: "),
        "{replayed:?}"
    );
    testbed.succeed();
    Ok(())
}
