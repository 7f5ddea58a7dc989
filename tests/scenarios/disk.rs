//! A guest with a shared disk: its workers write, flush, read back and compare all the time. Hosts
//! and disk server are killed, frozen and suspended meanwhile; the guest sees no error, and everything that it
//! flushed is on the disk.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::mem;
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use guest_images::disk::{self, DiskLine, MIN_BYTES, WORKERS};
use testbed::pair::{DiskServer, Export, Guest, Side, Told};
use testbed::{Exit, GUEST, GUEST_MAC, Host, LIMIT, Network, Result, Testbed, Wiretap, wait_until};

/// Laps of each worker that show that the guest goes on.
const LAPS: u64 = 3;
const NAME: &str = "disky";
/// Where the guest gives back what it gets.
const ECHO: u16 = 7;

/// The guest on both hosts, with its disk.
struct Scene {
    guest: Guest,
    primary: Side,
    backup: Side,
    disk_server: DiskServer,
    a: Host,
    b: Host,
    image: PathBuf,
}

impl Scene {
    /// Starts it, and waits until its workers are at work.
    fn start(testbed: &Testbed, options: &[&str]) -> Result<Self> {
        Self::start_guest(testbed, Guest::disk_workers, options)
    }

    /// As [`Scene::start`], with a guest that is made of a name and a disk.
    fn start_guest(
        testbed: &Testbed,
        guest: fn(&str, &str) -> Guest,
        options: &[&str],
    ) -> Result<Self> {
        Self::start_on(testbed, None, guest, options)
    }

    /// As [`Scene::start_guest`], with another program than `disk-server`.
    fn start_on(
        testbed: &Testbed,
        program: Option<&Path>,
        guest: fn(&str, &str) -> Guest,
        options: &[&str],
    ) -> Result<Self> {
        let image = testbed.logs().join("disk.raw");
        let file = File::create(&image).expect("an image");
        file.set_len(MIN_BYTES.next_power_of_two()).expect("a size");
        let [a, b] = testbed.start_hosts(["a", "b"])?;
        let export = Export {
            name: "data".to_owned(),
            image: image.clone(),
            guest: Some(NAME.to_owned()),
        };
        let disk_server = DiskServer::start_as(testbed, program, vec![export])?;
        let guest = guest(NAME, &disk_server.uri("data")).quick();
        let mut primary = guest.primary(&a, &disk_server, options)?;
        let backup = guest.backup_with(&b, &a, &disk_server, options)?;
        goes_on(&mut primary, "at first")?;
        Ok(Self {
            guest,
            primary,
            backup,
            disk_server,
            a,
            b,
            image,
        })
    }

    fn everything_is_there(&mut self) {
        everything_is_there(&self.image, [self.primary.told(), self.backup.told()]);
    }
}

/// Looks on the disk for every lap that somebody was told of.
fn everything_is_there(image: &Path, told: [&Told; 2]) {
    let image = File::open(image).expect("the image");
    for worker in 0..WORKERS {
        let lap = told.map(|told| lap(told, worker)).into_iter().max();
        let newest = disk::check(&image, worker, lap.unwrap_or(0));
        assert!(newest.is_ok(), "worker {worker}, lap {lap:?}: {newest:?}");
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

/// Waits until some more reads were left to the backup.
fn leaves_reads(side: &mut Side) -> Result<()> {
    let left = |told: &Told| told.stats.map_or(0, |stats| stats.disk_shared_reads);
    let before = left(side.told());
    side.wait_until("reads of the backup's", LIMIT, |told| {
        (left(told) > before).then_some(())
    })
}

/// The primary dies with requests under way: the backup, which has read what was read itself, issues
/// them again, and goes on. So does one that joins then, on the same host.
#[test]
fn a_disk_survives_its_primary_with_reads_of_the_backup() -> Result<()> {
    let testbed = Testbed::new("disk-reads")?;
    let mut scene = Scene::start(&testbed, &["--backup-reads", "disk"])?;
    leaves_reads(&mut scene.primary)?;
    scene.a.kill();
    scene.backup.wait_for("live", LIMIT)?;
    goes_on(&mut scene.backup, "on the other host")?;
    let mut second = scene.guest.backup(&scene.b, &scene.b, &scene.disk_server)?;
    scene.backup.wait_for("protected", LIMIT)?;
    leaves_reads(&mut scene.backup)?;
    goes_on(&mut scene.backup, "with another backup")?;
    assert!(!second.told().has("diverged"), "{:?}", second.told());
    scene.disk_server.kill();
    scene.everything_is_there();
    testbed.succeed();
    Ok(())
}

/// When the disk server loses its power, and with it what it did not flush.
#[derive(Clone, Copy)]
enum Power {
    FailsBeforeTheFailover,
    FailsAfterTheFailover,
}

/// The guest's flush is under way, and what it wrote before is answered and on no disk, when the
/// primary dies and the disk server loses its power. The host that goes live makes all of it again
/// before the flush is answered.
fn the_power_fails(power: Power, name: &str) -> Result<()> {
    let testbed = Testbed::new(name)?;
    let server = Path::new(env!("CARGO_BIN_EXE_volatile-disk-server"));
    let mut scene = Scene::start_on(&testbed, Some(server), Guest::disk_workers, &[])?;
    let beside = |ending: &str| scene.image.with_extension(format!("raw.{ending}"));
    let (hold, cache) = (beside("hold"), beside("cache"));
    // No flush succeeds any more, and the workers come to where they wait for one.
    fs::write(&hold, "0").expect("a file");
    let read = |path: &Path| fs::read(path).expect("an image");
    let (mut contents, mut alike) = (read(&cache), 0);
    wait_until("writes that are not flushed, and then none", LIMIT, || {
        let before = mem::replace(&mut contents, read(&cache));
        let stands = before == contents && contents != read(&scene.image);
        alike = if stands { alike + 1 } else { 0 };
        Ok(alike == 20)
    })?;
    match power {
        Power::FailsAfterTheFailover => {
            scene.a.kill();
            scene.backup.wait_for("live", LIMIT)?;
            scene.disk_server.kill();
        }
        Power::FailsBeforeTheFailover => {
            scene.disk_server.kill();
            scene.a.kill();
            scene.backup.wait_for("waiting", LIMIT)?;
        }
    }
    let written = read(&cache);
    assert!(written != read(&scene.image), "nothing would be lost");
    // One flush succeeds, and what it left on the disk is looked at before there is more.
    fs::write(&hold, "1").expect("a file");
    scene.disk_server.restart(&testbed)?;
    scene.backup.wait_for("live", LIMIT)?;
    wait_until("what was written, on the disk", LIMIT, || {
        Ok(read(&scene.image) == written)
    })?;
    fs::remove_file(&hold).expect("it is there");
    goes_on(&mut scene.backup, "on the other host")?;
    scene.disk_server.kill();
    scene.everything_is_there();
    testbed.succeed();
    Ok(())
}

#[test]
fn what_is_flushed_survives_a_failover_and_then_a_loss_of_power() -> Result<()> {
    the_power_fails(Power::FailsAfterTheFailover, "disk-power-after")
}

#[test]
fn what_is_flushed_survives_a_loss_of_power_and_then_a_failover() -> Result<()> {
    the_power_fails(Power::FailsBeforeTheFailover, "disk-power-before")
}

/// A connection to the guest that gives every line back.
struct Echo(BufReader<TcpStream>);

impl Echo {
    fn connect(testbed: &Testbed) -> Result<Self> {
        let client = testbed.client();
        let connection = client.connect_once_it_listens(GUEST, ECHO, LIMIT)?;
        Ok(Self(BufReader::new(connection)))
    }

    fn say(&mut self, line: &str) {
        writeln!(self.0.get_mut(), "{line}").expect("the connection takes it");
    }

    fn hears(&mut self, line: &str) {
        let mut heard = String::new();
        self.0.read_line(&mut heard).expect("the guest's answer");
        assert_eq!(heard.trim_end(), line);
    }
}

/// What is on the disk when all that was on its way there has arrived: nobody writes any more.
fn settled(image: &Path) -> Result<Vec<u8>> {
    let read = || fs::read(image).expect("the image");
    let mut contents = read();
    wait_until("an image that stays as it is", LIMIT, || {
        let before = mem::replace(&mut contents, read());
        Ok(before == contents)
    })?;
    Ok(contents)
}

/// One guest goes through one loss after the other, and a new backup joins in between.
#[test]
fn a_guest_keeps_its_disk_whatever_is_lost() -> Result<()> {
    let testbed = Testbed::new("disk-losses")?;
    let scene = Scene::start_guest(&testbed, Guest::answering_disk_workers, &[])?;
    let scene = a_primary_that_was_suspended_writes_and_sends_nothing(&testbed, scene)?;
    let scene = the_backup_dies_while_the_disk_server_stands_still(&testbed, scene)?;
    the_guest_waits_for_the_disk_server(&testbed, scene)?;
    testbed.succeed();
    Ok(())
}

/// A primary that was suspended in the middle of its writes, with a request of a client under way,
/// goes on after the failover, and no clock of its host tells it that time has passed: it writes
/// nothing and sends nothing, learns that it lost, and halts. The host that runs the guest by then is
/// frozen meanwhile, so that whatever happens to the disk is the doing of the one that was suspended.
fn a_primary_that_was_suspended_writes_and_sends_nothing(
    testbed: &Testbed,
    mut scene: Scene,
) -> Result<Scene> {
    let wire = Wiretap::start(testbed, &scene.a, Network::Client, GUEST_MAC)?;
    let mut echo = Echo::connect(testbed)?;
    echo.say("awake");
    echo.hears("awake");
    assert_ne!(wire.frames()?, 0, "the guest's frames are seen");

    // Its answer was the last thing that the guest had to send: nothing is under way in the host.
    scene.a.suspend()?;
    // This one, and what TCP repeats of it, waits before the suspended host.
    echo.say("asleep");
    scene.backup.wait_for("live", LIMIT)?;
    echo.hears("asleep");
    goes_on(&mut scene.backup, "on the other host")?;

    scene.b.freeze()?;
    let disk = settled(&scene.image)?;
    let frames = wire.frames()?;
    scene.a.resume()?;
    let (exit, told) = scene.primary.end(LIMIT)?;
    assert_eq!(exit, Exit::Code(3), "{told:?}");
    let lost = told.event("lost").expect("it learns that it lost");
    assert_ne!(lost["reason"].as_str().unwrap_or_default(), "", "{told:?}");
    assert!(!told.has("live") && !told.has("ended"), "{told:?}");
    assert!(settled(&scene.image)? == disk, "it wrote to the disk");
    scene.b.thaw()?;

    echo.say("elsewhere");
    echo.hears("elsewhere");
    let mut primary = scene.backup;
    goes_on(&mut primary, "after the other host went on")?;
    assert_eq!(wire.frames()?, frames, "frames of the guest that lost");
    scene.disk_server.paused(|| {
        everything_is_there(&scene.image, [&told, primary.told()]);
        Ok(())
    })?;

    let [a, b] = [scene.b, scene.a];
    let backup = (scene.guest).join(&b, (&a, &mut primary), &scene.disk_server, &[])?;
    Ok(Scene {
        primary,
        backup,
        a,
        b,
        ..scene
    })
}

/// The backup dies while the disk server stands still: people are told of both, nobody goes on alone
/// without its word, and with it the primary does, with its disk.
fn the_backup_dies_while_the_disk_server_stands_still(
    testbed: &Testbed,
    mut scene: Scene,
) -> Result<Scene> {
    scene.disk_server.paused(|| {
        scene.primary.wait_for("disk-waiting", LIMIT)?;
        for side in [&mut scene.primary, &mut scene.backup] {
            assert!(!side.told().has("peer-lost"));
        }
        scene.b.kill();
        scene.primary.wait_for("waiting", LIMIT)?;
        assert!(!scene.primary.told().has("live"), "nobody can allow it");
        Ok(())
    })?;
    scene.primary.wait_for("disk-back", LIMIT)?;
    scene.primary.wait_for("live", LIMIT)?;
    goes_on(&mut scene.primary, "without a backup")?;
    scene.disk_server.paused(|| {
        everything_is_there(&scene.image, [scene.primary.told(), scene.backup.told()]);
        Ok(())
    })?;

    testbed.boot_again(&mut scene.b)?;
    let on = (&scene.a, &mut scene.primary);
    scene.backup = (scene.guest).join(&scene.b, on, &scene.disk_server, &[])?;
    Ok(scene)
}

/// The disk server is killed under load and comes back; then it is killed again, and the primary
/// dies before it is back.
fn the_guest_waits_for_the_disk_server(testbed: &Testbed, mut scene: Scene) -> Result<()> {
    for round in 1..=2 {
        scene.disk_server.kill();
        scene.disk_server.restart(testbed)?;
        goes_on(&mut scene.primary, &format!("after restart {round}"))?;
    }
    scene.disk_server.kill();
    scene.a.kill();
    scene.backup.wait_for("waiting", LIMIT)?;
    assert!(!scene.backup.told().has("live"), "nobody can allow it");
    scene.disk_server.restart(testbed)?;
    scene.backup.wait_for("live", LIMIT)?;
    goes_on(&mut scene.backup, "on the other host")?;
    scene.disk_server.kill();
    scene.everything_is_there();
    Ok(())
}
