//! The journal on disk: an entry a line, as JSON, appended when something happens.
//!
//! It is for people, and nothing depends on it: a line that cannot be read is left out, and the log says so.
//! Where the server was killed in the middle of a line, that is cut off.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::journal::{Entry, Subject, What};
use super::status::{Failover, Failure};
use crate::arbiter::VmName;
use crate::logging::Limited;
use crate::state::{Folder as _, OpenStateError, StateDirectory};

/// The name of the journal in the state directory.
pub const JOURNAL_FILE: &str = "journal";

/// So many entries are kept.
pub const MAX_ENTRIES: usize = 10_000;

/// The file is written anew, without the oldest ones, when it has so many.
const MAX_LINES: usize = 2 * MAX_ENTRIES;

/// A disk that fails is tried again after an interval, after two, and so on, up to so many.
const MAX_PAUSE: u32 = 64;

/// Far more than a journal takes, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// What is to be done to the disk, while others have the journal.
#[derive(Debug)]
pub(super) struct Upkeep {
    directory: Arc<StateDirectory>,
    /// The file is written anew; else what is in it is to survive a loss of power.
    anew: Option<Anew>,
}

/// A file that takes the place of the journal.
#[derive(Debug)]
struct Anew {
    text: Vec<u8>,
    /// How many there are in it.
    lines: usize,
    /// The number of the first entry behind it.
    next: u64,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Maintained {
    outcome: io::Result<()>,
    anew: Option<Anew>,
}

impl Upkeep {
    /// Does it. That takes as long as the disk does.
    pub(super) fn carry_out(self) -> Maintained {
        let mut file = self.directory.file(JOURNAL_FILE);
        let outcome = match &self.anew {
            Some(anew) => file.write_new(&anew.text),
            None => file.sync_all(),
        };
        let anew = self.anew;
        Maintained { outcome, anew }
    }
}

/// What happened lately.
#[derive(Debug)]
pub(super) struct Journal {
    directory: Arc<StateDirectory>,
    path: PathBuf,
    /// `None` where the last line may be torn: the file is to be written anew.
    file: Option<File>,
    /// How many the file has.
    lines: usize,
    /// Those lines are not on stable storage yet.
    is_ahead: bool,
    /// So many intervals the disk is left alone, and after another failure.
    pause: u32,
    next_pause: u32,
    entries: VecDeque<Entry>,
    next: u64,
    failovers: BTreeMap<VmName, Failover>,
    failures: BTreeMap<VmName, Failure>,
    turns: BTreeMap<VmName, Turns>,
}

/// How often a guest changed hands since the server started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turns {
    /// Views that it came to.
    pub views: u64,
    /// Those to which another host went live.
    pub failovers: u64,
}

impl Journal {
    /// Opens the journal in `directory`, where it is made if it is missing.
    ///
    /// # Errors
    /// See [`OpenStateError`].
    pub(super) fn open(directory: &Arc<StateDirectory>) -> Result<Self, OpenStateError> {
        let path = directory.path().join(JOURNAL_FILE);
        let access = |source| OpenStateError::Access {
            path: path.clone(),
            source,
        };
        let mut file = append_to(&path).map_err(access)?;
        let mut text = Vec::new();
        let mut limited = io::Read::by_ref(&mut file).take(MAX_FILE);
        limited.read_to_end(&mut text).map_err(access)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n');
        let whole = whole.map_or(0, |end| end + 1);
        if whole < text.len() {
            let torn = text.len() - whole;
            log::warn!(
                "the last line of {} was not written to its end: its {torn} bytes are cut off",
                path.display()
            );
            file.set_len(whole as u64).map_err(access)?;
        }
        let mut journal = Self {
            directory: Arc::clone(directory),
            path: path.clone(),
            file: Some(file),
            lines: 0,
            is_ahead: false,
            pause: 0,
            next_pause: 1,
            entries: VecDeque::new(),
            next: 1,
            failovers: BTreeMap::new(),
            failures: BTreeMap::new(),
            turns: BTreeMap::new(),
        };
        let mut unreadable = 0;
        for line in text[..whole].split_inclusive(|byte| *byte == b'\n') {
            journal.lines += 1;
            match serde_json::from_slice::<Entry>(line) {
                Ok(entry) => journal.note(entry),
                Err(_) => unreadable += 1,
            }
        }
        if unreadable > 0 {
            let path = path.display();
            log::error!(
                "{unreadable} lines of {path} are no entries of a journal: they are left out"
            );
        }
        Ok(journal)
    }

    /// What is known, the oldest first.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// What is known of a guest, or of all, before the entry with this number, the latest first.
    pub(super) fn history<'a>(
        &'a self,
        vm: Option<&'a VmName>,
        before: Option<u64>,
    ) -> impl Iterator<Item = &'a Entry> {
        let is_meant = move |entry: &&Entry| {
            before.is_none_or(|before| entry.number < before)
                && vm.is_none_or(|vm| matches!(&entry.subject, Subject::Vm(of) if of == vm))
        };
        self.entries.iter().rev().filter(is_meant)
    }

    /// The last failover of a guest.
    pub(super) fn last_failover(&self, vm: &VmName) -> Option<&Failover> {
        self.failovers.get(vm)
    }

    /// The last time that a copy of a guest failed.
    pub(super) fn last_failure(&self, vm: &VmName) -> Option<&Failure> {
        self.failures.get(vm)
    }

    /// How often a guest changed hands.
    pub(super) fn turns(&self, vm: &VmName) -> Turns {
        self.turns.get(vm).copied().unwrap_or_default()
    }

    /// Notes what happened. It survives the process; where the disk fails, as long as that.
    pub(super) fn append(&mut self, unix_ms: u64, subject: Subject, what: What) {
        if let Subject::Vm(vm) = &subject {
            let turns = self.turns.entry(vm.clone()).or_default();
            match what {
                What::View { .. } => turns.views += 1,
                What::Failover { .. } => turns.failovers += 1,
                _ => {}
            }
        }
        let entry = Entry {
            number: self.next,
            unix_ms,
            subject,
            what,
        };
        let line = text([&entry]);
        self.note(entry);
        self.lines += 1;
        self.is_ahead = true;
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(&line)
        {
            self.fails(&error);
        }
    }

    /// What is to be done so that everything survives a loss of power as well, and the file stays short: asked for
    /// at every interval, and to be [told](Self::maintained) of.
    pub(super) fn upkeep(&mut self) -> Option<Upkeep> {
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        let is_sound = self.file.is_some() && self.lines <= MAX_LINES;
        if is_sound && !self.is_ahead {
            return None;
        }
        // What is appended from now on is ahead again.
        self.is_ahead = false;
        let anew = (!is_sound).then(|| Anew {
            text: text(&self.entries),
            lines: self.entries.len(),
            next: self.next,
        });
        let directory = Arc::clone(&self.directory);
        Some(Upkeep { directory, anew })
    }

    /// What became of an upkeep.
    pub(super) fn maintained(&mut self, maintained: Maintained) {
        let done = maintained.outcome.and_then(|()| match maintained.anew {
            Some(anew) => self.replace(&anew),
            None => {
                self.next_pause = 1;
                Ok(())
            }
        });
        if let Err(error) = done {
            self.fails(&error);
        }
    }

    /// Has a new file take the place of the journal, with what happened while it was written.
    fn replace(&mut self, anew: &Anew) -> io::Result<()> {
        self.directory.file(JOURNAL_FILE).rename_new()?;
        let mut file = append_to(&self.path)?;
        let behind = self.entries.iter().filter(|it| it.number >= anew.next);
        self.lines = anew.lines + behind.clone().count();
        file.write_all(&text(behind))?;
        self.file = Some(file);
        self.is_ahead = true;
        Ok(())
    }

    fn fails(&mut self, error: &io::Error) {
        static FAILS: Limited = Limited::new();
        if let Some(left_out) = FAILS.let_through() {
            let path = self.path.display();
            log::error!("cannot write {path}: {error}; it is tried again{left_out}");
        }
        self.file = None;
        self.is_ahead = true;
        self.pause = self.next_pause;
        self.next_pause = MAX_PAUSE.min(2 * self.next_pause);
    }

    fn note(&mut self, entry: Entry) {
        self.next = self.next.max(entry.number + 1);
        if let Subject::Vm(vm) = &entry.subject {
            self.note_of_guest(vm.clone(), &entry);
        }
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    fn note_of_guest(&mut self, vm: VmName, entry: &Entry) {
        let unix_ms = entry.unix_ms;
        match &entry.what {
            What::Failover {
                view, outage_ms, ..
            } => {
                let (view, outage_ms) = (*view, *outage_ms);
                let failover = Failover {
                    unix_ms,
                    view,
                    outage_ms,
                };
                self.failovers.insert(vm, failover);
            }
            What::Ended {
                host,
                status,
                reason,
            } if is_failure(*status) => {
                let failure = Failure {
                    unix_ms,
                    host: host.clone(),
                    status: *status,
                    reason: reason.clone(),
                };
                self.failures.insert(vm, failure);
            }
            _ => {}
        }
    }
}

/// Whether a process with this exit status failed: it did not end in order, nor because another host runs the guest,
/// nor was it ended by SIGTERM (`docs/ends.md`), nor did it end unseen.
fn is_failure(status: Option<i32>) -> bool {
    !matches!(status, Some(0 | 3 | 130 | 143) | None)
}

fn text<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<u8> {
    let mut text = Vec::new();
    for entry in entries {
        // Serialising plain data into memory cannot fail.
        text.extend(serde_json::to_vec(entry).unwrap_or_default());
        text.push(b'\n');
    }
    text
}

fn append_to(path: &std::path::Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(vm: &str) -> Subject {
        Subject::Vm(vm.parse().unwrap())
    }

    fn done(order: u64) -> What {
        What::Done {
            order,
            how: crate::views::Text::cut("so"),
        }
    }

    fn numbers(journal: &Journal, vm: Option<&str>, before: Option<u64>) -> Vec<u64> {
        let vm = vm.map(|vm| vm.parse().unwrap());
        let entries = journal.history(vm.as_ref(), before);
        entries.map(|entry| entry.number).collect()
    }

    /// An interval passes: whether something was to be done.
    fn maintain(journal: &mut Journal) -> bool {
        let upkeep = journal.upkeep();
        let is_due = upkeep.is_some();
        if let Some(upkeep) = upkeep {
            journal.maintained(upkeep.carry_out());
        }
        is_due
    }

    #[test]
    fn entries_survive_and_a_torn_line_is_cut_off() {
        let place = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(place.path()).unwrap();
        let mut journal = Journal::open(&directory).unwrap();
        for n in 1..=5 {
            let vm = if n % 2 == 0 { "web" } else { "db" };
            journal.append(100 + n, subject(vm), done(n));
        }
        journal.append(
            200,
            subject("db"),
            What::Failover {
                view: 7,
                outage_ms: 812,
                from: None,
                to: "a".parse().unwrap(),
                cause: None,
            },
        );
        assert_eq!(numbers(&journal, None, None), [6, 5, 4, 3, 2, 1]);
        assert_eq!(numbers(&journal, Some("db"), Some(5)), [3, 1]);
        drop(journal);
        let path = place.path().join(JOURNAL_FILE);
        let mut text = fs::read(&path).unwrap();
        let whole = text.len();
        text.extend_from_slice(b"not an entry\n{\"number\":7,\"unix");
        fs::write(&path, &text).unwrap();
        let mut journal = Journal::open(&directory).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), whole as u64 + 13);
        let failover = journal.last_failover(&"db".parse().unwrap()).unwrap();
        assert_eq!((failover.view, failover.unix_ms), (7, 200));
        journal.append(300, subject("db"), done(9));
        assert_eq!(numbers(&journal, Some("db"), None), [7, 6, 5, 3, 1]);
        drop(journal);
        let journal = Journal::open(&directory).unwrap();
        assert_eq!(numbers(&journal, None, Some(3)), [2, 1]);
        assert_eq!(journal.entries().count(), 7);
    }

    #[test]
    fn the_oldest_entries_make_room() {
        let place = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(place.path()).unwrap();
        let mut journal = Journal::open(&directory).unwrap();
        let lines = || {
            fs::read_to_string(place.path().join(JOURNAL_FILE))
                .unwrap()
                .lines()
                .count()
        };
        for n in 0..=MAX_LINES as u64 {
            journal.append(n, subject("db"), done(n));
        }
        assert_eq!(lines(), MAX_LINES + 1);
        let upkeep = journal.upkeep().unwrap();
        // Others have the journal meanwhile.
        journal.append(1, subject("db"), done(1));
        journal.maintained(upkeep.carry_out());
        assert_eq!(lines(), MAX_ENTRIES + 1);
        assert!(maintain(&mut journal) && !maintain(&mut journal));
        assert_eq!(journal.entries().count(), MAX_ENTRIES);
        drop(journal);
        let journal = Journal::open(&directory).unwrap();
        let last = MAX_LINES as u64 + 2;
        assert_eq!(numbers(&journal, None, None)[..2], [last, last - 1]);
        assert_eq!(journal.entries().count(), MAX_ENTRIES);
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let place = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(place.path()).unwrap();
        let mut journal = Journal::open(&directory).unwrap();
        journal.append(1, subject("db"), done(1));
        journal.fails(&io::Error::other("the disk is full"));
        journal.append(2, subject("db"), done(2));
        while !maintain(&mut journal) {}
        journal.append(3, subject("db"), done(3));
        drop(journal);
        let journal = Journal::open(&directory).unwrap();
        assert_eq!(numbers(&journal, None, None), [3, 2, 1]);
    }

    #[test]
    fn a_disk_that_fails_is_tried_less_and_less_often() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("state");
        let directory = StateDirectory::open(&path).unwrap();
        let mut journal = Journal::open(&directory).unwrap();
        fs::remove_dir_all(&path).unwrap();
        journal.append(1, subject("db"), done(1));
        let tries = (0..256).filter(|_| maintain(&mut journal)).count();
        assert!((3..12).contains(&tries), "{tries}");
        fs::create_dir(&path).unwrap();
        let waited = (0..=MAX_PAUSE).position(|_| maintain(&mut journal));
        assert!(waited.is_some());
        assert!(maintain(&mut journal) && !maintain(&mut journal));
        drop(journal);
        let journal = Journal::open(&directory).unwrap();
        assert_eq!(numbers(&journal, None, None), [1]);
    }
}
