//! A stock Debian, from the shared disk: its own init, a login at the console, the network, and a
//! power-off that leaves a clean file system.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use guest_images::debian;
use testbed::pair::{DiskServer, Export, Guest};
use testbed::{Exit, GUEST, HostProcess, Layout, Result, Testbed, sparse};

/// A boot takes one to two minutes in an emulated host, and more on a busy machine.
const LIMIT: Duration = Duration::from_secs(400);
const POSTGRES: u16 = 5432;

/// Waits for lines that have these texts, in whatever order they come.
fn wait_for_all(guest: &HostProcess, texts: &[&str]) {
    let deadline = Instant::now() + LIMIT;
    let mut missing: BTreeSet<&str> = texts.iter().copied().collect();
    let mut seen = String::new();
    while !missing.is_empty() {
        let line = guest.lines().recv_deadline(deadline);
        let Ok(line) = line else {
            panic!("{missing:?} not seen: {line:?}\n{seen}");
        };
        missing.retain(|text| !line.text.contains(text));
        seen.push_str(&line.text);
        seen.push('\n');
    }
}

/// What libpq says first: protocol 3.0, user `postgres`, database `ftvm`; then a query.
fn first_row(mut postgres: TcpStream, query: &str) -> String {
    let mut hello = vec![0, 3, 0, 0];
    hello.extend(b"user\0postgres\0database\0ftvm\0\0");
    let mut question = query.as_bytes().to_vec();
    question.push(0);
    for (kind, body) in [(None, hello), (Some(b'Q'), question), (Some(b'X'), vec![])] {
        let length = u32::try_from(body.len() + 4).expect("a short message");
        postgres.write_all(kind.as_slice()).expect("a message");
        postgres
            .write_all(&length.to_be_bytes())
            .expect("its length");
        postgres.write_all(&body).expect("its body");
    }
    let mut answers = Vec::new();
    postgres.read_to_end(&mut answers).expect("answers");
    let mut rest = answers.as_slice();
    while let [kind, a, b, c, d, body @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize - 4;
        if *kind == b'D' {
            // One field: its count (2 bytes) and length (4) come first.
            return String::from_utf8_lossy(&body[6..length]).into_owned();
        }
        rest = &body[length..];
    }
    panic!(
        "no row: {}",
        String::from_utf8_lossy(&answers).escape_debug()
    );
}

#[test]
fn debian_boots_from_the_shared_disk_and_leaves_it_clean() -> Result<()> {
    let testbed = Testbed::new("debian")?;
    let image = testbed.logs().join("disk.raw");
    sparse::copy(&Layout::find().images().join(debian::NAME), &image)?;
    let export = Export {
        name: "root".to_owned(),
        image: image.clone(),
        guest: None,
    };
    let mut disk_server = DiskServer::start_with(&testbed, vec![export])?;
    let host = testbed.start_host("a")?;
    let guest = Guest::debian("debian", &disk_server.uri("root"));
    let mut guest = guest.at_a_console(&host)?;

    wait_for_all(
        &guest,
        &["login: root (automatic login)", debian::POSTGRES_READY],
    );
    // The echo of what is typed has none of the answers.
    guest.write(b"echo \"$(id -un) on $(tty), init is $(cat /proc/1/comm)\"\n")?;
    guest.wait_for_line("root on /dev/ttyS0, init is systemd", LIMIT)?;
    guest.write(b"echo \"$(findmnt -no SOURCE,FSTYPE,OPTIONS / | tr -s ' ')\"\n")?;
    guest.wait_for_line("/dev/vda ext4 rw", LIMIT)?;
    // The seed that it was given counts: nothing waits for random numbers.
    guest.write(b"dmesg | grep -m 1 -e 'crng init done' -e 'Run /init'\n")?;
    guest.wait_for_line("random: crng init done", LIMIT)?;
    let postgres = testbed.client().connect(GUEST, POSTGRES, LIMIT);
    let postgres = postgres.expect("a connection to the guest");
    assert_eq!(first_row(postgres, "SHOW fsync"), "on");

    guest.write(b"poweroff\n")?;
    assert_eq!(guest.wait(LIMIT)?, Exit::Code(0));
    disk_server.kill();
    let fsck = Command::new("e2fsck").arg("-fn").arg(&image).output();
    let fsck = fsck.expect("e2fsck");
    assert!(fsck.status.success(), "{fsck:?}");
    testbed.succeed();
    Ok(())
}
