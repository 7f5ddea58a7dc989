//! The right to run a guest, as the disk server's test-and-set gives it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use disk_server::arbiter::{
    Arbiter, CallError, Claim, ClaimError, Claimant, NameError, ServerAddress, Settings, VmName,
};

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
            Ok(Claim::Lost { epoch, holder }) => Verdict::Lost(format!(
                "epoch {epoch} belongs to {}",
                holder.as_ref().map_or("another host", |h| h.as_str())
            )),
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
