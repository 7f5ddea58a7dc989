//! Says whether this host's KVM can carry guests, by trying it out with micro-guests.
//!
//! What KVM reports about itself is not enough: a KVM without hardware support can accept a CPU
//! model and ignore it, lack instructions, or stay in user mode after SYSCALL. So every capability
//! that recording and replay rest on is measured (in `checks`), and the [`Report`] says for each
//! what was seen, what it means, and how to mend it.

mod capabilities;
mod catalogue;
mod checks;
mod purpose;
mod report;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use logging_channel::HostReport;
use vmm_sys_util::signal::Killable;

pub use self::capabilities::capabilities;
pub use self::catalogue::{DEVICE, PROCESSOR};
pub use self::checks::Effort;
use self::checks::{Measured, PATIENCE};
pub use self::purpose::{NeededBy, PAGING, Purpose};
pub use self::report::{Check, Figures, Outcome, Report};
use crate::kick;
use crate::kvm::probe::MicroGuest;

/// How often the probing thread is interrupted, so that it can lose its patience.
const KICK_INTERVAL: Duration = Duration::from_millis(100);
/// KVM itself hangs when one check takes longer.
const LOST: Duration = Duration::from_secs(15);

/// Where checks tell what came of them.
type Findings = mpsc::Sender<(&'static str, Measured)>;

/// What may make a guest differ where a host has nested paging all the same.
pub const NESTED_PAGING: &str = "nested paging, which --allow-nested-paging let pass: what this host and \
     the other do by themselves decides when accessed bits of the guest's page tables are set, and its \
     kernel acts on them";

/// Whether KVM decides on a host what its guest's accessed bits are, by its report.
#[must_use]
pub fn has_shadow_paging(host: &HostReport) -> bool {
    host.passes(PAGING)
}

/// Whether a host has a performance counter that can name a stop of the guest, by its report.
#[must_use]
pub fn has_counter(host: &HostReport) -> bool {
    host.passes("counter")
}

/// Runs all checks.
#[must_use]
pub fn examine(effort: Effort) -> Report {
    supervise(move |found| probe(found, effort))
}

/// Lets `probe` run on a thread that is interrupted from time to time, and collects its findings.
fn supervise(probe: impl FnOnce(Findings) + Send + 'static) -> Report {
    let started = Instant::now();
    let mut report = Report::new();
    let (found, results) = mpsc::channel();
    let warn = |e: &_| log::warn!("a micro-guest that hangs will hang this check too: {e}");
    let kick = kick::handled_signal().inspect_err(warn).ok();
    let prober = thread::Builder::new()
        .name("doctor".into())
        .spawn(move || probe(found))
        .expect("a thread can be started");
    let mut heard = Instant::now();
    loop {
        match results.recv_timeout(KICK_INTERVAL) {
            Ok((id, outcome)) => {
                report.record(id, outcome);
                heard = Instant::now();
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if heard.elapsed() > LOST => {
                report.fail_first_open("KVM does not come back from running a micro-guest");
                break;
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(Err(e)) = kick.map(|signal| prober.kill(signal)) {
                    log::debug!("cannot interrupt the micro-guest: {e}");
                }
            }
        }
    }
    report.elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
    report
}

/// This host cannot carry guests for what they are to be for.
#[derive(Debug, thiserror::Error)]
#[error(
    "this host cannot {}: \"{title}\" failed: {seen} (see `ftvm doctor`{})",
    match .needed_by {
        NeededBy::Replication => "replicate, record or replay guests",
        _ => "run guests",
    },
    if *.id == PAGING { ", or go on all the same with --allow-nested-paging" } else { "" }
)]
pub struct Unfit {
    id: &'static str,
    title: &'static str,
    needed_by: NeededBy,
    seen: String,
}

/// Checks that guests for this can run here. Returns what was found.
///
/// # Errors
/// [`Unfit`] names the first check that they need and that failed.
pub fn require_fit(purpose: Purpose) -> Result<Report, Unfit> {
    let report = examine(Effort::Needed);
    log::debug!("checked this host in {:.0} ms", report.elapsed_ms);
    report.verdict(purpose)?;
    if purpose != Purpose::Alone && !has_shadow_paging(&report.for_peer(purpose)) {
        log::warn!(
            "this host has nested paging: a backup, or a replay, differs as soon as the guest's kernel \
             acts on an accessed bit, as Linux does when memory gets scarce; a backup is repaired then, \
             and the guest is unprotected until it is (see `ftvm doctor`)"
        );
    }
    Ok(report)
}

impl Report {
    /// Whether guests for this can run here.
    ///
    /// # Errors
    /// [`Unfit`] names the first check that they need and that failed.
    pub fn verdict(&self, purpose: Purpose) -> Result<(), Unfit> {
        match self.first_failed(purpose) {
            None => Ok(()),
            Some(check) => Err(Unfit {
                id: check.id,
                title: check.title,
                needed_by: check.needed_by,
                seen: check.outcome.measured().to_owned(),
            }),
        }
    }
}

fn probe(found: Findings, effort: Effort) {
    // Nobody listening means that the examination was given up.
    let tell = |id, outcome: Measured| drop(found.send((id, outcome)));
    if !checks::machine(&MicroGuest::cpu_model_on_host(), tell) {
        return;
    }
    // Making a machine costs more than a check, so they share one until one of them fails.
    let mut machine = None;
    let mut spent = Vec::new();
    let asked = |least: &Effort| *least <= effort;
    for (id, _, check) in checks::MICRO_GUESTS.iter().filter(|check| asked(&check.1)) {
        let started = Instant::now();
        let outcome = match machine.take().map_or_else(|| MicroGuest::new(PATIENCE), Ok) {
            Ok(mut guest) => {
                let outcome = check(&mut guest, effort);
                if outcome.is_ok() {
                    machine = Some(guest);
                } else {
                    spent.push(guest);
                }
                outcome
            }
            Err(error) => Err(report::with_causes(&error)),
        };
        log::trace!("{id} took {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
        tell(id, outcome);
    }
    // That was all: nobody needs to wait until the machines are taken down, which takes long too.
    drop(found);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::probe::{ProbeError, Program};

    #[test]
    fn a_micro_guest_that_hangs_does_not_hang_the_doctor() {
        let report = supervise(|found| {
            let patience = 3 * KICK_INTERVAL;
            let Ok(mut guest) = MicroGuest::new(patience) else {
                return; // no KVM on this machine
            };
            let forever = Program {
                kernel: &[0xeb, 0xfe], // jmp $
                ..Program::default()
            };
            guest.load(&forever).expect("a state like any other");
            assert!(matches!(guest.run(), Err(ProbeError::Hung { .. })));
            let told = found.send(("device", Ok("given up".into())));
            told.expect("the doctor listens");
        });
        assert!(report.verdict(Purpose::Alone).is_err());
        if MicroGuest::new(PATIENCE).is_ok() {
            assert_eq!(report.checks()[0].outcome.measured(), "given up");
        }
    }
}
