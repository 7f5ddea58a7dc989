//! `ftvm top` at a terminal of 80 × 24: the program, a disk service with guests and hosts, and keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use disk_server::arbiter::{Arbiter, Claimant, Settings, VmName};
use disk_server::fleet::{
    Answer, Definition, Image, ImageDigest, LagBounds, NamedHosts, Operation, VmStatus,
};
use disk_server::server::{Config, Limits, Server, StopHandle};
use disk_server::views::{Capabilities, Paging, Ping, Role, Tended, Text};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::{Pid, setsid};
use transport::Endpoint;

/// For what must come. Nothing is measured against it.
const GENEROUS: Duration = Duration::from_secs(60);
/// How often it is looked for.
const POLL: Duration = Duration::from_millis(10);

/// The terminal, as the program is told.
const ROWS: u16 = 24;
const COLUMNS: u16 = 80;
/// What is drawn beside it is seen.
const MARGIN: u16 = 20;

/// More than there is room for, some with the longest names.
const GUESTS: usize = 24;
const HOSTS: [&str; 3] = ["a", "b", "the-third-host-in-the-upper-rack-on-the-left"];

const DOWN: &str = "\x1b[B";
const ESCAPE: &str = "\x1b";

nix::ioctl_write_int_bad! {
    /// `TIOCSCTTY` of ioctl_tty(2).
    set_controlling_terminal, nix::libc::TIOCSCTTY
}

/// Looks until `look` finds something.
fn found<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + GENEROUS;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(POLL);
    }
}

/// The disk service, with guests that are defined, and hosts that ping.
struct Fleet {
    arbiter: Arbiter,
    stop: StopHandle,
    threads: Vec<thread::JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
}

impl Fleet {
    fn start(folder: &Path) -> Self {
        let server = Server::bind(Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            state: folder.join("state"),
            endpoint: Endpoint::plain(),
            nbd: None,
            metrics: None,
            limits: Limits::default(),
        })
        .unwrap();
        let address = server.local_addr();
        let arbiter = move || Arbiter::new(address.into(), Endpoint::plain(), Settings::default());
        let stop = server.stop_handle();
        let is_over = Arc::new(AtomicBool::new(false));
        let mut threads = vec![thread::spawn(move || server.run().unwrap())];
        for host in HOSTS {
            let (arbiter, is_over) = (arbiter(), is_over.clone());
            threads.push(thread::spawn(move || ping(&arbiter, host, &is_over)));
        }
        let fleet = Self {
            arbiter: arbiter(),
            stop,
            threads,
            is_over,
        };
        for number in 1..=GUESTS {
            let (definition, by) = (Box::new(definition(number)), Text::cut("anna"));
            let defined = Operation::Define { definition, by };
            fleet.arbiter.operate(defined).unwrap();
        }
        fleet
    }

    fn status(&self, number: usize) -> VmStatus {
        let vm = guest(number);
        match self.arbiter.operate(Operation::Status { vm }).unwrap() {
            Answer::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.stop.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A guest's name: the first one's is short.
fn guest(number: usize) -> VmName {
    let name = match number {
        1 => "db".to_owned(),
        number => format!("guest-with-a-name-that-is-longer-than-its-column-{number:02}"),
    };
    name.parse().unwrap()
}

fn definition(number: usize) -> Definition {
    Definition {
        vm: guest(number),
        memory_mib: 128,
        kernel: Image {
            path: "/images/vmlinux".into(),
            sha256: ImageDigest([7; 32]),
        },
        initrd: None,
        append: String::new(),
        mac: format!("02:00:00:00:00:{number:02x}"),
        clock: "kvm-clock".into(),
        disk: None,
        export: None,
        heartbeat_timeout_ms: None,
        lag: LagBounds::default(),
        hosts: NamedHosts::default(),
    }
}

/// Pings as the daemon of a host does that has no room for a guest.
fn ping(arbiter: &Arbiter, host: &str, is_over: &AtomicBool) {
    let host = Claimant::generate(&host.parse().unwrap()).unwrap();
    for number in 0.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let ping = Ping {
            host: host.clone(),
            number,
            carries: Capabilities {
                memory_mib: 16,
                processor: Text::cut(
                    "A Processor With A Name As Long As Makers Like Them @ 3.10GHz",
                ),
                instructions: 7,
                paging: Paging::Shadow,
                exports: BTreeSet::new(),
            },
            role: Role::Host(Tended {
                processes: BTreeMap::new(),
                ended: Vec::new(),
                machine: Text::cut("5eed"),
                console: "0.0.0.0:7422".parse().unwrap(),
            }),
        };
        // The service may have ended.
        let _ = arbiter.ping(&ping);
        thread::sleep(Duration::from_millis(100));
    }
}

/// The program at a terminal, and what that shows.
struct Top {
    program: Child,
    keyboard: File,
    /// The end that the program has as well.
    terminal: File,
    screen: Arc<Mutex<vt100::Parser>>,
    /// How the terminal was before.
    before: Termios,
}

impl Top {
    fn start(service: &Arbiter) -> Self {
        let size = Winsize {
            ws_row: ROWS,
            ws_col: COLUMNS,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let terminal = File::from(pty.slave);
        let clone = || terminal.try_clone().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftvm"));
        command
            .args(["top", "--plain", "--disk-server"])
            .arg(service.address().to_string())
            .env("TERM", "xterm-256color")
            // Of what is left on the screen: that it is in plain mode, as asked for.
            .env("RUST_LOG", "error")
            .stdin(clone())
            .stdout(clone())
            .stderr(clone());
        // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                setsid()?;
                // Descriptor 0 is the terminal.
                set_controlling_terminal(0, 0)?;
                Ok(())
            });
        }
        let program = command.spawn().unwrap();
        let keyboard = File::from(pty.master);
        let [rows, columns] = [ROWS, COLUMNS].map(|cells| (cells + MARGIN).try_into().unwrap());
        let parser = vt100::Parser::new(rows, columns, 0);
        let screen = Arc::new(Mutex::new(parser));
        let (shown, mut output) = (screen.clone(), keyboard.try_clone().unwrap());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It fails when nobody has the terminal any more.
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().process(&bytes[..count]);
            }
        });
        Self {
            program,
            keyboard,
            terminal,
            screen,
            before,
        }
    }

    fn screen(&self) -> MutexGuard<'_, vt100::Parser> {
        self.screen.lock().unwrap()
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until all of these are shown, on a screen that has nothing beside the terminal, and gives its lines.
    fn shows(&self, parts: &[&str]) -> Vec<String> {
        found(&format!("{parts:?} on the screen"), || {
            let screen = self.screen();
            let lines: Vec<String> = screen.screen().rows(0, COLUMNS + MARGIN).collect();
            let below = lines[ROWS.into()..].iter().cloned();
            let beside = screen.screen().rows(COLUMNS, MARGIN);
            let outside: String = below.chain(beside).collect();
            assert_eq!(outside, "", "{}", lines.join("\n"));
            let is_shown = |part: &&str| lines.iter().any(|line| line.contains(*part));
            parts.iter().all(is_shown).then_some(lines)
        })
    }

    /// Waits for its end, which leaves the terminal as it was.
    fn ends(mut self) -> ExitStatus {
        let status = found("the end of the program", || {
            self.program.try_wait().unwrap()
        });
        assert!(tcgetattr(&self.terminal).unwrap() == self.before);
        found("the screen that was there before", || {
            let screen = self.screen();
            let screen = screen.screen();
            let is_restored = !screen.alternate_screen() && !screen.hide_cursor();
            is_restored.then_some(())
        });
        assert_eq!(self.screen().screen().contents(), "");
        status
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        // Fails when it has ended, which is as good.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[test]
fn a_small_terminal_has_all_of_it_and_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = Fleet::start(folder.path());
    let mut top = Top::start(&fleet.arbiter);
    let keys = "m migrate  c console  h history  Tab hosts  q quit";
    let lines = top.shows(&["24 guests", "24 stopped", "■  a ", "■  b ", "■  the-", keys]);
    let at = |part: &str| lines.iter().position(|line| line.contains(part));
    let (first, host) = (at("●  db "), at("■  a "));
    assert!(first.is_some() && first < host, "{}", lines.join("\n"));
    assert_eq!(at(keys), Some(usize::from(ROWS) - 1), "the last line");
    assert!(top.screen().screen().alternate_screen());

    // The list follows the selection, below which all of the name is.
    top.types(&DOWN.repeat(GUESTS - 1));
    let last = guest(GUESTS).to_string();
    top.shows(&[&format!("{last}  Stopped"), "p start"]);
    top.types("p");
    top.shows(&[&last, "start: accepted as order"]);
    let status = fleet.status(GUESTS);
    assert_ne!(status.state, fleet.status(1).state, "{status:?}");

    top.types("h");
    top.shows(&[&format!("history: {last}"), "define", "start", "Esc back"]);
    top.types(ESCAPE);
    top.shows(&[keys]);
    top.types("\t\t\t");
    top.shows(&["d drain", "a  shadow paging, A Processor With A Name"]);
    top.types("q");
    assert!(top.ends().success());
}

/// As a shell does that is told to end, or `kill`.
#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = Fleet::start(folder.path());
    let top = Top::start(&fleet.arbiter);
    top.shows(&["q quit"]);
    let program = Pid::from_raw(top.program.id().cast_signed());
    kill(program, Signal::SIGTERM).unwrap();
    let status = top.ends();
    assert!(status.code().is_some(), "{status}");
}
