//! The guest's disk behind the product's fence: who writes, and which writes are on their way.

use std::collections::BTreeMap;

use disk_server::arbiter::{Claimant, Record, VmName};
use disk_server::fence::{Earlier, Entered, Right, Rights};
use disk_server::nbd::ExportName;

use super::process::{Run, claimant};

/// A write that has come to the disk server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Write {
    by: Run,
    right: Right,
    /// A worker has it: with the fence's leave, unless that is broken.
    begun: Option<Option<Entered>>,
}

/// The disk's service, in one start of the disk server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Disk {
    rights: Rights,
    /// Connections that are open, and those that become the writer's.
    open: BTreeMap<Run, Right>,
    opening: BTreeMap<Run, (Right, Earlier)>,
    /// In the order in which they came; those that wait may go on in any order.
    writes: Vec<Write>,
    /// Who was told last that the epoch is his.
    answered: Option<Claimant>,
}

fn export() -> ExportName {
    "db".parse().expect("a name")
}

impl Disk {
    pub(super) fn new(record: &Record) -> Self {
        let vm: VmName = "db".parse().expect("a name");
        Self {
            rights: Rights::new(vm, record),
            open: BTreeMap::new(),
            opening: BTreeMap::new(),
            writes: Vec::new(),
            answered: record.holder.clone(),
        }
    }

    /// A claim was won for this one: whether that may be answered.
    pub(super) fn won(&mut self, epoch: u64, holder: &Claimant, waits: bool) -> bool {
        let earlier = self.rights.advance(epoch, holder);
        let clear = self.rights.is_over(earlier) || !waits;
        if clear {
            self.answered = Some(holder.clone());
        }
        clear
    }

    pub(super) fn is_open(&self, run: Run) -> bool {
        self.open.contains_key(&run)
    }

    /// Whether a run has a connection, or waits for it.
    pub(super) fn has(&self, run: Run) -> bool {
        self.is_open(run) || self.opening.contains_key(&run)
    }

    /// Whether there is something that a crash would lose.
    pub(super) fn can_lose(&self) -> bool {
        !(self.open.is_empty() && self.opening.is_empty() && self.writes.is_empty())
    }

    /// A run connects, in place of its connection before.
    pub(super) fn connect(&mut self, run: Run, epoch: u64) {
        self.open.remove(&run);
        if let Ok(opening) = self.rights.open_writer(&export(), epoch) {
            self.opening.insert(run, opening);
        }
        self.serve();
    }

    /// Who waits for writes of before gets his connection when they are over.
    fn serve(&mut self) {
        let rights = &self.rights;
        let ready = |_: &Run, (_, earlier): &mut (Right, Earlier)| rights.is_over(*earlier);
        let ready: Vec<_> = self.opening.extract_if(.., ready).collect();
        self.open
            .extend(ready.into_iter().map(|(run, (right, _))| (run, right)));
    }

    /// A run writes.
    pub(super) fn write(&mut self, by: Run) {
        if let Some(right) = self.open.get(&by).copied() {
            let begun = None;
            self.writes.push(Write { by, right, begun });
        }
    }

    /// How many writes are on their way.
    pub(super) fn writes(&self) -> usize {
        self.writes.len()
    }

    /// A worker gets on with a write: it begins, or is refused; or it lands. Who writes then, and must not.
    pub(super) fn work(&mut self, write: usize, anybody: bool) -> Option<Run> {
        let it = &mut self.writes[write];
        let Some(entered) = it.begun.take() else {
            it.begun = match self.rights.enter(&export(), it.right) {
                Ok(entered) => Some(Some(entered)),
                Err(_) if anybody => Some(None),
                Err(_) => {
                    self.writes.remove(write);
                    return None;
                }
            };
            return None;
        };
        let by = self.writes.remove(write).by;
        if let Some(entered) = entered
            && self.rights.leave(entered)
        {
            self.serve();
        }
        (self.answered != Some(claimant(by))).then_some(by)
    }

    /// Connections of runs that are no more are closed. What came over them stays.
    pub(super) fn close(&mut self, is_there: impl Fn(Run) -> bool) {
        self.open.retain(|run, _| is_there(*run));
        self.opening.retain(|run, _| is_there(*run));
    }
}
