//! Takes backups, one at a time, for as long as the guest runs.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use confinement::Calls;
use disk_server::arbiter::{Claimant, HostName};
use disk_server::fleet::NamedHosts;
use logging_channel::handshake::{Refusal, RefusalCode};
use logging_channel::sender::Sender;
use logging_channel::session::{AcceptError, Admission, Listener};
use logging_channel::{HostReport, Identity, Settings};
use transport::Peer;

use super::{Sessions, Stage};
use crate::events::{Event, Events};
use crate::roles::claim::{Rights, is_that_of};
use crate::roles::peer_report::{self, StopNaming};
use crate::roles::tenure::Verdict;
use crate::threads;

/// How long a backup waits for the disk server, which gives this host the next epoch with it.
const ADMISSION: Duration = Duration::from_secs(5);

/// How long one that comes while the last backup's loss is being settled waits for that.
const SETTLING: Duration = Duration::from_secs(2);

/// What backups need to know of this host and its guest.
pub(in crate::roles) struct Door {
    pub(in crate::roles) identity: Identity,
    pub(in crate::roles) host_report: HostReport,
    pub(in crate::roles) settings: Settings,
    pub(in crate::roles) rights: Arc<Rights>,
    pub(in crate::roles) events: Events,
    /// The hosts that may run the guest, by its own file: those that the disk server names count, where it does.
    pub(in crate::roles) hosts: NamedHosts,
}

impl Door {
    /// Takes a backup whenever the guest has none, on a thread of its own.
    pub(in crate::roles) fn keep(self, mut listener: Listener, sessions: Sessions) {
        let keep = move || {
            loop {
                match self.accept(&mut listener, &sessions) {
                    Ok(sender) => self.offer(sender, &sessions),
                    Err(AcceptError::NotEntitled(reason)) => {
                        log::warn!("no backup can join any more: {reason}");
                        // A guest that waits for a backup is not to wait for ever.
                        sessions.standing().doubt();
                        return;
                    }
                    Err(error) => {
                        sessions.change(|state| state.admitting = false);
                        log::warn!("no backup can join: {error}");
                        thread::sleep(SETTLING);
                    }
                }
            }
        };
        // Whose key is trusted is a file, and each session has a socket for heartbeats.
        let calls = &[Calls::Accept, Calls::Connect, Calls::Files];
        threads::start("door", calls, keep).expect("a thread can be started");
    }

    /// Waits for a backup while the guest has none.
    fn accept(&self, listener: &mut Listener, sessions: &Sessions) -> Result<Sender, AcceptError> {
        listener.accept_backup(
            &self.identity,
            &self.host_report,
            |peer| {
                // Who is not to be the backup at all takes up no time of those who are.
                if let Some(peer) = peer {
                    self.names(&peer.name)?;
                }
                sessions.may_join().map(|epoch| self.rights.title(epoch))
            },
            &self.settings,
            None,
            |backup, peer| match self.may_follow(backup, peer) {
                Ok(backup) => sessions.admit(backup),
                Err(reason) => Admission::NotNow(reason),
            },
        )
    }

    fn offer(&self, sender: Sender, sessions: &Sessions) {
        let peer = &sender.session().peer_host;
        // Whether stops may be named by a count.
        let naming = peer_report::compare(&self.events, &self.host_report, peer);
        let counts = naming == StopNaming::Counter;
        self.events.emit(&Event::Joining {
            percent: 0.0,
            bytes: 0,
            bytes_per_second: 0.0,
            seconds_left: None,
        });
        sessions.offer(sender, counts);
    }

    /// As whom a backup is known to the disk server, if that is who its key says, and the guest names that host.
    fn may_follow(&self, backup: &str, peer: Option<&Peer>) -> Result<Claimant, String> {
        let backup: Claimant =
            (backup.parse()).map_err(|error| format!("it has no name of a host: {error}"))?;
        is_that_of(&backup, peer)?;
        (self.names(backup.host().as_str())).map_err(|refusal| refusal.message)?;
        Ok(backup)
    }

    /// Whether the guest names this host now: an operator may have changed that since it began to run.
    fn names(&self, host: &str) -> Result<(), Refusal> {
        let hosts = self.rights.named_hosts();
        let is_named = |host: HostName| hosts.as_ref().unwrap_or(&self.hosts).names(&host);
        match host.parse().is_ok_and(is_named) {
            true => Ok(()),
            false => Err(Refusal {
                // The guest's file may be about to change.
                code: RefusalCode::NotNow,
                message: format!("{host} is not among the hosts that may run the guest"),
            }),
        }
    }
}

impl Sessions {
    /// Takes a backup into the next epoch: which that is. From then on no other one is wanted, until it is
    /// [offered](Sessions::offer) or known not to come.
    pub(in crate::roles) fn admit(&self, backup: Claimant) -> Admission {
        let standing = self.standing();
        // Before there is an epoch in which this host could say that it wants one.
        self.change(|state| state.admitting = true);
        if let Some(epoch) = standing.admit(backup, ADMISSION) {
            return Admission::Admitted(epoch);
        }
        self.change(|state| state.admitting = false);
        match standing.wait(Duration::ZERO) {
            Some(Verdict::Lost(reason)) => Admission::NotEntitled(reason),
            _ => Admission::NotNow("the disk server does not answer".into()),
        }
    }

    /// Whether a backup may join the guest now: in which epoch.
    fn may_join(&self) -> Result<u64, Refusal> {
        let refuse = |code, message: &str| {
            let message = message.to_owned();
            Err(Refusal { code, message })
        };
        let until = Instant::now() + SETTLING;
        let mut state = self.0.state.lock();
        loop {
            match state.stage {
                Stage::Following => {
                    return refuse(
                        RefusalCode::NotNow,
                        "this host is itself the guest's backup: connect to its primary, or wait until \
                         this one has gone live",
                    );
                }
                Stage::Ended => {
                    return refuse(
                        RefusalCode::Ending,
                        "the VM has ended: start the primary again",
                    );
                }
                Stage::Running | Stage::Lost => {}
            }
            if state.is_alone() {
                return Ok(self.epoch());
            }
            let session = state.offered.as_ref().or(state.session.as_ref());
            if session.is_some_and(|session| !session.sender.is_lost()) {
                return refuse(
                    RefusalCode::AlreadyHasBackup,
                    "the primary already has a backup: stop that one first, or start this one \
                     for another VM",
                );
            }
            if self.0.changed.wait_until(&mut state, until).timed_out() {
                return refuse(
                    RefusalCode::NotNow,
                    "the primary lost its backup and is asking the disk server whether it may go on \
                     alone: try again in a moment",
                );
            }
        }
    }
}
