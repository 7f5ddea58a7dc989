//! The fence as a machine, without locks, threads and clocks: who may write, and which writes have to be
//! over before something is answered. [`Fence`](super::Fence) drives it, and so does the simulator.

use std::collections::BTreeMap;

use super::barrier::Barrier;
use super::refusal::Refusal;
use crate::arbiter::{Claimant, Record, VmName};
use crate::nbd::ExportName;

/// What a connection bases its writes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Right {
    /// That the machine does not run, and has not run since.
    Plain {
        /// The epoch in which the right was given. A client may keep what it has read: after the
        /// machine ran, it would write that back over what the machine has written.
        epoch: u64,
    },
    /// That it is the latest connection of the machine's epoch.
    Writer {
        /// The epoch.
        epoch: u64,
        /// The connection's number, from [`Rights::open_writer`].
        number: u64,
    },
}

/// All writes that began before a right was given or ended. [`Rights::is_over`] says when none of them
/// is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub struct Earlier(u64);

/// A write that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub struct Entered(u64);

/// Who may write to the disks of one virtual machine, and what is being written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rights {
    vm: VmName,
    epoch: u64,
    /// Who holds it.
    holder: Option<Claimant>,
    /// Since which epoch, as far as this server has seen: with each of its backups it moves on.
    held_since: u64,
    /// The number of the latest writer connection of each export.
    writers: BTreeMap<ExportName, u64>,
    /// Between writes that began and rights that were given or ended.
    barrier: Barrier,
    /// Which time of it began the holder's time.
    began: u64,
}

impl Rights {
    /// Those of a machine as the arbiter has it, when nothing is being written.
    #[must_use]
    pub fn new(vm: VmName, record: &Record) -> Self {
        Self {
            vm,
            epoch: record.epoch,
            holder: record.holder.clone(),
            held_since: record.epoch,
            writers: BTreeMap::new(),
            barrier: Barrier::default(),
            began: 0,
        }
    }

    /// The epoch, and whether somebody runs the machine in it.
    #[must_use]
    pub fn epoch(&self) -> (u64, bool) {
        (self.epoch, self.runs())
    }

    /// Who runs the machine, if somebody does.
    #[must_use]
    pub fn holder(&self) -> Option<&Claimant> {
        self.holder.as_ref().filter(|_| self.runs())
    }

    fn runs(&self) -> bool {
        self.holder.as_ref().is_some_and(|it| !it.is_stopped())
    }

    /// The right of a client that belongs to no epoch; `None` while the machine runs.
    #[must_use]
    pub fn plain(&self) -> Option<Right> {
        let epoch = self.epoch;
        (!self.runs()).then_some(Right::Plain { epoch })
    }

    /// Ends the rights of all who held epochs before this one. A holder that moves on, with a backup or
    /// without, writes on. A call for a past epoch changes nothing.
    ///
    /// That the epoch was won may be answered when what is returned is over, every time.
    pub fn advance(&mut self, epoch: u64, holder: &Claimant) -> Earlier {
        if epoch > self.epoch {
            self.epoch = epoch;
            if !self.runs() || self.holder.as_ref() != Some(holder) {
                self.holder = Some(holder.clone());
                self.held_since = epoch;
                self.writers.clear();
                self.began = self.barrier.raise();
            }
        }
        Earlier(self.began)
    }

    /// Makes a connection the writer of an export, in place of the one before, whose right ends. It may
    /// be told so when what is returned is over.
    ///
    /// # Errors
    /// The machine does not run, or is in another epoch.
    pub fn open_writer(
        &mut self,
        export: &ExportName,
        epoch: u64,
    ) -> Result<(Right, Earlier), Refusal> {
        self.check_writer(epoch)?;
        // It is numbered anyway, and its numbers serve for connections too.
        let number = self.barrier.raise();
        self.writers.insert(export.clone(), number);
        Ok((Right::Writer { epoch, number }, Earlier(number)))
    }

    /// Whether [`Rights::open_writer`] would succeed now.
    ///
    /// # Errors
    /// Those that it would have.
    pub fn check_writer(&self, held: u64) -> Result<(), Refusal> {
        let vm = || self.vm.clone();
        let current = self.epoch;
        if held < self.held_since {
            Err(Refusal::Over {
                vm: vm(),
                held,
                current,
            })
        } else if held > current {
            Err(Refusal::Future {
                vm: vm(),
                held,
                current,
            })
        } else if !self.runs() {
            Err(Refusal::NotRunning {
                vm: vm(),
                epoch: current,
            })
        } else {
            Ok(())
        }
    }

    /// Whether a client that came in epoch `since` may write in a later one, `current`, though it
    /// belongs to neither.
    ///
    /// # Errors
    /// [`Refusal::HasRun`].
    pub fn check_since(&self, since: u64, current: u64) -> Result<(), Refusal> {
        if since == current {
            return Ok(());
        }
        Err(Refusal::HasRun {
            vm: self.vm.clone(),
            since,
            current,
        })
    }

    /// Lets a write begin. [`Rights::leave`] is to be told when it is over.
    ///
    /// # Errors
    /// The right has ended.
    pub fn enter(&mut self, export: &ExportName, right: Right) -> Result<Entered, Refusal> {
        match right {
            Right::Plain { .. } if self.runs() => {
                return Err(Refusal::Running {
                    vm: self.vm.clone(),
                });
            }
            Right::Plain { epoch } => self.check_since(epoch, self.epoch)?,
            Right::Writer { epoch, number } => {
                self.check_writer(epoch)?;
                if self.writers.get(export) != Some(&number) {
                    return Err(Refusal::Superseded {
                        vm: self.vm.clone(),
                    });
                }
            }
        }
        Ok(Entered(self.barrier.enter()))
    }

    /// A write is over. Whether that may be what somebody waits for.
    pub fn leave(&mut self, entered: Entered) -> bool {
        self.barrier.leave(entered.0)
    }

    /// Whether none of these is under way any more.
    #[must_use]
    pub fn is_over(&self, earlier: Earlier) -> bool {
        self.barrier.is_clear(earlier.0)
    }
}
