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
mod refusal;
mod rights;
mod store;
mod waiting;

use std::collections::BTreeMap;
use std::fmt;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::arbiter::{Claimant, Record, VmName};
use crate::nbd::ExportName;
use waiting::{Waiting, wait_until};

pub use clients::{ClientPermit, Clients, Membership};
pub use refusal::Refusal;
pub use rights::{Earlier, Entered, Right, Rights};
pub use store::{AcknowledgeError, Claimed, FencedStore, ForgetError};
pub use waiting::{NotYet, WaitLimit};

/// Who may write to the disks of one virtual machine: its [`Rights`], for threads that write and wait.
#[derive(Debug)]
pub struct Fence {
    vm: VmName,
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Debug)]
struct State {
    rights: Rights,
    /// Claims that wait.
    claims: Waiting,
    /// Connections of each export that wait to become its writer.
    openers: BTreeMap<ExportName, Waiting>,
}

impl Fence {
    /// A fence for a machine as the arbiter has it.
    #[must_use]
    pub fn new(vm: VmName, record: &Record) -> Fence {
        let state = State {
            rights: Rights::new(vm.clone(), record),
            claims: Waiting::default(),
            openers: BTreeMap::new(),
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

    /// See [`Rights::epoch`].
    #[must_use]
    pub fn epoch(&self) -> (u64, bool) {
        self.state.lock().rights.epoch()
    }

    /// See [`Rights::holder`].
    #[must_use]
    pub fn holder(&self) -> Option<Claimant> {
        self.state.lock().rights.holder().cloned()
    }

    /// See [`Rights::plain`].
    #[must_use]
    pub fn plain(&self) -> Option<Right> {
        self.state.lock().rights.plain()
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
        let earlier = state.rights.advance(epoch, holder);
        self.wait_for(state, earlier, limit, |state| &mut state.claims)
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
        let (right, earlier) = state.rights.open_writer(export, epoch)?;
        self.wait_for(state, earlier, limit, |state| {
            state.openers.entry(export.clone()).or_default()
        })?;
        Ok(right)
    }

    /// See [`Rights::check_writer`].
    ///
    /// # Errors
    /// Those that [`Fence::open_writer`] would have.
    pub fn check_writer(&self, epoch: u64) -> Result<(), Refusal> {
        self.state.lock().rights.check_writer(epoch)
    }

    /// Lets a modifying request begin. It is over when the permit is dropped.
    ///
    /// # Errors
    /// The right has ended.
    pub fn enter(&self, export: &ExportName, right: Right) -> Result<Permit<'_>, Refusal> {
        let entered = self.state.lock().rights.enter(export, right)?;
        Ok(Permit {
            fence: self,
            entered,
        })
    }

    /// See [`Rights::check_since`].
    pub(crate) fn check_since(&self, since: u64, current: u64) -> Result<(), Refusal> {
        self.state.lock().rights.check_since(since, current)
    }

    /// Waits until none of these is under way.
    fn wait_for(
        &self,
        mut state: MutexGuard<'_, State>,
        earlier: Earlier,
        limit: WaitLimit<'_>,
        waiting: impl Fn(&mut State) -> &mut Waiting,
    ) -> Result<(), NotYet> {
        let is_over = |state: &State| state.rights.is_over(earlier);
        wait_until(&self.left, &mut state, limit, waiting, is_over)
    }
}

/// A modifying request that is under way.
pub struct Permit<'a> {
    fence: &'a Fence,
    entered: Entered,
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
        if self.fence.state.lock().rights.leave(self.entered) {
            self.fence.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests;
