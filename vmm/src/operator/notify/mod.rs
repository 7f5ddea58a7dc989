//! Runs a command for each transition that the service's journal has.
//!
//! The journal is the one place that knows of every transition, gives it a number, and outlives the hosts, so this
//! follows the journal as any client may. It is no part of the service: what decides who may run a guest starts no
//! programs.
//!
//! ```text
//!     journal  … 41 42 43 44        command
//!     told  41     | --- 42 -------> | one at a time, in order
//!                  | <-- its end --- |
//!     told  42     | --- 43 -------> |
//! ```
//!
//! The number is kept when its command has ended. After a loss in between the same transition is told again: never
//! is one left out for that.

mod told;

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use disk_server::fleet::{Entry, Subject};
use disk_server::views::PING_INTERVAL;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

pub use self::told::{Told, ToldError};
use super::client::{Client, ClientError};
use super::json;

/// So many transitions wait for the command at most. Of more the oldest are left out, and counted.
pub const MAX_WAITING: usize = 1000;

/// How long the command may take for a transition.
pub const TIME_LIMIT: Duration = Duration::from_secs(30);

/// How often it is looked whether the command has ended.
const LOOK: Duration = Duration::from_millis(10);

/// Why transitions are not told any more.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The service does not tell.
    #[error(transparent)]
    Service(#[from] ClientError),
    /// It cannot be kept what was told.
    #[error(transparent)]
    Told(#[from] ToldError),
}

/// Why a command did not do it.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("it cannot be run")]
    Start(#[source] io::Error),
    #[error("it was killed after {} s", .0.as_secs())]
    Late(Duration),
    #[error("{0}")]
    Status(ExitStatus),
    /// Nobody waits for it any more.
    #[error("this process ends")]
    Ending,
}

/// Transitions that are to be told, the oldest first.
#[derive(Debug, PartialEq, Eq)]
struct Waiting {
    entries: Vec<Entry>,
    /// So many before them are not.
    left_out: u64,
}

impl Waiting {
    /// Those behind the one that was told last, of which these are the latest, the latest first.
    fn of(mut latest: Vec<Entry>, told: u64) -> Self {
        latest.retain(|entry| entry.number > told);
        latest.reverse();
        let first = latest.first().map_or(told + 1, |first| first.number);
        Self {
            left_out: first - (told + 1),
            entries: latest,
        }
    }
}

/// Tells of transitions until `cancel` is set.
pub struct Notifier<'a> {
    /// Where the journal is.
    pub client: &'a Client,
    /// The program, and its arguments.
    pub command: &'a [String],
    /// How long it may take.
    pub time_limit: Duration,
    /// Ends this.
    pub cancel: &'a AtomicBool,
}

impl Notifier<'_> {
    /// Runs the command for each transition behind the one that was told last; from now on if none was.
    ///
    /// # Errors
    /// [`NotifyError`]. That the service does not answer is none, nor that the command fails.
    pub fn follow(&self, told: &mut Told) -> Result<(), NotifyError> {
        let (mut answers, mut starts) = (true, true);
        while !self.is_cancelled() {
            match self.waiting(told) {
                Ok(waiting) => {
                    if !std::mem::replace(&mut answers, true) {
                        log::info!("the service answers again");
                    }
                    self.tell(waiting, told, &mut starts)?;
                }
                Err(NotifyError::Service(error @ ClientError::Unreachable(_))) => {
                    if std::mem::replace(&mut answers, false) {
                        let error = anyhow::Error::from(error);
                        let meanwhile = match told.number {
                            Some(_) => "what happens meanwhile is told later",
                            None => "transitions are told from when it first answers",
                        };
                        log::warn!("{error:#}; {meanwhile}");
                    }
                }
                Err(error) => return Err(error),
            }
            thread::sleep(PING_INTERVAL);
        }
        Ok(())
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    fn waiting(&self, told: &mut Told) -> Result<Waiting, NotifyError> {
        let mut count = 0;
        let mut latest = None;
        let known = told.number;
        let entries = self.client.history(None, |entry| {
            latest.get_or_insert(entry.number);
            count += 1;
            known.is_some_and(|told| entry.number > told) && count <= MAX_WAITING
        })?;
        let latest = latest.unwrap_or(0);
        let from = match told.number {
            Some(number) if number <= latest => number,
            Some(number) => {
                log::warn!(
                    "the journal ends before transition {number}, which was told: it is another one"
                );
                told.keep(0)?;
                0
            }
            None => {
                told.keep(latest)?;
                latest
            }
        };
        Ok(Waiting::of(entries, from))
    }

    /// `starts`: whether the command could be started the last time.
    fn tell(
        &self,
        waiting: Waiting,
        told: &mut Told,
        starts: &mut bool,
    ) -> Result<(), NotifyError> {
        let mut left_out = waiting.left_out;
        if left_out > 0 {
            log::warn!("{left_out} transitions are left out: too many wait for the command");
        }
        for entry in waiting.entries {
            let ran = self.run(&entry, left_out);
            let did_start = *starts;
            *starts = !matches!(ran, Err(Failure::Start(_)));
            match ran {
                Ok(()) => {}
                // It is told again.
                Err(Failure::Ending) => return Ok(()),
                Err(failure @ Failure::Start(_)) => {
                    if did_start {
                        let failure = anyhow::Error::from(failure);
                        log::error!("{failure:#}: nothing is told before it can");
                    }
                    return Ok(());
                }
                Err(failure) => {
                    let failure = anyhow::Error::from(failure);
                    log::warn!(
                        "the command fails for transition {}: {failure:#}",
                        entry.number
                    );
                }
            }
            left_out = 0;
            told.keep(entry.number)?;
        }
        Ok(())
    }

    fn run(&self, entry: &Entry, left_out: u64) -> Result<(), Failure> {
        let fields = json::entry(entry);
        let word = |field: &str| fields[field].as_str().unwrap_or_default();
        let (subject, name) = match &entry.subject {
            Subject::Vm(vm) => ("FTVM_VM", vm.as_str()),
            Subject::Host(host) => ("FTVM_HOST", host.as_str()),
        };
        let (program, arguments) = self.command.split_first().expect("a command has a program");
        let mut child = Command::new(program)
            .args(arguments)
            .env("FTVM_NUMBER", entry.number.to_string())
            .env("FTVM_EVENT", word("event"))
            .env("FTVM_WORDS", word("words"))
            .env("FTVM_LEFT_OUT", left_out.to_string())
            .env_remove("FTVM_VM")
            .env_remove("FTVM_HOST")
            .env(subject, name)
            .stdin(Stdio::piped())
            // With all that it starts.
            .process_group(0)
            .spawn()
            .map_err(Failure::Start)?;
        if let Some(mut input) = child.stdin.take() {
            // A pipe has room for it, and a command need not read it.
            let _ = writeln!(input, "{fields}");
        }
        self.end_of(&mut child)
    }

    fn end_of(&self, child: &mut Child) -> Result<(), Failure> {
        let until = Instant::now() + self.time_limit;
        loop {
            match child.try_wait().map_err(Failure::Start)? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(Failure::Status(status)),
                None => {}
            }
            let failure = match (self.is_cancelled(), Instant::now() >= until) {
                (true, _) => Failure::Ending,
                (false, true) => Failure::Late(self.time_limit),
                (false, false) => {
                    thread::sleep(LOOK);
                    continue;
                }
            };
            // It is not waited for yet, so the number is its own.
            let group = Pid::from_raw(child.id().cast_signed());
            match (killpg(group, Signal::SIGKILL), failure) {
                (Ok(()), failure) => {
                    child.wait().map_err(Failure::Start)?;
                    return Err(failure);
                }
                // One with another user's rights is left alone,
                (Err(_), Failure::Ending) => return Err(Failure::Ending),
                // or waited for.
                (Err(_), _) => thread::sleep(LOOK),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use disk_server::fleet::{Answer, Operation, What};
    use parking_lot::Mutex;

    use super::*;
    use crate::operator::fake;

    fn entry(number: u64) -> Entry {
        let subject = match number % 2 {
            0 => Subject::Vm("db".parse().unwrap()),
            _ => Subject::Host("a".parse().unwrap()),
        };
        Entry {
            number,
            unix_ms: 1000 * number,
            subject,
            what: What::Live {},
        }
    }

    type Journal = Arc<Mutex<Vec<Entry>>>;

    fn journal(numbers: impl IntoIterator<Item = u64>) -> (Journal, Client) {
        let journal = Arc::new(Mutex::new(numbers.into_iter().map(entry).collect()));
        let of_service: Journal = Arc::clone(&journal);
        let client = fake::service(vec![], move |operation| {
            let Operation::History { vm: None, before } = operation else {
                panic!("{operation:?}");
            };
            let journal = of_service.lock();
            let earlier = journal.iter().rev();
            let earlier = earlier.filter(|it| before.is_none_or(|before| it.number < before));
            let mut entries: Vec<Entry> = earlier.cloned().collect();
            let more = entries.len() > 100;
            entries.truncate(100);
            Ok(Answer::History { entries, more })
        });
        (journal, client)
    }

    /// What is followed, with a shell's script as the command.
    struct World {
        client: Client,
        journal: Journal,
        folder: tempfile::TempDir,
        script: String,
        time_limit: Duration,
    }

    impl World {
        fn new(numbers: impl IntoIterator<Item = u64>) -> Self {
            let (journal, client) = journal(numbers);
            Self {
                client,
                journal,
                folder: tempfile::tempdir().unwrap(),
                script: "echo $FTVM_NUMBER $FTVM_EVENT $FTVM_VM$FTVM_HOST $FTVM_LEFT_OUT >> said"
                    .into(),
                time_limit: Duration::from_secs(600),
            }
        }

        fn told(&self) -> Told {
            Told::open(&self.folder.path().join("told")).unwrap()
        }

        /// Looks once.
        fn look(&self, told: &mut Told) {
            self.look_until(told, &AtomicBool::new(false));
        }

        fn look_until(&self, told: &mut Told, cancel: &AtomicBool) {
            let folder = self.folder.path().display();
            let script = format!("cd {folder}; {}", self.script);
            let command = ["/bin/sh".to_owned(), "-c".to_owned(), script];
            let notifier = Notifier {
                client: &self.client,
                command: &command,
                time_limit: self.time_limit,
                cancel,
            };
            let waiting = notifier.waiting(told).unwrap();
            notifier.tell(waiting, told, &mut true).unwrap();
        }

        fn said(&self) -> String {
            fs::read_to_string(self.folder.path().join("said")).unwrap_or_default()
        }
    }

    #[test]
    fn each_transition_is_told_once_and_in_order_from_the_start_on() {
        let world = World::new(1..=3);
        let mut told = world.told();
        world.look(&mut told);
        assert_eq!(world.said(), "", "that was before");
        world.journal.lock().extend([entry(4), entry(5)]);
        world.look(&mut told);
        world.look(&mut told);
        assert_eq!(world.said(), "4 live db 0\n5 live a 0\n");
        drop(told);
        world.journal.lock().push(entry(6));
        world.look(&mut world.told());
        assert_eq!(world.said(), "4 live db 0\n5 live a 0\n6 live db 0\n");
    }

    #[test]
    fn the_command_gets_the_transition_as_history_has_it() {
        let mut world = World::new(1..=1);
        let mut told = world.told();
        world.script = "cat > said".into();
        world.look(&mut told);
        world.journal.lock().push(entry(2));
        world.look(&mut told);
        let said: serde_json::Value = serde_json::from_str(&world.said()).unwrap();
        assert_eq!(said, json::entry(&entry(2)));
    }

    #[test]
    fn of_too_many_the_oldest_are_left_out_and_counted() {
        let world = World::new(1..=1);
        let mut told = world.told();
        world.look(&mut told);
        let last = MAX_WAITING as u64 + 11;
        world.journal.lock().extend((2..=last).map(entry));
        let client = &world.client;
        let cancel = AtomicBool::new(false);
        let notifier = Notifier {
            client,
            command: &[],
            time_limit: world.time_limit,
            cancel: &cancel,
        };
        let waiting = notifier.waiting(&mut told).unwrap();
        assert_eq!(waiting.left_out, 10);
        let numbers = waiting.entries.iter().map(|entry| entry.number);
        assert!(numbers.eq(12..=last));

        // Those that the journal has not kept are as good as left out.
        let waiting = Waiting::of(vec![entry(9), entry(8)], 4);
        assert_eq!((waiting.left_out, waiting.entries.len()), (3, 2));
        assert_eq!(Waiting::of(vec![entry(4)], 4).left_out, 0);
    }

    #[test]
    fn a_command_that_fails_or_hangs_holds_up_nothing() {
        let mut world = World::new(1..=1);
        let mut told = world.told();
        world.look(&mut told);
        world.journal.lock().extend([entry(2), entry(3)]);
        world.script += "; exit 7";
        world.look(&mut told);
        assert_eq!(world.said().lines().count(), 2);
        world.journal.lock().push(entry(4));
        fs::remove_file(world.folder.path().join("said")).unwrap();
        // What it has started would write to that, or hold it, for as long as it lives.
        world.script = "sleep 100000 & echo $! > said; wait".into();
        world.time_limit = Duration::from_millis(1);
        while world.said().is_empty() {
            world.time_limit *= 2;
            told.number = Some(3);
            world.look(&mut told);
        }
        let child = Pid::from_raw(world.said().trim().parse().unwrap());
        while nix::sys::signal::kill(child, None).is_ok() && !is_zombie(child) {
            thread::yield_now();
        }
        assert_eq!(told.number, Some(4));
    }

    #[test]
    fn nothing_is_told_to_a_command_that_cannot_be_started_and_nothing_is_lost() {
        let world = World::new(1..=1);
        let mut told = world.told();
        world.look(&mut told);
        world.journal.lock().push(entry(2));
        let missing = world.folder.path().join("missing");
        let notifier = Notifier {
            client: &world.client,
            command: &[missing.display().to_string()],
            time_limit: world.time_limit,
            cancel: &AtomicBool::new(false),
        };
        let mut starts = true;
        for _ in 0..2 {
            let waiting = notifier.waiting(&mut told).unwrap();
            notifier.tell(waiting, &mut told, &mut starts).unwrap();
            assert!(!starts && told.number == Some(1));
        }
        world.look(&mut told);
        assert_eq!(world.said(), "2 live db 0\n");
    }

    /// Killed, and not waited for by whoever has inherited it.
    fn is_zombie(pid: Pid) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'))
    }

    #[test]
    fn a_transition_whose_command_was_cut_short_is_told_again() {
        let mut world = World::new(1..=1);
        let mut told = world.told();
        world.look(&mut told);
        world.journal.lock().push(entry(2));
        world.script = "sleep 100000".into();
        world.look_until(&mut told, &AtomicBool::new(true));
        assert_eq!(told.number, Some(1));
        drop(told);
        world.script = "echo $FTVM_NUMBER >> said".into();
        world.look(&mut world.told());
        assert_eq!(world.said(), "2\n");
    }

    #[test]
    fn another_journal_is_told_from_its_begin() {
        let world = World::new(1..=7);
        let mut told = world.told();
        world.look(&mut told);
        *world.journal.lock() = vec![entry(1), entry(2)];
        world.look(&mut told);
        world.look(&mut told);
        assert_eq!(world.said(), "1 live a 0\n2 live db 0\n");
    }
}
