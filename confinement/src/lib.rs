//! What ftvm's programs give up, so that whoever gets one of them to do his bidding gets little.
//!
//! A [`Confinement`] begins before the process has threads, since Linux confines threads and not processes: a
//! thread gets what its parent has. It becomes narrower when the program has started and has open what it needs:
//!
//! | | files and ports, by Landlock | capabilities | system calls, by seccomp |
//! | --- | --- | --- | --- |
//! | from the beginning | what is needed for a start, or later | those for a start | all |
//! | when it has started | what is needed later | none | what is needed later |
//!
//! No program of others can be executed, from the beginning. What a host's kernel cannot do is told in the log,
//! and is no reason not to run a guest.

mod capabilities;
mod process;
mod reach;
mod system_calls;
mod threads;

use log::Level;
use parking_lot::Mutex;
use rustix::thread::set_no_new_privs;

pub use crate::capabilities::Capability;
use crate::capabilities::LIMITS;
use crate::process::{PROCESS, Process};
pub use crate::reach::{Ports, Reach, Use};
pub use crate::system_calls::Calls;
pub use crate::threads::{catch_up, narrow, spawn};

/// What a process may still do.
#[derive(Debug)]
pub struct Confinement {
    calls: Vec<Calls>,
    /// What is not confined, and why, until that is told.
    open: Mutex<Vec<(Level, String)>>,
}

impl Confinement {
    /// Confines the calling thread, and those that it starts, to what is needed for a `start`, or `later`, and to
    /// these capabilities. To be called once, before there is another thread.
    ///
    /// Limits take the place of CAP_IPC_LOCK and CAP_SYS_NICE. A process that has these and must not raise its
    /// limits, as in some containers, keeps them.
    ///
    /// # Panics
    /// This process is confined already.
    #[must_use]
    pub fn begin(start: Reach, later: Reach, capabilities: &[Capability]) -> Self {
        let mut open = Vec::new();
        let asked = capabilities::set_of(capabilities);
        let mut kept = capabilities::become_limits(asked & LIMITS);
        let needed = asked.difference(LIMITS) | kept;
        if let Err(error) = capabilities::keep(needed) {
            let text = format!("this process keeps its capabilities: {error}");
            open.push((Level::Warn, text));
        }
        let all = Capability::DacOverride;
        if !capabilities::is_dispensable(all, || later.is_permitted()).unwrap_or(true) {
            let text = "this process keeps CAP_DAC_OVERRIDE, as it uses files of another user: run it as that user";
            open.push((Level::Warn, text.to_owned()));
            kept |= capabilities::set_of(&[all]);
        }
        if let Err(error) = set_no_new_privs(true) {
            open.push((
                Level::Warn,
                format!("programs may gain privileges: {error}"),
            ));
        }
        let mut files = Vec::new();
        match start.and(&later).enforce(reach::scopes(), true) {
            Ok(enforced) => {
                open.extend(enforced.lacking.map(|lacking| (Level::Info, lacking)));
                files = enforced.files;
            }
            Err(error) => open.push((Level::Warn, error.to_string())),
        }
        assert!(
            PROCESS.set(Process::new(later, kept, files)).is_ok(),
            "this process is confined already"
        );
        Self {
            calls: Vec::new(),
            open: Mutex::new(open),
        }
    }

    /// With these system calls when it has started, beside those that every program makes.
    #[must_use]
    pub fn calling(self, groups: &[Calls]) -> Self {
        let calls = groups.to_vec();
        Self { calls, ..self }
    }

    /// The program has started: confines all threads to the system calls that are needed later, and the calling
    /// one, with those that it starts from now on, to the files and ports, without capabilities, as those that
    /// [`spawn`] started are from their beginning.
    ///
    /// # Panics
    /// It was not [begun](Self::begin).
    pub fn has_started(&self) {
        for (level, open) in std::mem::take(&mut *self.open.lock()) {
            log::log!(level, "{open}");
        }
        let process = PROCESS.get().expect("it was begun");
        if let Err(error) = process.confine_thread(true) {
            log::info!("this thread keeps its capabilities: {error}");
        }
        if let Err(error) = system_calls::allow(&self.calls) {
            log::warn!("this process: {error}");
        }
        if let Err(error) = threads::start_spawner(process) {
            log::warn!("threads make every system call that their process makes: {error}");
        }
    }
}
