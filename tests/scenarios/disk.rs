//! A guest with a shared disk: its workers write, flush, read back and compare all the time. Hosts
//! and disk server are killed and frozen meanwhile; the guest sees no error, and everything that it
//! flushed is on the disk.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use guest_images::disk::{self, DiskLine, MIN_BYTES, WORKERS};
use testbed::pair::{DiskServer, Export, Guest, Side, Told};
use testbed::{Exit, Host, Result, Testbed};

const LIMIT: Duration = Duration::from_secs(180);
/// Laps of each worker that show that the guest goes on.
const LAPS: u64 = 3;
const NAME: &str = "disky";

/// The guest on both hosts, with its disk.
struct Scene {
    primary: Side,
    backup: Side,
    disk_server: DiskServer,
    a: Host,
    _b: Host,
    image: PathBuf,
}

impl Scene {
    /// Starts it, and waits until its workers are at work.
    fn start(testbed: &Testbed, options: &[&str]) -> Result<Self> {
        let image = testbed.logs().join("disk.raw");
        let file = File::create(&image).expect("an image");
        file.set_len(MIN_BYTES.next_power_of_two()).expect("a size");
        let [a, b] = testbed.start_hosts(["a", "b"])?;
        let export = Export {
            name: "data".to_owned(),
            image: image.clone(),
            guest: Some(NAME.to_owned()),
        };
        let disk_server = DiskServer::start_with(testbed, vec![export])?;
        let guest = Guest::disk_workers(NAME, &disk_server.uri("data"));
        let mut primary = guest.primary(&a, &disk_server, options)?;
        let backup = guest.backup(&b, &a, &disk_server)?;
        goes_on(&mut primary, "at first")?;
        Ok(Self {
            primary,
            backup,
            disk_server,
            a,
            _b: b,
            image,
        })
    }

    /// Looks on the disk for every lap that somebody was told of.
    fn everything_is_there(&mut self) {
        let image = File::open(&self.image).expect("the image");
        for worker in 0..WORKERS {
            let lap = lap(self.primary.told(), worker).max(lap(self.backup.told(), worker));
            let newest = disk::check(&image, worker, lap);
            assert!(newest.is_ok(), "worker {worker}, lap {lap}: {newest:?}");
        }
    }
}

fn lines(told: &Told) -> impl Iterator<Item = DiskLine> {
    told.console
        .iter()
        .filter_map(|line| DiskLine::parse(&line.text))
}

/// The last lap that a worker told of, and 0 before the first one.
fn lap(told: &Told, worker: u64) -> u64 {
    let laps = lines(told).filter(|line| line.worker == worker);
    laps.map(|line| line.lap).max().unwrap_or(0)
}

/// Waits until both workers have told of some laps more, and sees that all of their requests and
/// comparisons went well up to now.
fn goes_on(side: &mut Side, when: &str) -> Result<()> {
    let laps = |told: &Told| {
        (0..WORKERS)
            .map(|worker| lap(told, worker))
            .collect::<Vec<_>>()
    };
    let before = laps(side.told());
    side.wait_until(&format!("laps {when}"), LIMIT, |told| {
        let now = laps(told);
        let enough = now
            .iter()
            .zip(&before)
            .all(|(now, then)| *now >= then + LAPS);
        enough.then_some(())
    })?;
    let told = side.told();
    for line in lines(told) {
        assert_eq!((line.errors, line.wrong), (0, 0), "{when}: {line:?}");
    }
    let failed = |text: &str| text.starts_with("disk: ") && text.contains("failed");
    let failed = told.console.iter().find(|line| failed(&line.text));
    assert_eq!(failed, None, "{when}");
    Ok(())
}

/// The primary dies with requests under way: the backup issues them again, and goes on.
fn the_primary_dies(mode: &str) -> Result<()> {
    let testbed = Testbed::new(&format!("disk-reads-{mode}"))?;
    let mut scene = Scene::start(&testbed, &["--backup-reads", mode])?;
    scene.a.kill();
    scene.backup.wait_for("live", LIMIT)?;
    goes_on(&mut scene.backup, "on the other host")?;
    scene.disk_server.kill();
    scene.everything_is_there();
    testbed.succeed();
    Ok(())
}

#[test]
fn a_disk_survives_its_primary_with_reads_in_the_log() -> Result<()> {
    the_primary_dies("log")
}

#[test]
fn a_disk_survives_its_primary_with_reads_of_the_backup() -> Result<()> {
    the_primary_dies("disk")
}

/// The disk server is killed under load and comes back; then it is killed again, and the primary
/// dies before it is back.
#[test]
fn the_guest_waits_for_the_disk_server() -> Result<()> {
    let testbed = Testbed::new("disk-server-lost")?;
    let mut scene = Scene::start(&testbed, &[])?;
    for round in 1..=2 {
        scene.disk_server.kill();
        scene.disk_server.restart(&testbed)?;
        goes_on(&mut scene.primary, &format!("after restart {round}"))?;
    }
    scene.disk_server.kill();
    scene.a.kill();
    scene.backup.wait_for("waiting", LIMIT)?;
    assert!(!scene.backup.told().has("live"), "nobody can allow it");
    scene.disk_server.restart(&testbed)?;
    scene.backup.wait_for("live", LIMIT)?;
    goes_on(&mut scene.backup, "on the other host")?;
    scene.disk_server.kill();
    scene.everything_is_there();
    testbed.succeed();
    Ok(())
}

/// A primary that was frozen in the middle of its writes wakes up after the failover: it writes
/// nothing over what the other one has written since, learns that it lost, and halts.
#[test]
fn a_primary_that_slept_writes_nothing() -> Result<()> {
    let testbed = Testbed::new("disk-frozen")?;
    let mut scene = Scene::start(&testbed, &[])?;
    scene.a.freeze()?;
    scene.backup.wait_for("live", LIMIT)?;
    goes_on(&mut scene.backup, "on the other host")?;
    scene.a.thaw()?;
    scene.primary.wait_for("lost", LIMIT)?;
    goes_on(&mut scene.backup, "after the other host woke up")?;
    scene.disk_server.kill();
    scene.everything_is_there();
    let (exit, told) = scene.primary.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(3), "{told:?}");
    assert!(told.has("lost") && !told.has("live"), "{told:?}");
    testbed.succeed();
    Ok(())
}
