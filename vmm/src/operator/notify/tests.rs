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
    assert_eq!(Waiting::of(vec![], 4).left_out, 0);
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
        told.last = Some(Mark::of(&entry(3)));
        world.look(&mut told);
    }
    let child = Pid::from_raw(world.said().trim().parse().unwrap());
    while nix::sys::signal::kill(child, None).is_ok() && !is_zombie(child) {
        thread::yield_now();
    }
    assert_eq!(told.last, Some(Mark::of(&entry(4))));
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
        assert!(!starts && told.last == Some(Mark::of(&entry(1))));
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
    world.script = "touch begun; sleep 100000".into();
    let begun = world.folder.path().join("begun");
    let cancel = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !begun.exists() {
                thread::yield_now();
            }
            cancel.store(true, Ordering::Relaxed);
        });
        world.look_until(&mut told, &cancel);
    });
    assert_eq!(told.last, Some(Mark::of(&entry(1))));
    drop(told);
    world.script = "echo $FTVM_NUMBER >> said".into();
    world.look(&mut world.told());
    assert_eq!(world.said(), "2\n");
}

#[test]
fn who_is_to_end_begins_with_no_transition() {
    let world = World::new(1..=1);
    let mut told = world.told();
    world.look(&mut told);
    world.journal.lock().extend([entry(2), entry(3)]);
    world.look_until(&mut told, &AtomicBool::new(true));
    assert_eq!(world.said(), "");
    world.look(&mut told);
    assert_eq!(world.said(), "2 live db 0\n3 live a 0\n");
}

/// A transition with the number of another one, later than that.
fn later(number: u64) -> Entry {
    Entry {
        unix_ms: 100_000 + number,
        ..entry(number)
    }
}

#[test]
fn another_journal_is_told_from_its_begin() {
    let world = World::new(1..=7);
    let mut told = world.told();
    world.look(&mut told);
    world.journal.lock().clear();
    world.look(&mut told);
    *world.journal.lock() = vec![later(1), later(2)];
    world.look(&mut told);
    world.look(&mut told);
    assert_eq!(world.said(), "1 live a 0\n2 live db 0\n");
}

#[test]
fn of_a_journal_that_lost_its_tail_what_is_later_is_told_once() {
    // Nobody has looked meanwhile, or somebody has; and there are fewer transitions than before, or more.
    for (looked, last) in [(false, 6), (true, 6), (false, 9), (true, 9)] {
        let world = World::new(1..=7);
        let mut told = world.told();
        world.look(&mut told);
        *world.journal.lock() = (1..=4).map(entry).collect();
        if looked {
            world.look(&mut told);
            assert_eq!(told.last, Some(Mark::of(&entry(4))));
        }
        world.journal.lock().extend((5..=last).map(later));
        world.look(&mut told);
        drop(told);
        world.look(&mut world.told());
        let said = world.said();
        let numbers = said.lines().map(|line| line.split(' ').next().unwrap());
        let numbers: Vec<u64> = numbers.map(|number| number.parse().unwrap()).collect();
        assert!(numbers.iter().copied().eq(5..=last), "{looked}: {said}");
    }
}
