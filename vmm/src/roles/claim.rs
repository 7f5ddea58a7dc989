//! The right to run a guest, as the disk server's test-and-set gives it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use disk_server::arbiter::{
    Arbiter, CallError, Claim, ClaimError, Claimant, NameError, Record, ServerAddress, Settings,
    VmName,
};
use logging_channel::handshake::Title;
use logging_channel::session::Confirmation;

use super::standing::Verdict;
use crate::events::{Event, Events};

/// How often the connection to the disk server is used so that it stays open.
const WARM_INTERVAL: Duration = Duration::from_secs(5);

/// Holder of a guest that ended in order.
const STOPPED: &str = "stopped";

/// Where the disk server is and who asks.
#[derive(Debug, Clone)]
pub struct ArbiterConfig {
    /// Its address.
    pub server: ServerAddress,
    /// Start even if the disk server says that another host runs the guest.
    pub force: bool,
}

/// Why the right to run was not given.
#[derive(Debug, thiserror::Error)]
pub enum ClaimFailure {
    /// The disk server cannot be asked.
    #[error("the disk server did not answer")]
    Call(#[from] CallError),
    /// The claim failed.
    #[error("the disk server refused the claim")]
    Claim(#[from] ClaimError),
    /// A name is not usable.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No random number for this host's claims.
    #[error("cannot read /dev/urandom")]
    Nonce(#[source] std::io::Error),
    /// Another host runs the guest.
    #[error(
        "{vm} is run by {holder} (epoch {epoch}), as the disk server has it: stop it there; if \
         that host is gone for good and no other runs the guest, start again with --force"
    )]
    Running {
        /// The guest.
        vm: String,
        /// Who runs it.
        holder: String,
        /// Since which epoch.
        epoch: u64,
    },
    /// Another host was faster.
    #[error("{holder} started {vm} at the same moment")]
    Overtaken {
        /// The guest.
        vm: String,
        /// Who was faster.
        holder: String,
    },
}

/// What `record` says of the right of `me` to run the guest, which it won in `epoch`. Only that
/// another one won a later epoch, or this one, proves that it is lost.
pub(super) fn own_right(record: &Record, epoch: u64, me: &Claimant) -> Confirmation {
    let mine = record.holder.as_ref() == Some(me);
    if record.epoch < epoch {
        Confirmation::Unknown(format!(
            "the disk server is at epoch {}, but this guest already was at epoch {epoch}: its state \
             was lost or it is the wrong server",
            record.epoch
        ))
    } else if mine {
        Confirmation::Held
    } else {
        Confirmation::NotHeld(belongs(record.epoch, record.holder.as_ref()))
    }
}

/// What `record` says of a primary that says that it runs the guest by `title`.
fn right_of_another(record: &Record, title: &Title) -> Confirmation {
    let holder = record.holder.as_ref().map(Claimant::as_str);
    if record.epoch == title.epoch && holder == Some(&title.holder) {
        return Confirmation::Held;
    }
    Confirmation::NotHeld(format!(
        "it says that {} runs it in epoch {}, but the disk server of this host that {}; both hosts \
         must name the same disk server, and a primary that another one has replaced must be ended",
        title.holder,
        title.epoch,
        belongs(record.epoch, record.holder.as_ref())
    ))
}

/// Who has an epoch, in words.
pub(super) fn belongs(epoch: u64, holder: Option<&Claimant>) -> String {
    let holder = holder.map_or("nobody", Claimant::as_str);
    format!("epoch {epoch} belongs to {holder}")
}

/// There is no answer.
fn unknown(error: CallError) -> Confirmation {
    Confirmation::Unknown(format!("{:#}", anyhow::Error::new(error)))
}

/// This host's claims for one guest.
pub(super) struct Rights {
    arbiter: Arbiter,
    vm: VmName,
    claimant: Claimant,
    force: bool,
}

impl Rights {
    pub(super) fn new(config: &ArbiterConfig, vm: &str) -> Result<Self, ClaimFailure> {
        Ok(Self {
            arbiter: Arbiter::new(config.server.clone(), Settings::default()),
            vm: vm.parse()?,
            claimant: Claimant::generate().map_err(ClaimFailure::Nonce)?,
            force: config.force,
        })
    }

    /// Whether the disk server can be asked: a pair without one could not survive a failure.
    pub(super) fn check(&self) -> Result<(), ClaimFailure> {
        self.arbiter.read(&self.vm)?;
        Ok(())
    }

    /// What a backup is told of this host's right to run the guest in `epoch`.
    pub(super) fn title(&self, epoch: u64) -> Title {
        Title {
            epoch,
            holder: self.claimant.as_str().to_owned(),
        }
    }

    /// Whether this host holds `epoch`, as the disk server has it.
    pub(super) fn confirm(&self, epoch: u64) -> Confirmation {
        match self.arbiter.read(&self.vm) {
            Ok(record) => own_right(&record, epoch, &self.claimant),
            Err(error) => unknown(error),
        }
    }

    /// Whether a primary that says so of itself runs the guest.
    pub(super) fn vouch_for(&self, title: &Title) -> Confirmation {
        match self.arbiter.read(&self.vm) {
            Ok(record) => right_of_another(&record, title),
            Err(error) => unknown(error),
        }
    }

    /// Keeps a connection to the disk server open, so that a claim is one round trip, until an
    /// event comes.
    pub(super) fn keep_warm_until<T>(&self, event: &crossbeam_channel::Receiver<T>) -> Option<T> {
        let mut answers = true;
        loop {
            match event.recv_timeout(WARM_INTERVAL) {
                Ok(event) => return Some(event),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let answer = self.arbiter.warm();
            match &answer {
                Err(e) if answers => log::warn!(
                    "the disk server does not answer; a failover would have to wait for it: {e}"
                ),
                Ok(()) if !answers => log::info!("the disk server answers again"),
                _ => {}
            }
            answers = answer.is_ok();
        }
    }

    /// Claims the right to start the guest. Returns its epoch.
    pub(super) fn start(&self) -> Result<u64, ClaimFailure> {
        let record = self.arbiter.read(&self.vm)?;
        let holder = record.holder.as_ref().map(|h| h.as_str().to_owned());
        match holder {
            Some(holder) if holder != STOPPED && !self.force => {
                return Err(ClaimFailure::Running {
                    vm: self.vm.as_str().to_owned(),
                    holder,
                    epoch: record.epoch,
                });
            }
            _ => {}
        }
        match self.claim(record.epoch, &self.claimant, |_| {})? {
            Claim::Won { epoch } => Ok(epoch),
            Claim::Lost { holder, .. } => Err(ClaimFailure::Overtaken {
                vm: self.vm.as_str().to_owned(),
                holder: holder.map_or_else(|| "another host".into(), |h| h.as_str().to_owned()),
            }),
        }
    }

    /// The peer of `epoch` is lost: asks for the right to run alone. Waits for the disk server as
    /// long as it takes, because without its answer the peer may be the one that runs.
    pub(super) fn run_alone(&self, epoch: u64, lost_at: Instant, events: &Events) -> Verdict {
        let on_wait = |reason: &str| {
            log::warn!("waiting for the disk server before this host may go on: {reason}");
            events.emit(&Event::Waiting {
                reason: reason.to_owned(),
            });
        };
        match self.claim(epoch, &self.claimant, on_wait) {
            Ok(Claim::Won { epoch }) => Verdict::Won { epoch, lost_at },
            Ok(Claim::Lost { epoch, holder }) => Verdict::Lost(belongs(epoch, holder.as_ref())),
            Err(e) => Verdict::Lost(format!("the disk server refused the claim: {e}")),
        }
    }

    /// The guest ended in order on this host, which ran it in `epoch`.
    pub(super) fn stopped(&self, epoch: u64) {
        let stopped: Claimant = STOPPED.parse().expect("the word is a valid claimant");
        let give_up_after_one_failure = AtomicBool::new(false);
        let claimed = self.arbiter.claim(
            &self.vm,
            epoch,
            &stopped,
            &give_up_after_one_failure,
            |reason| {
                log::warn!("could not tell the disk server that the guest ended: {reason}");
                give_up_after_one_failure.store(true, Ordering::Relaxed);
            },
        );
        if let Err(e) = claimed {
            log::warn!("{e}");
        }
    }

    fn claim(
        &self,
        epoch: u64,
        claimant: &Claimant,
        mut on_wait: impl FnMut(&str),
    ) -> Result<Claim, ClaimError> {
        let never = AtomicBool::new(false);
        self.arbiter
            .claim(&self.vm, epoch, claimant, &never, |reason| {
                on_wait(&reason.to_string())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(epoch: u64, holder: Option<&str>) -> Record {
        let holder = holder.map(|holder| holder.parse().expect("a claimant"));
        Record { epoch, holder }
    }

    #[test]
    fn only_another_holder_is_proof_of_a_lost_right() {
        let me: Claimant = "hosta/1".parse().expect("a claimant");
        let right = |epoch, holder| own_right(&record(epoch, holder), 4, &me);
        assert_eq!(right(4, Some("hosta/1")), Confirmation::Held);
        // A claim whose answer was lost.
        assert_eq!(right(5, Some("hosta/1")), Confirmation::Held);
        for (epoch, holder) in [(4, "hostb/1"), (5, "hostb/1"), (5, STOPPED), (9, "hosta/2")] {
            let Confirmation::NotHeld(reason) = right(epoch, Some(holder)) else {
                panic!("{epoch} {holder}");
            };
            assert!(reason.contains(holder), "{reason}");
        }
        // A server that lost its state, or the wrong one.
        for (epoch, holder) in [(0, None), (3, Some("hostb/1")), (3, Some("hosta/1"))] {
            assert!(matches!(right(epoch, holder), Confirmation::Unknown(_)));
        }
    }

    #[test]
    fn a_backup_follows_only_the_one_that_its_disk_server_names() {
        let title = Title {
            epoch: 4,
            holder: "hosta/1".into(),
        };
        let right = |epoch, holder| right_of_another(&record(epoch, holder), &title);
        assert_eq!(right(4, Some("hosta/1")), Confirmation::Held);
        for (epoch, holder) in [
            (0, None),
            (3, Some("hosta/1")),
            (4, Some("hostb/1")),
            (5, Some("hosta/1")),
            (5, Some("hostb/1")),
        ] {
            let Confirmation::NotHeld(reason) = right(epoch, holder) else {
                panic!("{epoch} {holder:?}");
            };
            assert!(reason.contains("same disk server"), "{reason}");
        }
    }
}
