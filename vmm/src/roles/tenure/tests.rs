//! The owner of an epoch, with a real disk server.

mod away;
mod one_way;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use disk_server::arbiter::{Claim, HostName, Record, STOPPED, ServerAddress};
use disk_server::server::{Config, Limits, Server, StopHandle};
use logging_channel::receiver::Receiver as LogReceiver;
use logging_channel::session::{AcceptError, Confirmation, ConnectError, Listener};
use logging_channel::{HostReport, Identity, Settings};
use transport::Endpoint;

use super::super::claim::{ArbiterConfig, Force};
use super::super::sessions::Sessions;
use super::*;
use crate::sources::Lanes;

/// More than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);
static NEVER: AtomicBool = AtomicBool::new(false);

pub(in crate::roles) struct DiskServer {
    pub(in crate::roles) address: ServerAddress,
    stop: StopHandle,
    serving: Option<JoinHandle<()>>,
}

impl DiskServer {
    fn start(folder: &Path) -> Self {
        // Clients connect from 127.0.0.1, so that none of them is given its port while it is away.
        Self::start_at("127.0.0.2:0", folder)
    }

    pub(in crate::roles) fn start_at(address: &str, folder: &Path) -> Self {
        let server = Server::bind(Config {
            listen: address.parse().unwrap(),
            state: folder.join("state"),
            endpoint: Endpoint::plain(),
            nbd: None,
            metrics: None,
            limits: Limits::default(),
        })
        .unwrap();
        Self {
            address: server.local_addr().into(),
            stop: server.stop_handle(),
            serving: Some(thread::spawn(move || server.run().unwrap())),
        }
    }

    /// Another run of `ftvm`, that is told to start in spite of a holder.
    fn rights(&self) -> Arc<Rights> {
        let config = ArbiterConfig {
            server: self.address.clone(),
            endpoint: Endpoint::plain(),
            host: HostName::of_this_host(),
            force: Force::Yes,
        };
        Arc::new(Rights::new(&config, "db").unwrap())
    }

    fn record(&self) -> (u64, Option<String>) {
        let Record { epoch, holder, .. } = self.rights().look().unwrap();
        (epoch, holder.map(String::from))
    }

    fn is_stopped_at(&self, epoch: u64) -> bool {
        self.record() == (epoch, Some(STOPPED.to_owned()))
    }
}

impl Drop for DiskServer {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(serving) = self.serving.take() {
            serving.join().unwrap();
        }
    }
}

/// Halts nobody, and tells why it should.
fn halt() -> (Halt, mpsc::Receiver<String>) {
    let (told, halted) = mpsc::channel();
    let halt = Box::new(move |reason: &str| told.send(reason.to_owned()).unwrap());
    (halt, halted)
}

pub(in crate::roles) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn session() -> (Sender<ChannelEvent>, Receiver<ChannelEvent>) {
    crossbeam_channel::bounded(1)
}

fn lost() -> ChannelEvent {
    ChannelEvent::PeerLost(LossReason::Closed)
}

pub(in crate::roles) struct Scene {
    pub(in crate::roles) folder: tempfile::TempDir,
    pub(in crate::roles) server: DiskServer,
    pub(in crate::roles) rights: Arc<Rights>,
    pub(in crate::roles) epoch: u64,
    pub(in crate::roles) tenure: Tenure,
    pub(in crate::roles) halted: mpsc::Receiver<String>,
}

/// The guest of the tests.
pub(in crate::roles) fn identity() -> Identity {
    Identity {
        vm: "db".into(),
        image: [1; 32],
        cpu: [2; 32],
        memory_bytes: 1 << 20,
        tsc_khz: 1_000_000,
        disk: None,
        arbiter: None,
    }
}

/// A primary that has won an epoch.
pub(in crate::roles) fn primary() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let server = DiskServer::start(folder.path());
    let rights = server.rights();
    let epoch = rights.start(&NEVER).unwrap();
    let (halt, halted) = halt();
    Scene {
        tenure: Tenure::hold(rights.clone(), epoch, &Events::default(), halt),
        folder,
        server,
        rights,
        epoch,
        halted,
    }
}

impl Scene {
    /// A backup that has taken over, as the disk server knows: who it is, and the epoch.
    fn backup(&self) -> (Arc<Rights>, u64) {
        let backup = self.server.rights();
        let standing = self.tenure.standing();
        let epoch = standing.admit(backup.claimant().clone(), LONG).unwrap();
        standing.taken_over();
        assert!(standing.is_acknowledged(epoch, LONG));
        (backup, epoch)
    }
}

#[test]
fn a_primary_that_was_replaced_while_it_waits_begins_with_nobody() {
    let scene = primary();
    let Scene { rights, epoch, .. } = &scene;
    let identity = identity();
    let (host, settings) = (HostReport::default(), Settings::default());
    let title = rights.title(*epoch);
    let another = scene.server.rights();
    another.start(&NEVER).unwrap();

    let standing = scene.tenure.standing();
    let sessions = Sessions::alone(standing, Lanes::default().look, &Events::default());
    let plain = Endpoint::plain();
    let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &plain).unwrap();
    let address = listener.local_addr();
    let gone = AtomicBool::new(false);
    thread::scope(|scope| {
        // A backup without a question of its own.
        let next = scope.spawn(|| {
            let deadline = Instant::now() + LONG;
            let held = |_: &_, _: Option<&_>| Confirmation::Held;
            let me = (&identity, "hostb/2");
            LogReceiver::connect(
                (address, &plain),
                me,
                &host,
                &settings,
                deadline,
                &gone,
                held,
            )
        });
        let accepted = listener.accept_backup(
            &identity,
            &host,
            |_| Ok(title.clone()),
            &settings,
            None,
            |backup, _| sessions.admit(backup.parse().unwrap()),
        );
        match accepted {
            Err(AcceptError::NotEntitled(reason)) => {
                assert!(reason.contains(another.claimant().as_str()), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        gone.store(true, Ordering::Relaxed);
        assert!(matches!(next.join().unwrap(), Err(ConnectError::Cancelled)));
    });
    // One that asks follows nobody of that time.
    assert!(matches!(
        scene.server.rights().vouch_for(&title, None),
        Confirmation::NotHeld(_)
    ));
}

/// It has not heard of its admission.
#[test]
fn a_backup_that_comes_again_stays_in_its_epoch() {
    let scene = primary();
    let standing = scene.tenure.standing();
    let (one, other) = (scene.server.rights(), scene.server.rights());
    let admit = |rights: &Arc<Rights>| standing.admit(rights.claimant().clone(), LONG);
    let epochs = [&one, &one, &other, &one].map(admit);
    let next = |n| Some(scene.epoch + n);
    assert_eq!(epochs, [next(1), next(1), next(2), next(3)]);
    assert_eq!(standing.epoch(), scene.epoch + 3);
}

/// A backup that was left behind claims, and one that has not taken over.
#[test]
fn only_the_backup_that_has_taken_over_can_claim() {
    let scene = primary();
    let standing = scene.tenure.standing();
    let (left, epoch) = scene.backup();
    let joining = scene.server.rights();
    let next = standing.admit(joining.claimant().clone(), LONG).unwrap();
    assert_eq!((epoch, next), (scene.epoch + 1, scene.epoch + 2));
    let holder = scene.rights.claimant();
    let lost = |rights: &Rights, epoch| {
        let claim = rights.claim((epoch, holder), &Next::Alone, |_| {});
        assert!(matches!(claim, Claim::Lost { .. }), "{claim:?}");
    };
    for epoch in [epoch, next] {
        lost(&left, epoch);
        lost(&joining, epoch);
    }
    assert_eq!(scene.server.record().0, next);
    standing.taken_over();
    assert!(standing.is_acknowledged(next, LONG));
    lost(&left, next);
    let won = joining.claim((next, holder), &Next::Alone, |_| {});
    assert_eq!(won, Claim::Won { epoch: next + 1 });
}

/// It slept, and another one took its place: it is told of which view, and never runs.
#[test]
fn a_backup_of_an_older_view_is_refused_with_the_number_of_the_present_one() {
    let scene = primary();
    let (asleep, epoch) = scene.backup();
    let (_, present) = scene.backup();
    let held = (epoch, scene.rights.claimant().clone());
    let (halt, halted) = halt();
    let (announce, events) = session();
    let tenure = Tenure::follow(asleep, held, events, &Events::default(), halt);
    announce.send(lost()).unwrap();
    tenure.standing().ready();
    let reason = halted.recv_timeout(LONG).unwrap();
    let told = format!("epoch {present} belongs to {}", scene.rights.claimant());
    assert_eq!(reason, told);
    let verdict = tenure.standing().wait(LONG);
    assert_eq!(verdict, Some(Verdict::Lost(told)));
    assert_eq!(scene.server.record().0, present);
}

#[test]
fn a_refused_write_makes_a_host_look_whether_it_was_replaced() {
    let scene = primary();
    let refused = scene.tenure.standing();
    refused.tell(Input::Doubt);
    let another = scene.server.rights();
    another.start(&NEVER).unwrap();
    // Not before: it holds its epoch.
    refused.tell(Input::Doubt);
    let reason = scene.halted.recv_timeout(LONG).unwrap();
    assert!(reason.contains(another.claimant().as_str()), "{reason}");
    assert!(matches!(refused.wait(LONG), Some(Verdict::Lost(_))));
}

/// One that was, by a host that has stopped since, is no less replaced, though it has a session.
#[test]
fn a_host_whose_successor_has_stopped_was_replaced() {
    let scene = primary();
    let (_announce, events) = session();
    scene.tenure.standing().pair_with(events);
    let another = scene.server.rights();
    let epoch = another.start(&NEVER).unwrap();
    let (halt, _halted) = halt();
    drop(Tenure::hold(another, epoch, &Events::default(), halt));
    assert!(scene.server.is_stopped_at(scene.epoch + 2));

    let standing = scene.tenure.standing();
    standing.tell(Input::Doubt);
    scene.halted.recv_timeout(LONG).unwrap();
    assert!(matches!(standing.wait(LONG), Some(Verdict::Lost(_))));
}

/// A primary, a host that went live, and one that lost its backup are all looked at.
#[test]
fn a_host_that_was_replaced_learns_of_it_without_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let server = DiskServer::start(folder.path());
    let rights = server.rights();
    let epoch = rights.start(&NEVER).unwrap();
    let (halt, halted) = halt();
    let core = Core::holding(rights.claimant().clone(), epoch);
    let pace = Duration::from_millis(10);
    let tenure = Tenure::start(rights, core, BACKUP, pace, &Events::default(), halt);
    let (announce, events) = session();
    tenure.standing().pair_with(events);
    announce.send(lost()).unwrap();
    let verdict = tenure.standing().wait(LONG);
    assert!(matches!(verdict, Some(Verdict::Won { .. })), "{verdict:?}");
    assert!(halted.try_recv().is_err());

    server.rights().start(&NEVER).unwrap();
    halted.recv_timeout(LONG).unwrap();
}

/// It is left to the backup, and this host claims nothing.
#[test]
fn the_backup_to_which_the_guest_is_handed_over_wins() {
    let scene = primary();
    let standing = scene.tenure.standing();
    let (backup, epoch) = scene.backup();
    let (announce, events) = session();
    standing.pair_with(events);
    standing.hand_over(epoch - 1); // of an earlier view: nothing
    standing.hand_over(epoch);
    announce.send(lost()).unwrap();
    let held = (epoch, scene.rights.claimant());
    let won = backup.claim(held, &Next::Alone, |_| {});
    assert_eq!(won, Claim::Won { epoch: epoch + 1 });
    let reason = scene.halted.recv_timeout(LONG).unwrap();
    let told = format!("handed over to {}", backup.claimant());
    assert!(reason.contains(&told), "{reason}");
    assert_eq!(standing.wait(LONG), Some(Verdict::Lost(reason)));
}

/// The backup died in between: nobody else could go on.
#[test]
fn a_backup_that_does_not_win_in_time_is_not_waited_for() {
    let scene = primary();
    let standing = scene.tenure.standing();
    let (_, epoch) = scene.backup();
    let (announce, events) = session();
    standing.pair_with(events);
    standing.hand_over(epoch);
    announce.send(lost()).unwrap();
    match standing.wait(LONG) {
        Some(Verdict::Won { epoch: won, .. }) => assert_eq!(won, epoch + 1),
        other => panic!("{other:?}"),
    }
    // Another one may come, and is lost as any.
    let (_, epoch) = scene.backup();
    let (announce, events) = session();
    standing.pair_with(events);
    announce.send(lost()).unwrap();
    wait_until(
        "it goes on alone",
        || matches!(standing.wait(LONG), Some(Verdict::Won { epoch: won, .. }) if won == epoch + 1),
    );
    scene.tenure.end();
}

/// A guest has many sessions: each loss is a claim of its own, and one of them may be another's.
#[test]
fn a_host_that_went_on_alone_is_paired_again() {
    let scene = primary();
    let standing = scene.tenure.standing();
    for loss in 1..=3 {
        let (announce, events) = session();
        standing.pair_with(events);
        assert_eq!(standing.wait(Duration::ZERO), None, "loss {loss}");
        announce.send(lost()).unwrap();
        let verdict = standing.wait(LONG);
        let Some(Verdict::Won { epoch, .. }) = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!(epoch, scene.epoch + loss);
    }
    let (announce, events) = session();
    standing.pair_with(events);
    scene.server.rights().start(&NEVER).unwrap();
    announce.send(lost()).unwrap();
    assert!(matches!(standing.wait(LONG), Some(Verdict::Lost(_))));
    scene.halted.recv_timeout(LONG).unwrap();
}

/// The backup did not acknowledge the end: the claim for what is left, and the end, of one owner.
#[test]
fn the_end_of_a_guest_whose_backup_is_lost_is_told_once() {
    let scene = primary();
    let (announce, events) = session();
    scene.tenure.standing().pair_with(events);
    let standing = scene.tenure.standing();
    standing.guest_ended();
    announce.send(lost()).unwrap();
    standing.session_over(&LossReason::Closed);
    scene.tenure.end();
    assert!(scene.server.is_stopped_at(scene.epoch + 2));
    assert!(scene.halted.try_recv().is_err());
}

#[test]
fn an_orderly_end_is_told() {
    let scene = primary();
    let (_announce, events) = session();
    scene.tenure.standing().pair_with(events);
    scene.tenure.standing().session_over(&LossReason::Orderly);
    scene.tenure.end();
    assert!(scene.server.is_stopped_at(scene.epoch + 1));
}

#[test]
fn an_error_before_there_is_a_backup_gives_the_epoch_back() {
    let scene = primary();
    drop(scene.tenure);
    assert!(scene.server.is_stopped_at(scene.epoch + 1));
    assert!(scene.halted.try_recv().is_err());
}

#[test]
fn an_error_with_a_backup_leaves_the_guest_to_that() {
    let scene = primary();
    let (rights, epoch) = scene.backup();
    let (_announce, events) = session();
    scene.tenure.standing().pair_with(events);

    let (announce, events) = session();
    let (halt, halted) = halt();
    let held = (epoch, scene.rights.claimant().clone());
    let backup = Tenure::follow(rights.clone(), held, events, &Events::default(), halt);
    drop(scene.tenure);
    announce.send(lost()).unwrap();
    let standing = backup.standing();
    standing.ready();
    let verdict = standing.wait(LONG);
    assert!(matches!(verdict, Some(Verdict::Won { .. })), "{verdict:?}");
    // It fails in its turn, and there is nobody else.
    drop(backup);
    assert!(scene.server.is_stopped_at(epoch + 2));
    assert!(halted.try_recv().is_err());
}

/// The log ended with the guest's shutdown, but without a goodbye.
#[test]
fn a_backup_tells_of_the_end_where_the_primary_cannot() {
    let scene = primary();
    let (rights, epoch) = scene.backup();
    let (announce, events) = session();
    let (halt, halted) = halt();
    let held = (epoch, scene.rights.claimant().clone());
    let backup = Tenure::follow(rights, held, events, &Events::default(), halt);
    announce.send(lost()).unwrap();
    backup.end();
    assert!(scene.server.is_stopped_at(epoch + 1));
    // The primary was not lost after all: it has nothing else to say.
    scene.tenure.standing().guest_ended();
    let (announce, events) = session();
    scene.tenure.standing().pair_with(events);
    announce.send(lost()).unwrap();
    scene.tenure.end();
    assert!(scene.server.is_stopped_at(epoch + 1));
    assert!(halted.try_recv().is_err() && scene.halted.try_recv().is_err());
}

#[test]
fn a_backup_that_is_unfit_claims_nothing() {
    let scene = primary();
    let (announce, events) = session();
    let (halt, _halted) = halt();
    let (rights, epoch) = scene.backup();
    let held = (epoch, scene.rights.claimant().clone());
    let backup = Tenure::follow(rights, held, events, &Events::default(), halt);
    announce.send(lost()).unwrap();
    backup.standing().refuse();
    drop(backup);
    assert_eq!(scene.server.record().0, epoch);
}
