//! The networks of two hosts are disturbed in every way that a network can be, one at a time: whatever
//! heartbeats say, the guest does not wait for long, one host runs it afterwards, and nothing is lost.
//!
//! `FTVM_FAULTS=all`, or `FTVM_FAULTS=FIRST-LAST` by their numbers, goes through the faults with
//! ftvm's own timeouts and writes the table in `docs/failures.md`. Without it, those two are tried that
//! leave everything alive and let the log stand still.

mod kinds;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use guest_images::disk::{self, DiskLine, MIN_BYTES, WORKERS};
use logging_channel::Settings;
use testbed::pair::{DiskServer, Export, Guest, PATIENCE, Side, Told, one_goes_on};
use testbed::workload::Client;
use testbed::{Exit, GUEST, Host, LIMIT, Result, Testbed, wait_until};

use self::kinds::{FAULTS, Fault, FaultSite, LARGE_LOST, TCP_CUT};
use crate::table::put_row;

/// How long a fault lasts where it is measured.
const WINDOW: Duration = Duration::from_secs(8);
/// No client waits for as many output timeouts, also on a machine that stands still now and then.
const WORST_STALL: u32 = 5;
/// Where the guest with a disk gives back what it gets.
const ECHO: u16 = 7;
/// Of the table.
const HEAD: &str = "| fault of a network |";

/// A client of a guest with a disk: it has every line given back.
struct Echo {
    over: Arc<AtomicBool>,
    replies: Arc<AtomicU64>,
    thread: JoinHandle<Vec<Instant>>,
}

impl Echo {
    fn start(testbed: &Testbed) -> Result<Self> {
        let client = testbed.client();
        let connection = client.connect_once_it_listens(GUEST, ECHO, LIMIT)?;
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let thread = thread::spawn(move || {
            let mut connection = BufReader::new(connection);
            let mut replies = Vec::new();
            while !seen.load(Ordering::Relaxed) {
                let line = format!("line {}\n", replies.len());
                let mut heard = String::new();
                let said = connection.get_mut().write_all(line.as_bytes());
                said.expect("the connection takes it");
                connection.read_line(&mut heard).expect("a reply");
                assert_eq!(heard, line);
                replies.push(Instant::now());
                counted.fetch_add(1, Ordering::Relaxed);
            }
            replies
        });
        Ok(Self {
            over,
            replies: count,
            thread,
        })
    }
}

/// Whoever uses the guest.
enum User {
    Redis(Client),
    Echo(Echo),
}

impl User {
    /// Waits for a reply to something said from now on.
    fn goes_on(&self, what: &str) -> Result<()> {
        match self {
            Self::Redis(client) => client.goes_on(what).map(drop),
            Self::Echo(echo) => {
                let said = || echo.replies.load(Ordering::Relaxed);
                let before = said();
                wait_until(what, LIMIT, || Ok(said() > before + 1))
            }
        }
    }

    /// When there were replies. Nothing that was replied to is lost, and the connection is the first.
    fn end(self) -> Vec<Instant> {
        match self {
            Self::Redis(client) => {
                let record = client.lost_nothing();
                record.replies.into_iter().map(|(at, _)| at).collect()
            }
            Self::Echo(echo) => {
                echo.over.store(true, Ordering::Relaxed);
                echo.thread.join().expect("every line came back")
            }
        }
    }
}

/// The last lap that a worker told of, and 0 before the first one.
fn lap(told: &Told, worker: u64) -> u64 {
    let lines = told
        .console
        .iter()
        .filter_map(|line| DiskLine::parse(&line.text));
    let laps = lines.filter(|line| line.worker == worker);
    laps.map(|line| line.lap).max().unwrap_or(0)
}

/// The longest time without a reply that was not over before `struck` and began before `healed`.
fn longest_gap(replies: &[Instant], struck: Instant, healed: Instant) -> Duration {
    let gaps = replies.windows(2).filter_map(|pair| {
        let touches = pair[1] > struck && pair[0] < healed;
        touches.then(|| pair[1] - pair[0])
    });
    gaps.max().unwrap_or_default()
}

/// Hosts on which guests are disturbed.
struct Stage {
    testbed: Testbed,
    a: Host,
    b: Host,
    disk_server: DiskServer,
    guests: u32,
}

/// A guest on both hosts, and its user.
struct Subject {
    guest: Guest,
    /// Of a guest with a disk.
    image: PathBuf,
    primary: Side,
    backup: Side,
    user: User,
}

/// How a guest got over a fault.
struct Seen {
    struck: Instant,
    healed: Instant,
    runs: &'static str,
    /// Why the primary took its backup for lost, and the reverse.
    reasons: [Option<String>; 2],
}

impl Seen {
    /// How long the guest's user waited, who had these replies. `timeout` is that of heartbeats.
    fn gap(&self, replies: &[Instant], timeout: Duration) -> Duration {
        let gap = longest_gap(replies, self.struck, self.healed);
        let settings = Settings {
            heartbeat_timeout: timeout,
            ..Settings::default()
        };
        assert!(gap <= WORST_STALL * settings.output_timeout(), "{gap:?}");
        gap
    }
}

/// A guest after a fault.
struct Survivor {
    guest: Guest,
    image: PathBuf,
    side: Side,
    user: User,
}

impl Stage {
    fn new(name: &str) -> Result<Self> {
        let testbed = Testbed::new(name)?;
        let [a, b] = testbed.start_hosts(["a", "b"])?;
        let disk_server = DiskServer::start(&testbed)?;
        Ok(Self {
            testbed,
            a,
            b,
            disk_server,
            guests: 0,
        })
    }

    fn site(&self) -> FaultSite<'_> {
        FaultSite {
            fabric: self.testbed.fabric(),
            primary: &self.a,
            backup: &self.b,
        }
    }

    /// Boots a guest for this fault on both hosts. `timeout` is that of heartbeats.
    fn boot(&mut self, fault: &Fault, timeout: Duration) -> Result<Subject> {
        self.guests += 1;
        let name = format!("guest-{}", self.guests);
        let image = self.testbed.logs().join(format!("{name}.raw"));
        let millis = timeout.as_millis().to_string();
        let mut options = vec!["--heartbeat-timeout", &millis];
        let guest = match fault.backup_reads {
            None => Guest::redis(&name).quick(),
            Some(reads) => {
                options.extend(["--backup-reads", reads]);
                let file = File::create(&image).expect("an image");
                file.set_len(MIN_BYTES.next_power_of_two()).expect("a size");
                let export = Export {
                    name: name.clone(),
                    image: image.clone(),
                    guest: Some(name.clone()),
                };
                self.disk_server.offer(&self.testbed, vec![export])?;
                Guest::answering_disk_workers(&name, &self.disk_server.uri(&name)).quick()
            }
        };
        let mut primary = guest.primary(&self.a, &self.disk_server, &options)?;
        let backup = guest.backup(&self.b, &self.a, &self.disk_server)?;
        let user = if fault.backup_reads.is_some() {
            for worker in 0..WORKERS {
                primary.wait_until("laps", LIMIT, |told| (lap(told, worker) > 1).then_some(()))?;
            }
            User::Echo(Echo::start(&self.testbed)?)
        } else {
            let client = Client::redis_with_pauses(self.testbed.client());
            client.goes_on("after the boot")?;
            User::Redis(client)
        };
        Ok(Subject {
            guest,
            image,
            primary,
            backup,
            user,
        })
    }

    /// Gives a guest that the primary runs alone a backup again.
    fn protect(&self, survivor: Survivor) -> Result<Subject> {
        let Survivor {
            guest,
            image,
            side: mut primary,
            user,
        } = survivor;
        let backup = guest.join(&self.b, (&self.a, &mut primary), &self.disk_server, &[])?;
        Ok(Subject {
            guest,
            image,
            primary,
            backup,
            user,
        })
    }

    /// Strikes a guest with a fault that lasts for `window`, and until one host is alone if it `must`.
    fn suffer(
        &self,
        fault: &Fault,
        subject: Subject,
        window: Duration,
        must: bool,
    ) -> Result<(Survivor, Seen)> {
        let Subject {
            guest,
            image,
            mut primary,
            mut backup,
            user,
        } = subject;
        // A gap is what lies between two of them.
        user.goes_on("replies before the fault")?;
        for side in [&mut primary, &mut backup] {
            let told = side.told();
            assert!(!told.has("peer-lost"), "without a fault: {told:?}");
        }
        let site = self.site();
        let struck = Instant::now();
        let healed = if fault.pulses {
            fault.strike_again_and_again(&site)?;
            user.goes_on("replies in spite of the fault")?;
            Instant::now()
        } else {
            fault.strike(&site)?;
            wait_until("the end of the fault", LIMIT, || {
                let alone = [&mut primary, &mut backup].map(|side| side.told().has("live"));
                Ok(struck.elapsed() >= window && (!must || alone.contains(&true)))
            })?;
            user.goes_on("replies in spite of the fault")?;
            let healed = Instant::now();
            fault.heal(&site)?;
            healed
        };

        let reason = |side: &mut Side| {
            let lost = side.told().event("peer-lost")?;
            Some(lost["reason"].as_str().unwrap_or_default().to_owned())
        };
        let reasons = [reason(&mut primary), reason(&mut backup)];
        let (side, runs) = if reasons.iter().all(Option::is_none) {
            assert!(!primary.has_ended() && !backup.has_ended());
            (primary, "the primary, with its backup")
        } else {
            let outcome = one_goes_on(primary, backup, LIMIT)?;
            // 4: it reads the disk late, and the other host has gone on with that by then.
            let halted = [Exit::Code(3), Exit::Code(4)].contains(&outcome.loser);
            assert!(halted, "{}: {:?}", outcome.loser, outcome.loser_told);
            assert!(!outcome.loser_told.has("live"), "{:?}", outcome.loser_told);
            let runs = match outcome.first_won {
                true => "the primary, alone",
                false => "the backup, alone",
            };
            (outcome.winner, runs)
        };
        let survivor = Survivor {
            guest,
            image,
            side,
            user,
        };
        let seen = Seen {
            struck,
            healed,
            runs,
            reasons,
        };
        Ok((survivor, seen))
    }

    /// Ends a guest, which must have lost nothing, and gives the replies that its user had.
    fn end(&mut self, survivor: Survivor) -> Result<Vec<Instant>> {
        let Survivor {
            image,
            mut side,
            user,
            ..
        } = survivor;
        let has_disk = matches!(user, User::Echo(_));
        let replies = user.end();
        if has_disk {
            let told = side.told();
            let wrong = |line: &DiskLine| (line.errors, line.wrong) != (0, 0);
            let lines = told
                .console
                .iter()
                .filter_map(|line| DiskLine::parse(&line.text));
            assert_eq!(lines.filter(wrong).count(), 0, "the guest saw an error");
            self.disk_server.paused(|| {
                let image = File::open(&image).expect("the image");
                for worker in 0..WORKERS {
                    let found = disk::check(&image, worker, lap(told, worker));
                    assert!(found.is_ok(), "worker {worker}: {found:?}");
                }
                Ok(())
            })?;
        }
        side.stop()?;
        Ok(replies)
    }

    /// Strikes a guest of its own with a fault: what was seen, and how long its user waited.
    fn measure(&mut self, fault: &Fault, timeout: Duration) -> Result<(Seen, Duration)> {
        let subject = self.boot(fault, timeout)?;
        let (survivor, seen) = self.suffer(fault, subject, WINDOW, false)?;
        let gap = seen.gap(&self.end(survivor)?, timeout);
        Ok((seen, gap))
    }
}

/// The faults that `FTVM_FAULTS` names.
fn wanted(value: &str) -> &'static [Fault] {
    if value == "all" {
        return &FAULTS;
    }
    let numbers = value.split_once('-').and_then(|(first, last)| {
        let number = |text: &str| text.parse::<usize>().ok();
        Some((number(first)?, number(last)?))
    });
    let found = numbers.and_then(|(first, last)| FAULTS.get(first.checked_sub(1)?..last));
    found.unwrap_or_else(|| panic!("FTVM_FAULTS=all or FIRST-LAST, of 1 to {}", FAULTS.len()))
}

/// The row of a fault in the table.
fn row(fault: &Fault, seen: &Seen, gap: Duration) -> String {
    let tenths = gap.as_millis().div_ceil(100);
    let (seconds, tenth) = (tenths / 10, tenths % 10);
    format!(
        "| {} | {seconds}.{tenth} s | {} | nothing |",
        fault.name, seen.runs
    )
}

/// Both sides are alive and hear each other, and the log does not get through: the primary finds
/// that out, and goes on alone before the backup knows.
#[test]
fn a_backup_that_is_heard_and_gets_no_log_is_given_up() -> Result<()> {
    if let Ok(value) = std::env::var("FTVM_FAULTS") {
        return measure(wanted(&value));
    }
    let mut stage = Stage::new("faults")?;
    let subject = stage.boot(&TCP_CUT, PATIENCE)?;
    let (survivor, tcp_cut) = stage.suffer(&TCP_CUT, subject, Duration::ZERO, true)?;
    is_given_up(&TCP_CUT, &tcp_cut);
    let subject = stage.protect(survivor)?;
    let (survivor, large_lost) = stage.suffer(&LARGE_LOST, subject, Duration::ZERO, true)?;
    is_given_up(&LARGE_LOST, &large_lost);
    let replies = stage.end(survivor)?;
    for seen in [tcp_cut, large_lost] {
        seen.gap(&replies, PATIENCE);
    }
    stage.testbed.succeed();
    Ok(())
}

fn is_given_up(fault: &Fault, seen: &Seen) {
    assert_eq!(seen.runs, "the primary, alone", "{}", fault.name);
    let reason = seen.reasons[0].as_deref().unwrap_or_default();
    let known = ["an output waited", "the guest was held up"];
    let is_known = known.iter().any(|known| reason.starts_with(known));
    assert!(is_known, "{}: {reason}", fault.name);
}

fn measure(faults: &[Fault]) -> Result<()> {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/failures.md");
    let mut stage = Stage::new("faults")?;
    let names = FAULTS.map(|fault| fault.name);
    let mut failed = 0;
    let timeout = Settings::default().heartbeat_timeout;
    for fault in faults {
        match stage.measure(fault, timeout) {
            Ok((seen, gap)) => {
                eprintln!("{}: {gap:?}, {}, {:?}", fault.name, seen.runs, seen.reasons);
                put_row(&table, HEAD, &names, fault.name, &row(fault, &seen, gap));
            }
            Err(error) => {
                failed += 1;
                eprintln!("{}: {error}", fault.name);
                let _ = fault.heal(&stage.site());
            }
        }
    }
    assert_eq!(failed, 0, "faults without a row");
    stage.testbed.succeed();
    Ok(())
}
