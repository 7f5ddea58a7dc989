//! The right to run a guest, as the disk server's test-and-set gives it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use disk_server::arbiter::{
    Arbiter, CallError, Claim, ClaimError, Claimant, HostName, NameError, Next, Record,
    ServerAddress, ServerNumber, Settings, VmName, WaitReason,
};
use disk_server::fleet::{Answer, NamedHosts, Operation};
use logging_channel::handshake::Title;
use logging_channel::session::Confirmation;
use transport::{Endpoint, Peer};

use crate::protocol::rights::{Repeat, own_right, repeats, right_of_another, went_back};

/// How soon a claim that got no answer, or was refused, is tried again. The pause doubles each time,
/// up to [`REPEAT`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// How soon at the latest.
const REPEAT: Duration = Duration::from_secs(1);

/// Where the disk server is and who asks.
#[derive(Debug, Clone)]
pub struct ArbiterConfig {
    /// Its address.
    pub server: ServerAddress,
    /// This host's key for connections, and whose keys it trusts.
    pub endpoint: Endpoint,
    /// What this host is called there.
    pub host: HostName,
    /// Whether to start a guest that another host runs, as the disk server has it.
    pub force: Force,
}

/// Whether a guest is started that another host runs, as the disk server has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// It is not.
    No,
    /// Whoever has which epoch.
    Yes,
    /// Whoever has this epoch, as long as that is the guest's.
    From(u64),
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
    #[error("the system has no random number for this host's claims")]
    Nonce(#[source] std::io::Error),
    /// The disk server does not say which one it is.
    #[error(
        "the disk server at {server} does not say which one it is, so that the other host and the \
         disk cannot be compared with it: it is an older one; install the same version of \
         disk-server and ftvm everywhere"
    )]
    Unnumbered {
        /// Its address.
        server: ServerAddress,
    },
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
    /// The guest has moved on since somebody looked.
    #[error(
        "{vm} is to be started from epoch {from}, and is in epoch {epoch}, which {holder} has: it was \
         started elsewhere meanwhile"
    )]
    MovedOn {
        /// The guest.
        vm: String,
        /// From where it was to be started.
        from: u64,
        /// Where it is.
        epoch: u64,
        /// Who has that.
        holder: String,
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

/// Whether a claimant is a process of the host that a key has proved to be at the other end.
pub(super) fn is_that_of(claimant: &Claimant, peer: Option<&Peer>) -> Result<(), String> {
    match peer {
        Some(peer) if claimant.host().as_str() != peer.name => Err(format!(
            "it speaks for {} with the key of {peer}: give `--host` the name under which trust.toml lists it",
            claimant.as_str()
        )),
        _ => Ok(()),
    }
}

impl ArbiterConfig {
    /// A client of the disk server.
    pub(super) fn client(&self, settings: Settings) -> Arbiter {
        Arbiter::new(self.server.clone(), self.endpoint.clone(), settings)
    }
}

/// This host's claims for one guest.
pub(super) struct Rights {
    arbiter: Arbiter,
    vm: VmName,
    claimant: Claimant,
    force: Force,
}

impl Rights {
    pub(super) fn new(config: &ArbiterConfig, vm: &str) -> Result<Self, ClaimFailure> {
        Ok(Self {
            arbiter: config.client(Settings::default()),
            vm: vm.parse()?,
            claimant: Claimant::generate(&config.host).map_err(ClaimFailure::Nonce)?,
            force: config.force,
        })
    }

    /// Waits until the disk server can be asked: a pair without one could not survive a failure. For so long at
    /// most; `None` for as long as it takes. `on_wait` hears why, each time that the reason changes.
    ///
    /// # Errors
    /// It did not answer in time, or what answers is no such server.
    pub(super) fn wait_for_server(
        &self,
        patience: Option<Duration>,
        on_wait: impl Fn(&str),
    ) -> Result<(), ClaimFailure> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        let mut told = String::new();
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.arbiter.read(&self.vm) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let may_pass = matches!(
                error,
                CallError::Unreachable { .. }
                    | CallError::Lost { .. }
                    | CallError::Closed { .. }
                    | CallError::Silent { .. }
                    | CallError::Unable { .. }
            );
            let is_late = deadline.is_some_and(|deadline| Instant::now() + pause > deadline);
            if !may_pass || is_late {
                return Err(error.into());
            }
            let reason = format!("{:#}", anyhow::Error::new(error));
            if told != reason {
                on_wait(&reason);
                told = reason;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(REPEAT);
        }
    }

    /// Which disk server decides.
    pub(super) fn server(&self) -> Result<ServerNumber, ClaimFailure> {
        self.arbiter
            .server()?
            .ok_or_else(|| ClaimFailure::Unnumbered {
                server: self.arbiter.address().clone(),
            })
    }

    /// What a backup is told of this host's right to run the guest in `epoch`.
    pub(super) fn title(&self, epoch: u64) -> Title {
        Title {
            epoch,
            holder: self.claimant.as_str().to_owned(),
        }
    }

    /// Whether a primary that says so of itself, and has proved with its key who it is, runs the guest.
    pub(super) fn vouch_for(&self, title: &Title, primary: Option<&Peer>) -> Confirmation {
        let claimant = title
            .holder
            .parse::<Claimant>()
            .map_err(|error| error.to_string());
        if let Err(reason) = claimant.and_then(|holder| is_that_of(&holder, primary)) {
            return Confirmation::NotHeld(reason);
        }
        match self.arbiter.read(&self.vm) {
            Ok(record) => right_of_another(&record, title),
            Err(error) => Confirmation::Unknown(format!("{:#}", anyhow::Error::new(error))),
        }
    }

    /// Claims the right to start the guest. Returns its epoch. `cancel` ends a wait for the disk server.
    pub(super) fn start(&self, cancel: &AtomicBool) -> Result<u64, ClaimFailure> {
        let record = self.arbiter.read(&self.vm)?;
        self.may_start(&record)?;
        let waits = |reason: &WaitReason| log::warn!("waiting for the disk server: {reason}");
        let claim = self
            .arbiter
            .claim(
                &self.vm,
                record.epoch,
                (&self.claimant, Next::Start),
                cancel,
                waits,
            )
            .inspect_err(|_| self.give_back(record.epoch + 1))?;
        match claim {
            Claim::Won { epoch } => Ok(epoch),
            Claim::Lost { holder, .. } => Err(ClaimFailure::Overtaken {
                vm: self.vm.as_str().to_owned(),
                holder: holder.map_or_else(|| "another host".into(), |h| h.as_str().to_owned()),
            }),
        }
    }

    fn may_start(&self, record: &Record) -> Result<(), ClaimFailure> {
        let holder = record.holder.as_ref();
        let vm = || self.vm.as_str().to_owned();
        match (self.force, holder) {
            (Force::From(from), _) if from != record.epoch => Err(ClaimFailure::MovedOn {
                vm: vm(),
                from,
                epoch: record.epoch,
                holder: holder.map_or_else(|| "nobody".into(), ToString::to_string),
            }),
            (Force::No, Some(holder)) if !holder.is_stopped() => Err(ClaimFailure::Running {
                vm: vm(),
                holder: holder.as_str().to_owned(),
                epoch: record.epoch,
            }),
            _ => Ok(()),
        }
    }

    /// A claim for `epoch` ended without an answer, and may have been won. Tries once.
    fn give_back(&self, epoch: u64) {
        let record = self.arbiter.read(&self.vm);
        if !record
            .is_ok_and(|record| own_right(&record, epoch, &self.claimant) == Confirmation::Held)
        {
            return;
        }
        let once = AtomicBool::new(false);
        let stop = (&self.claimant, Next::Stopped);
        let claimed = self.arbiter.claim(&self.vm, epoch, stop, &once, |_| {
            once.store(true, Ordering::Relaxed);
        });
        if let Err(error) = claimed {
            log::warn!(
                "epoch {epoch} may be held by this host, and the next start need --force: {error}"
            );
        }
    }

    #[cfg(test)]
    pub(super) fn arbiter(&self) -> &Arbiter {
        &self.arbiter
    }

    /// The hosts that may run the guest, as the disk server has them now; `None` where it knows no such guest, or
    /// does not answer.
    pub(super) fn named_hosts(&self) -> Option<NamedHosts> {
        let vm = self.vm.clone();
        match self.arbiter.operate(Operation::Definition { vm }) {
            Ok(Answer::Definition(definition)) => Some(definition.hosts),
            _ => None,
        }
    }

    /// Whose epoch it is about.
    pub(super) fn vm(&self) -> &VmName {
        &self.vm
    }

    /// Who this host is to the disk server.
    pub(super) fn claimant(&self) -> &Claimant {
        &self.claimant
    }

    /// The record, as the disk server has it now.
    pub(super) fn look(&self) -> Result<Record, CallError> {
        self.arbiter.read(&self.vm)
    }

    /// Has the disk server know that the backup of `epoch` has taken over.
    pub(super) fn acknowledge(&self, epoch: u64) -> Result<Record, CallError> {
        self.arbiter.acknowledge(&self.vm, epoch, &self.claimant)
    }

    /// Claims the epoch after `epoch`, which `holder` won, for `next`. Waits for an answer as long as it
    /// takes, because without it the peer may be the one that runs; `on_wait` hears why.
    ///
    /// No error is an outcome: only an answer tells who has the epoch.
    ///
    /// The record is read before each claim. A claim that reaches a server whose answers do not come
    /// back would be won by a host that cannot know it, and lost by the other one.
    pub(super) fn claim(
        &self,
        (epoch, holder): (u64, &Claimant),
        next: &Next,
        on_wait: impl Fn(&str),
    ) -> Claim {
        let me = &self.claimant;
        let once = AtomicBool::new(false);
        let mut told = String::new();
        let mut waits = |reason: String| {
            if told != reason {
                on_wait(&reason);
                told = reason;
            }
        };
        let mut pause = FIRST_PAUSE;
        loop {
            match self.arbiter.read(&self.vm) {
                Ok(record) => match repeats(&record, (epoch, holder), me, next) {
                    Repeat::NotYet => waits(went_back(record.epoch, epoch)),
                    Repeat::Lost(claim) => return claim,
                    Repeat::Now => {
                        once.store(false, Ordering::Relaxed);
                        let mut reason = None;
                        let waiting = |why: &WaitReason| {
                            reason = Some(why.to_string());
                            once.store(true, Ordering::Relaxed);
                        };
                        let asked = (me, next.clone());
                        match self.arbiter.claim(&self.vm, epoch, asked, &once, waiting) {
                            Ok(claim) => return claim,
                            Err(error) => waits(
                                reason
                                    .unwrap_or_else(|| format!("{:#}", anyhow::Error::new(error))),
                            ),
                        }
                    }
                },
                Err(error) => waits(format!("{:#}", anyhow::Error::new(error))),
            }
            thread::sleep(pause);
            pause = (pause * 2).min(REPEAT);
        }
    }
}
