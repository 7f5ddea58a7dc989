//! How the process ends.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use logging_channel::session::AcceptError;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::assembly::AssemblyError;
use crate::control::Asked;
use crate::doctor::Unfit;
use crate::engine::EngineError;
use crate::host::DaemonError;
use crate::io::{INTERRUPTED, Terminal};
use crate::roles::{Halt, NotLive, RoleError};
use crate::selftest::SelftestError;
use crate::sources::{Control, Lanes};
use crate::threads;

/// This host cannot run guests.
const UNFIT: u8 = 2;
/// This host lost the test-and-set: the guest runs elsewhere.
const LOST: u8 = 3;
/// The replay differs from the log.
const DIVERGED: u8 = 4;

/// The guest crashed.
const CRASHED: u8 = 5;

/// How long a process stays to say why it ends at once: enough for a reader that reads,
/// and no time for anything else.
const LAST_WORDS_IN_A_HURRY: Duration = Duration::from_millis(100);

/// How long a guest that is to be handed over has at most until it is known who goes on with it: longer than it
/// stands still for that.
const HAND_OVER: Duration = Duration::from_secs(8);

/// What a selftest's report says in full: its last word stays the last.
#[derive(Debug, thiserror::Error)]
pub(super) enum SelftestFailed {
    /// A replay differed from its recording.
    #[error("a replay differs from its recording")]
    Differs,
    /// Something else went wrong.
    #[error("a test guest could not be recorded or replayed, or did not do what it is there for")]
    Failed,
    /// It was not tried, or not to the end.
    #[error("this host is not fit: {0}")]
    Refused(String),
}

/// A person no longer waits for an order.
#[derive(Debug, thiserror::Error)]
#[error("order {order} stands, and is being carried out: `{watch}` shows how it goes")]
pub(super) struct OrderStands {
    /// Its number.
    pub(super) order: u64,
    /// The command that shows it.
    pub(super) watch: String,
}

/// An order was not carried out.
#[derive(Debug, thiserror::Error)]
#[error("{subject}: {verb} is not done: {why}")]
pub(super) struct NotDone {
    /// The guest, or the host.
    pub(super) subject: String,
    /// What was to be done.
    pub(super) verb: String,
    /// Why it was not.
    pub(super) why: String,
}

/// The guest ended in a triple fault.
#[derive(Debug, thiserror::Error)]
#[error("the guest crashed: triple fault")]
pub(super) struct GuestCrashed;

/// The exit status for an error: 2 when this host cannot run guests, 3 when the right to run was
/// lost, 4 for a divergence and for a backup that had not joined, 5 when the guest crashed, else 1.
pub(super) fn exit_code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(status_of).unwrap_or(1)
}

/// Errors that are shown as their cause are not in the chain beside it: look into them.
fn status_of(cause: &(dyn Error + 'static)) -> Option<u8> {
    let engine = |error: &EngineError| match error {
        EngineError::Halted(_) => Some(LOST),
        EngineError::Diverged(_) => Some(DIVERGED),
        _ => None,
    };
    let assembly =
        |error: &AssemblyError| matches!(error, AssemblyError::Unfit(_)).then_some(UNFIT);
    if cause.is::<Unfit>() {
        return Some(UNFIT);
    }
    if cause.is::<GuestCrashed>() {
        return Some(CRASHED);
    }
    if let Some(failed) = cause.downcast_ref() {
        return match failed {
            SelftestFailed::Differs => Some(DIVERGED),
            SelftestFailed::Failed => None,
            SelftestFailed::Refused(_) => Some(UNFIT),
        };
    }
    let interrupted = matches!(cause.downcast_ref(), Some(SelftestError::Interrupted));
    if interrupted || cause.is::<OrderStands>() {
        return u8::try_from(INTERRUPTED).ok();
    }
    if let Some(error) = cause.downcast_ref() {
        return engine(error);
    }
    if let Some(error) = cause.downcast_ref() {
        return assembly(error);
    }
    if let Some(DaemonError::Unfit(_)) = cause.downcast_ref() {
        return Some(UNFIT);
    }
    match cause.downcast_ref()? {
        RoleError::Engine(error) => engine(error),
        RoleError::Assembly(error) => assembly(error),
        RoleError::NotLive(NotLive::Ended) => None,
        RoleError::NotLive(_) => Some(DIVERGED),
        RoleError::Accept(AcceptError::NotEntitled(_)) => Some(LOST),
        _ => None,
    }
}

/// A flag that SIGINT and SIGTERM set.
pub(super) fn cancel_on_signals() -> std::io::Result<Arc<AtomicBool>> {
    flag_on(&[SIGINT, SIGTERM])
}

/// A flag that SIGHUP sets as well: for what has the terminal, and leaves it as it was.
pub(super) fn leave_on_signals() -> std::io::Result<Arc<AtomicBool>> {
    flag_on(&[SIGHUP, SIGINT, SIGTERM])
}

fn flag_on(signals: &[i32]) -> std::io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for &signal in signals {
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(flag)
}

/// A flag that SIGUSR2 sets.
pub(super) fn turn_hot_on_signal() -> std::io::Result<Arc<AtomicBool>> {
    flag_on(&[SIGUSR2])
}

/// A flag that SIGUSR1 sets.
#[cfg(feature = "sabotage")]
pub(super) fn next_on_signal() -> std::io::Result<Arc<AtomicBool>> {
    flag_on(&[signal_hook::consts::SIGUSR1])
}

/// A write beyond the limit of file sizes (setrlimit(2)) fails like one on a full disk: SIGXFSZ would end
/// the process, and with it the guest, for a line of its events or its log.
pub(super) fn survive_file_size_limit() {
    let unread = Arc::new(AtomicBool::new(false));
    if let Err(e) = signal_hook::flag::register(SIGXFSZ, unread) {
        log::warn!("a file that reaches the limit of file sizes ends this process: {e}");
    }
}

/// Ends the process at once when this host has lost the right to run the guest: the guest's
/// thread may be anywhere, and nothing of it may leave any more.
pub(super) fn halt_process() -> Halt {
    Box::new(|reason| {
        disk_server::lossy_writer::say(&format!(
            "ftvm: halted: this host lost the right to run the guest: {reason}\n"
        ));
        end(i32::from(LOST), LAST_WORDS_IN_A_HURRY)
    })
}

/// Ends the process, with what is said and not taken yet, for at most `patience`.
fn end(status: i32, patience: Duration) -> ! {
    disk_server::lossy_writer::finish(patience);
    Terminal::restore();
    std::process::exit(status)
}

/// SIGINT and SIGTERM end the guest at its next exit, in order; a second one ends the process.
pub(super) fn stop_on_signals(lanes: &Lanes) -> std::io::Result<()> {
    let lanes = lanes.clone();
    let mut stopping = false;
    on_signals(&[SIGINT, SIGTERM], move || {
        if stopping {
            end(INTERRUPTED, LAST_WORDS_IN_A_HURRY);
        }
        stopping = true;
        lanes.control.try_push(Control::Stop);
    })
}

/// SIGHUP has the files that are appended to opened anew: a log rotation moved them away.
pub(super) fn reopen_files_on_hangup() -> std::io::Result<()> {
    on_signals(&[SIGHUP], disk_server::lossy_writer::reopen_files)
}

/// Starts a thread that acts at each of these signals.
fn on_signals(signals: &[i32], mut act: impl FnMut() + Send + 'static) -> std::io::Result<()> {
    let mut signals = Signals::new(signals)?;
    let heed = move || {
        for _ in signals.forever() {
            confinement::catch_up();
            act();
        }
    };
    threads::start("signals", &[], heed).map(drop)
}

/// What SIGINT and SIGTERM do to a guest that runs here: they end it in order, or, where this process is tended by
/// a daemon, have it go on elsewhere. If that cannot be, signals end the process as usual.
pub(super) fn heed_signals(lanes: &Lanes, run: Box<dyn Asked>, tended: bool) {
    let heeded = match tended {
        true => hand_over_on_signals(run),
        false => stop_on_signals(lanes),
    };
    if let Err(e) = heeded {
        log::warn!("signals end this process without ending the guest in order: {e}");
    }
}

/// SIGINT and SIGTERM have the guest's backup go on with it, or end the process without a word, as they come at the
/// end of a machine's shutdown; a second one ends it, too.
fn hand_over_on_signals(run: Box<dyn Asked>) -> std::io::Result<()> {
    let leave = || end(INTERRUPTED, LAST_WORDS_IN_A_HURRY);
    let mut leaving = false;
    on_signals(&[SIGINT, SIGTERM], move || {
        if std::mem::replace(&mut leaving, true) || !hands_over(&*run) {
            leave();
        }
        let waits = threads::start("leaves", &[], move || {
            std::thread::sleep(HAND_OVER);
            leave();
        });
        if waits.is_err() {
            leave();
        }
    })
}

/// Whether the guest is about to be handed over.
fn hands_over(run: &dyn Asked) -> bool {
    match run.hand_over() {
        Ok(()) => {
            log::warn!("this process is to end: the backup goes on with the guest");
            true
        }
        Err(why) => {
            log::warn!("this process ends, as if its host had lost power: {why}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Status;

    struct Run(Result<(), String>);

    impl Asked for Run {
        fn status(&self) -> Option<Status> {
            None
        }

        fn hand_over(&self) -> Result<(), String> {
            self.0.clone()
        }

        fn has_console(&self) -> Result<(), String> {
            Ok(())
        }
    }

    #[test]
    fn a_tended_process_stays_for_a_hand_over_alone() {
        assert!(hands_over(&Run(Ok(()))));
        assert!(!hands_over(&Run(Err("no backup".to_owned()))));
    }
}
