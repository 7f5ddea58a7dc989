//! The fence: no write of an earlier epoch lands after a later one was won.
//!
//! A host that lost its turn may not know it. It was frozen, or its packets were; its writes may
//! wait in a socket of this server, in a worker, or in the middle of a system call. So every
//! request that modifies a disk holds a [`Permit`] from the check of its right to the end of the
//! system call. A claim that was won first ends the old rights and then waits until no permit that
//! was given before is left; only then it is answered.
//!
//! ```text
//!     old writer   enter ───── pwrite ───── drop     enter: refused
//!     claim             commit ─ advance ········ return ─ "won" ─> host
//!                                (old rights end, permits are waited for)
//! ```
//!
//! The same happens within one epoch when a host connects anew: a request that was sent on the old
//! connection, and again on the new one, must not land a second time after what follows it. And it
//! happens to clients of no machine that say who they are: [`Clients`].
//!
//! Who waits does so for a limited time, and then asks again. What it has ended stays ended; only the
//! answer is put off until nothing is under way any more.

mod barrier;
mod clients;
mod store;
mod waiting;

use std::collections::BTreeMap;
use std::fmt;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::arbiter::{Claimant, Record, VmName};
use crate::nbd::ExportName;
use barrier::Barrier;
use waiting::{Waiting, wait_until};

pub use clients::{ClientPermit, Clients, Membership};
pub use store::{AcknowledgeError, Claimed, FencedStore, ForgetError};
pub use waiting::{NotYet, WaitLimit};

/// Why a connection may not write, or not be opened for writing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody has moved on to a later epoch.
    #[error("epoch {held} of {vm} is over, it is in epoch {current} now")]
    Over {
        /// Whose epoch.
        vm: VmName,
        /// The client's.
        held: u64,
        /// The current one.
        current: u64,
    },
    /// The epoch has not been.
    #[error(
        "{vm} is in epoch {current}, epoch {held} was never claimed here: is this the right disk server, and has it its state?"
    )]
    Future {
        /// Whose epoch.
        vm: VmName,
        /// The client's.
        held: u64,
        /// The current one.
        current: u64,
    },
    /// Nobody runs the machine in the current epoch.
    #[error("{vm} does not run: nobody holds its epoch {epoch}")]
    NotRunning {
        /// Whose epoch.
        vm: VmName,
        /// The current one.
        epoch: u64,
    },
    /// The host of the machine has connected anew.
    #[error("a newer connection of {vm} has taken over")]
    Superseded {
        /// The machine.
        vm: VmName,
    },
    /// The client has connected anew.
    #[error("a newer connection of this client has taken over")]
    NewerConnection,
    /// Writes of earlier connections are under way. They can be told from others already, so that
    /// asking again does no harm.
    #[error("writes of an earlier connection are under way: {0}")]
    NotYet(#[from] NotYet),
    /// A machine runs on the export.
    #[error("{vm} runs on it: only the host that runs it may write")]
    Running {
        /// The machine.
        vm: VmName,
    },
    /// A machine has run on the export since the client came, and what the client knows of the
    /// export's content is from before.
    #[error(
        "{vm} has been started since this client came, in epoch {since}, and is in epoch {current} \
         now: what the client remembers of the disk may be old. Start the client afresh"
    )]
    HasRun {
        /// The machine.
        vm: VmName,
        /// Its epoch when the client came.
        since: u64,
        /// The current one.
        current: u64,
    },
}

/// What a connection bases its writes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
        /// The connection's number, from [`Fence::open_writer`].
        number: u64,
    },
}

/// Who may write to the disks of one virtual machine.
#[derive(Debug)]
pub struct Fence {
    vm: VmName,
    state: Mutex<State>,
    left: Condvar,
}

/// How it stands with the machine's epoch.
#[derive(Debug, Default)]
struct State {
    epoch: u64,
    /// Who holds it.
    holder: Option<Claimant>,
    /// Since which epoch, as far as this server has seen: with each of its backups it moves on.
    held_since: u64,
    /// The number of the latest writer connection of each export.
    writers: BTreeMap<ExportName, u64>,
    /// Between permits that were given and rights that were ended.
    barrier: Barrier,
    /// Which time of it began the holder's time.
    began: u64,
    /// Claims that wait.
    claims: Waiting,
    /// Connections of each export that wait to become its writer.
    openers: BTreeMap<ExportName, Waiting>,
}

impl State {
    /// Somebody runs the machine.
    fn runs(&self) -> bool {
        self.holder.as_ref().is_some_and(|it| !it.is_stopped())
    }
}

impl Fence {
    /// A fence for a machine as the arbiter has it.
    #[must_use]
    pub fn new(vm: VmName, record: &Record) -> Fence {
        let state = State {
            epoch: record.epoch,
            held_since: record.epoch,
            holder: record.holder.clone(),
            ..State::default()
        };
        Fence {
            vm,
            state: Mutex::new(state),
            left: Condvar::new(),
        }
    }

    /// The machine.
    #[must_use]
    pub fn vm(&self) -> &VmName {
        &self.vm
    }

    /// The epoch, and whether somebody runs the machine in it.
    #[must_use]
    pub fn epoch(&self) -> (u64, bool) {
        let state = self.state.lock();
        (state.epoch, state.runs())
    }

    /// The right of a client that belongs to no epoch; `None` while the machine runs.
    #[must_use]
    pub fn plain(&self) -> Option<Right> {
        let state = self.state.lock();
        let epoch = state.epoch;
        (!state.runs()).then_some(Right::Plain { epoch })
    }

    /// Ends the rights of all who held epochs before this one. When it has returned well, no write of
    /// theirs is under way, and none will be. A holder that moves on, with a backup or without, writes on.
    ///
    /// To be called before *every* answer that says that the epoch was won, also a repeated one:
    /// the first call may still be waiting. A call for a past epoch changes nothing.
    ///
    /// # Errors
    /// Writes of theirs are still under way. The rights have ended all the same: call it again.
    pub fn advance(
        &self,
        epoch: u64,
        holder: &Claimant,
        limit: WaitLimit<'_>,
    ) -> Result<(), NotYet> {
        let mut state = self.state.lock();
        if epoch > state.epoch {
            state.epoch = epoch;
            if !state.runs() || state.holder.as_ref() != Some(holder) {
                state.holder = Some(holder.clone());
                state.held_since = epoch;
                state.writers.clear();
                state.began = state.barrier.raise();
            }
        }
        let began = state.began;
        self.wait_for_earlier(state, began, limit, |state| &mut state.claims)
    }

    /// Makes a connection the writer of an export, in place of the one before. When it has returned
    /// well, no write of that one is under way, and none will be.
    ///
    /// # Errors
    /// The machine does not run, or is in another epoch. Or such a write is still under way.
    pub fn open_writer(
        &self,
        export: &ExportName,
        epoch: u64,
        limit: WaitLimit<'_>,
    ) -> Result<Right, Refusal> {
        let mut state = self.state.lock();
        self.check_epoch(&state, epoch)?;
        // It is numbered anyway, and its numbers serve for connections too.
        let number = state.barrier.raise();
        state.writers.insert(export.clone(), number);
        self.wait_for_earlier(state, number, limit, |state| {
            state.openers.entry(export.clone()).or_default()
        })?;
        Ok(Right::Writer { epoch, number })
    }

    /// Whether [`Fence::open_writer`] would succeed now.
    ///
    /// # Errors
    /// Those that it would have.
    pub fn check_writer(&self, epoch: u64) -> Result<(), Refusal> {
        self.check_epoch(&self.state.lock(), epoch)
    }

    /// Lets a modifying request begin. It is over when the permit is dropped.
    ///
    /// # Errors
    /// The right has ended.
    pub fn enter(&self, export: &ExportName, right: Right) -> Result<Permit<'_>, Refusal> {
        let mut state = self.state.lock();
        match right {
            Right::Plain { .. } if state.runs() => {
                return Err(Refusal::Running {
                    vm: self.vm.clone(),
                });
            }
            Right::Plain { epoch } => self.check_since(epoch, state.epoch)?,
            Right::Writer { epoch, number } => {
                self.check_epoch(&state, epoch)?;
                if state.writers.get(export) != Some(&number) {
                    return Err(Refusal::Superseded {
                        vm: self.vm.clone(),
                    });
                }
            }
        }
        let entered = state.barrier.enter();
        Ok(Permit {
            fence: self,
            entered,
        })
    }

    /// Whether a client that came in epoch `since` may write in a later one, `current`, though it
    /// belongs to neither.
    pub(crate) fn check_since(&self, since: u64, current: u64) -> Result<(), Refusal> {
        if since == current {
            return Ok(());
        }
        Err(Refusal::HasRun {
            vm: self.vm.clone(),
            since,
            current,
        })
    }

    fn check_epoch(&self, state: &State, held: u64) -> Result<(), Refusal> {
        let vm = || self.vm.clone();
        let current = state.epoch;
        if held < state.held_since {
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
        } else if !state.runs() {
            Err(Refusal::NotRunning {
                vm: vm(),
                epoch: current,
            })
        } else {
            Ok(())
        }
    }

    /// Waits until no permit is left that was given before this time of the barrier.
    fn wait_for_earlier(
        &self,
        mut state: MutexGuard<'_, State>,
        raised: u64,
        limit: WaitLimit<'_>,
        waiting: impl Fn(&mut State) -> &mut Waiting,
    ) -> Result<(), NotYet> {
        let is_clear = |state: &State| state.barrier.is_clear(raised);
        wait_until(&self.left, &mut state, limit, waiting, is_clear)
    }
}

/// A modifying request that is under way.
pub struct Permit<'a> {
    fence: &'a Fence,
    entered: u64,
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("vm", &self.fence.vm)
            .field("entered", &self.entered)
            .finish()
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.fence.state.lock().barrier.leave(self.entered) {
            self.fence.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests;
