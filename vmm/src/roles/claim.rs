//! The right to run a guest, as the disk server's test-and-set gives it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use disk_server::arbiter::{
    Arbiter, CallError, Claim, ClaimError, Claimant, NameError, Record, ServerAddress,
    ServerNumber, Settings, VmName, WaitReason,
};
pub(super) use disk_server::fence::STOPPED;
use logging_channel::handshake::Title;
use logging_channel::session::Confirmation;

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
        Confirmation::Unknown(went_back(record.epoch, epoch))
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

/// That a server does not know of an epoch, in words.
pub(super) fn went_back(found: u64, epoch: u64) -> String {
    format!(
        "the disk server is at epoch {found}, but this guest already was at epoch {epoch}: its \
         state was lost or it is the wrong server"
    )
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

    /// Claims the right to start the guest. Returns its epoch. `cancel` ends a wait for the disk server.
    pub(super) fn start(&self, cancel: &AtomicBool) -> Result<u64, ClaimFailure> {
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
        let waits = |reason: &WaitReason| log::warn!("waiting for the disk server: {reason}");
        let claim = self
            .arbiter
            .claim(&self.vm, record.epoch, &self.claimant, cancel, waits)
            .inspect_err(|_| self.give_back(record.epoch + 1))?;
        match claim {
            Claim::Won { epoch } => Ok(epoch),
            Claim::Lost { holder, .. } => Err(ClaimFailure::Overtaken {
                vm: self.vm.as_str().to_owned(),
                holder: holder.map_or_else(|| "another host".into(), |h| h.as_str().to_owned()),
            }),
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
        let claimed = self.arbiter.claim(&self.vm, epoch, &stopped(), &once, |_| {
            once.store(true, Ordering::Relaxed);
        });
        if let Err(error) = claimed {
            log::warn!(
                "epoch {epoch} may be held by this host, and the next start need --force: {error}"
            );
        }
    }

    /// Who this host is to the disk server.
    pub(super) fn claimant(&self) -> &Claimant {
        &self.claimant
    }

    /// The record, as the disk server has it now.
    pub(super) fn look(&self) -> Result<Record, CallError> {
        self.arbiter.read(&self.vm)
    }

    /// Claims the epoch after `epoch`, which `holder` won, for this host. Waits for an answer as long
    /// as it takes, because without it the peer may be the one that runs; `on_wait` hears why.
    pub(super) fn contest(&self, epoch: u64, holder: &Claimant, on_wait: impl Fn(&str)) -> Claim {
        self.claim(epoch, holder, &self.claimant, on_wait)
    }

    /// Claims it for nobody: the guest has ended.
    pub(super) fn stop(&self, epoch: u64, holder: &Claimant, on_wait: impl Fn(&str)) -> Claim {
        self.claim(epoch, holder, &stopped(), on_wait)
    }

    /// No error is an outcome: only an answer tells who has the epoch.
    ///
    /// The record is read before each claim. A claim that reaches a server whose answers do not come
    /// back would be won by a host that cannot know it, and lost by the other one.
    fn claim(
        &self,
        epoch: u64,
        holder: &Claimant,
        claimant: &Claimant,
        on_wait: impl Fn(&str),
    ) -> Claim {
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
                Ok(record) => match repeats(&record, epoch, holder, claimant) {
                    Repeat::NotYet => waits(went_back(record.epoch, epoch)),
                    Repeat::Lost(claim) => return claim,
                    Repeat::Now => {
                        once.store(false, Ordering::Relaxed);
                        let mut reason = None;
                        let waiting = |why: &WaitReason| {
                            reason = Some(why.to_string());
                            once.store(true, Ordering::Relaxed);
                        };
                        match self
                            .arbiter
                            .claim(&self.vm, epoch, claimant, &once, waiting)
                        {
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

fn stopped() -> Claimant {
    STOPPED.parse().expect("the word is a valid claimant")
}

/// Whether a claim that was refused is made again.
#[derive(Debug, PartialEq, Eq)]
enum Repeat {
    NotYet,
    Now,
    /// It cannot be won any more.
    Lost(Claim),
}

/// Whether `claimant` repeats its claim for the epoch after `epoch`, which `holder` won, to a server
/// that has `record`. A server that knows only an earlier epoch may be the wrong one, or get its state
/// back. But one where the epochs began anew may come to this one again, in the hands of another.
fn repeats(record: &Record, epoch: u64, holder: &Claimant, claimant: &Claimant) -> Repeat {
    let found = record.holder.as_ref();
    let open = record.epoch == epoch && found == Some(holder);
    let won = record.epoch == epoch + 1 && found == Some(claimant);
    if open || won {
        Repeat::Now
    } else if record.epoch < epoch {
        Repeat::NotYet
    } else {
        Repeat::Lost(Claim::Lost {
            epoch: record.epoch,
            holder: record.holder.clone(),
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
    fn a_server_that_lost_its_state_gives_no_epoch_to_one_of_the_time_before() {
        let claimant = |name: &str| name.parse::<Claimant>().expect("a claimant");
        let repeats = |epoch, holder| {
            let record = record(epoch, holder);
            repeats(&record, 4, &claimant("hosta/1"), &claimant("hostb/1"))
        };
        for (epoch, holder) in [(0, None), (3, Some("hostc/1"))] {
            assert_eq!(repeats(epoch, holder), Repeat::NotYet);
        }
        for (epoch, holder) in [(4, "hosta/1"), (5, "hostb/1")] {
            assert_eq!(repeats(epoch, Some(holder)), Repeat::Now);
        }
        for (epoch, holder) in [(4, "hostc/1"), (5, "hosta/1"), (5, STOPPED), (6, "hostb/1")] {
            assert!(matches!(repeats(epoch, Some(holder)), Repeat::Lost(_)));
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
