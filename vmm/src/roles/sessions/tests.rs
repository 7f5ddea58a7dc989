//! Sessions that are lost, with a real logging channel and a real disk server.

use std::collections::BTreeSet;
use std::{fs, thread};

use disk_server::arbiter::{Claim, Claimant, Next};
use disk_server::views::{Capabilities, Paging, Text};
use logging_channel::entry::{Entry, ExecutionPoint, Payload, StatePart};
use logging_channel::receiver::Receiver;
use logging_channel::session::{Admission, Confirmation, ConnectError, Listener};
use logging_channel::{HostReport, Settings};
use transport::{Endpoint, Role, key_set};

use super::hand_over::NotHandedOver;
use super::*;
use crate::devices::Output;
use crate::engine::{Interruption, OutputGate as _};
use crate::gates::Committed;
use crate::io::{ConsoleSink, Outlet};
use crate::roles::tenure::tests::{DiskServer, Scene, identity, primary, wait_until};
use crate::sources::{Lanes, LogSink as _, Waits};
use crate::threads::LEFT;

/// A session of the scene's primary.
pub(in crate::roles) fn session(scene: &Scene) -> (Sender, Receiver) {
    let identity = identity();
    let (host, settings) = (HostReport::default(), Settings::default());
    let plain = Endpoint::plain();
    let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &plain).unwrap();
    let address = listener.local_addr();
    let title = |_: Option<&_>| Ok(scene.rights.title(scene.epoch));
    let deadline = Instant::now() + Duration::from_secs(60);
    thread::scope(|scope| {
        let backup = scope.spawn(|| {
            let never = AtomicBool::new(false);
            let held = |_: &_, _: Option<&_>| Confirmation::Held;
            // Each is another run.
            static RUNS: AtomicU64 = AtomicU64::new(0);
            let me = format!("hostb/{}", RUNS.fetch_add(1, Ordering::Relaxed));
            let me = (&identity, me.as_str());
            Receiver::connect(
                (address, &plain),
                me,
                &host,
                &settings,
                deadline,
                &never,
                held,
            )
        });
        let standing = scene.tenure.standing();
        let admit = |backup: &str, _: Option<&_>| {
            let epoch = standing.admit(backup.parse().unwrap(), Duration::from_secs(60));
            Admission::Admitted(epoch.unwrap())
        };
        let accepted = listener.accept_backup(&identity, &host, title, &settings, None, admit);
        (accepted.unwrap(), backup.join().unwrap().unwrap())
    })
}

pub(in crate::roles) fn entry(payload: Payload) -> Entry {
    Entry {
        point: ExecutionPoint::at_exit(1),
        check: None,
        payload,
    }
}

/// It takes up no time of those that the guest names: it hears nothing of the session that it could have. Once it is
/// named the guest that runs takes it.
#[test]
fn a_host_that_the_guest_does_not_name_is_told_so_at_once() {
    let scene = primary();
    let folder = tempfile::tempdir().unwrap();
    let keys = key_set(
        folder.path(),
        &[(Role::Host, "hosta"), (Role::Host, "hostc")],
    )
    .unwrap();
    let endpoint = |name| Endpoint::read(&keys.key(name), &keys.trust()).unwrap();
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &endpoint("hosta")).unwrap();
    let address = listener.local_addr();
    let sessions = Sessions::alone(
        scene.tenure.standing(),
        Lanes::default().look,
        &Events::default(),
    );
    let door = Door {
        identity: identity(),
        host_report: HostReport::default(),
        settings: Settings::default(),
        rights: scene.rights.clone(),
        events: Events::default(),
        hosts: ["hosta", "hostb"]
            .map(|name| name.parse().unwrap())
            .into_iter()
            .collect(),
    };
    door.keep(listener, sessions);
    let is_welcome = AtomicBool::new(false);
    let connect = |patience: u64| {
        Receiver::connect(
            (address, &endpoint("hostc")),
            (&identity(), "hostc/1"),
            &HostReport::default(),
            &Settings::default(),
            Instant::now() + Duration::from_secs(patience),
            &AtomicBool::new(false),
            |_, _| {
                is_welcome.store(true, Ordering::Relaxed);
                Confirmation::NotHeld("it has seen enough".to_owned())
            },
        )
    };
    match connect(2) {
        Err(ConnectError::Refused { refusal, .. }) => {
            let text = refusal.to_string();
            assert!(text.contains("hostc is not among the hosts"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!is_welcome.load(Ordering::Relaxed));
    let define = serde_json::from_value(
        serde_json::json!({"what": "define", "by": "anna", "definition": {
            "vm": "db", "memory_mib": 1, "kernel": {"path": "/k", "sha256": "0".repeat(64)}, "initrd": null,
            "append": "", "mac": "52:54:00:00:00:01", "clock": "host", "disk": null, "export": null,
            "heartbeat_timeout_ms": null, "lag": {},
        }}),
    );
    scene.rights.arbiter().operate(define.unwrap()).unwrap();
    connect(60).unwrap_err();
    assert!(is_welcome.load(Ordering::Relaxed), "all hosts are named");
}

/// The backup may be the one that goes on: no output may leave because its host calls nothing an entry.
#[test]
fn outputs_wait_while_it_is_asked_who_goes_on() {
    let scene = primary();
    let standing = scene.tenure.standing();
    let look = Lanes::default().look;
    let sessions = Sessions::alone(standing, look, &Events::default());
    let (sender, receiver) = session(&scene);
    sessions.offer(sender.clone(), false);
    let mut log = log_with_state(&sessions);
    let shown = tempfile::NamedTempFile::new().unwrap();
    let console = ConsoleSink::open(false, Some(shown.path())).unwrap();
    let outlet = Outlet::new(None, console).patient();
    let mut gate = Committed::new(outlet, None, sessions.clone(), Waits::default());
    let mut submit = |text: &str, lsn| gate.submit(Output::Console(text.into()), lsn);
    let has = || fs::read_to_string(shown.path()).unwrap();

    submit("before ", None);
    assert_eq!(has(), "before ", "nobody has to know of it");
    assert!(!log.protects(), "it has not taken the state over");
    receiver.executed(Lsn(3));
    wait_until("it is heard of", || sender.executed() == Lsn(3));
    assert!(!log.protects(), "the disk server does not know of it");
    let known = || {
        let standing = scene.tenure.standing();
        standing.is_acknowledged(scene.epoch + 1, Duration::ZERO)
    };
    wait_until("the disk server knows of it", known);
    assert!(log.protects());
    assert!(!log.protects());
    let protected = Payload::Protected {
        clock: 1,
        wall_clock: 2,
    };
    assert!(log.append(entry(protected)).is_ok());

    let Scene { folder, server, .. } = &scene;
    let (address, folder) = (server.address.clone(), folder.path().to_owned());
    let Scene { server, tenure, .. } = scene;
    drop(server);
    drop(receiver);
    sender.wait_over();
    assert!(log.is_kept() && !log.is_replayed());
    let lsn = log.append(entry(Payload::Progress)).ok();
    submit("held ", lsn);
    submit("as well ", None);
    assert_eq!(has(), "before ");

    assert_eq!(
        sessions.wants_backup(),
        Some(false),
        "it is asked who goes on"
    );
    let server = DiskServer::start_at(address.as_str(), &folder);
    wait_until("it goes on alone", || has() == "before held as well ");
    assert!(!log.is_kept());
    submit("after", None);
    assert_eq!(has(), "before held as well after");
    tenure.end();
    drop(server);
}

/// The log of the session that begins, with all of the guest's state in it.
fn log_with_state(sessions: &Sessions) -> SessionLog {
    let mut log = SessionLog::new(sessions.clone());
    assert!(log.begins());
    for part in [
        StatePart::Begin(1),
        StatePart::Memory(0),
        StatePart::Commit(Vec::new()),
    ] {
        assert!(log.append(entry(Payload::State(part))).is_ok());
    }
    log.flush();
    log
}

/// What a guest of the tests needs of a host.
pub(in crate::roles) fn little_needs() -> Capabilities {
    Capabilities {
        memory_mib: 1,
        processor: Text::cut("a processor"),
        instructions: 1,
        paging: Paging::Shadow,
        exports: BTreeSet::new(),
    }
}

/// A session that protects the guest: its log, and who the backup is.
pub(in crate::roles) fn protected(
    scene: &Scene,
    sessions: &Sessions,
) -> (SessionLog, Sender, Receiver, Claimant) {
    let (sender, receiver) = session(scene);
    let backup = scene
        .rights
        .look()
        .unwrap()
        .backup
        .expect("one is admitted");
    sessions.offer(sender.clone(), false);
    let mut log = log_with_state(sessions);
    receiver.executed(Lsn(3));
    wait_until("it protects the guest", || log.protects());
    let (clock, wall_clock) = (1, 2);
    let protected = Payload::Protected { clock, wall_clock };
    assert!(log.append(entry(protected)).is_ok());
    log.flush();
    (log, sender, receiver, backup)
}

#[test]
fn a_guest_is_handed_over_when_its_backup_has_everything() {
    let scene = primary();
    let look = Lanes::default().look;
    let sessions = Sessions::alone(scene.tenure.standing(), look, &Events::default());
    let view = scene.epoch + 1;
    assert_eq!(
        sessions.ask_hand_over(scene.epoch),
        Err(NotHandedOver::Unprotected)
    );
    let (mut log, sender, receiver, backup) = protected(&scene, &sessions);
    let shown = tempfile::NamedTempFile::new().unwrap();
    let console = ConsoleSink::open(false, Some(shown.path())).unwrap();
    let outlet = Outlet::new(None, console).patient();
    let mut gate = Committed::new(outlet, None, sessions.clone(), Waits::default());

    let earlier = sessions.ask_hand_over(scene.epoch);
    assert_eq!(earlier, Err(NotHandedOver::OtherView(view)));
    assert!(!log.hands_over());
    assert_eq!(sessions.ask_hand_over(view), Ok(()));
    assert!(log.hands_over());
    let lsn = log.append(entry(Payload::Progress)).ok();
    gate.submit(Output::Console("acknowledged".into()), lsn);
    let (arbiter, vm) = (scene.rights.arbiter(), scene.rights.vm());
    thread::scope(|scope| {
        let backup_goes_on = || {
            // What it has not executed is what it would have to replay.
            wait_until("it has all", || sender.acked() == Lsn(5));
            assert!(!sender.is_lost());
            receiver.executed(Lsn(5));
            sender.wait_over();
            assert_eq!(sender.lost(), Some(LossReason::HandedOver));
            let left = fs::read_to_string(shown.path()).unwrap();
            assert_eq!(
                left, "acknowledged",
                "before anybody else may run the guest"
            );
            let never = AtomicBool::new(false);
            arbiter.claim(vm, view, (&backup, Next::Alone), &never, |_| {})
        };
        let won = scope.spawn(backup_goes_on);
        match log.hand_over() {
            Err(Interruption::Halt(reason)) => {
                assert!(reason.contains(backup.as_str()), "{reason}");
            }
            _ => panic!("it goes on"),
        }
        assert!(matches!(won.join().unwrap(), Ok(Claim::Won { .. })));
    });
    let reason = scene.halted.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(reason.contains("handed over"), "{reason}");
    wait_until("it is over", || {
        sessions.ask_hand_over(view) == Err(NotHandedOver::Ending)
    });
}

/// It says so, and the guest goes on without a backup.
#[test]
fn a_host_without_threads_takes_no_backup() {
    let scene = primary();
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("events");
    let events = Events::open(Some(&told)).unwrap();
    let look = Lanes::default().look;
    let sessions = Sessions::alone(scene.tenure.standing(), look, &events);
    let mut log = SessionLog::new(sessions.clone());
    let (sender, _receiver) = session(&scene);
    LEFT.set(0);
    sessions.offer(sender.clone(), false);
    LEFT.set(u32::MAX);
    assert!(matches!(sender.lost(), Some(LossReason::Unserved(_))));
    assert!(!log.begins() && !log.is_kept());
    events.drain();
    let told = fs::read_to_string(told).unwrap();
    assert!(
        told.contains("join-cut") && told.contains("thread"),
        "{told}"
    );

    // Nor one whose memory it could not send, and the next one may come.
    let (sender, _receiver) = session(&scene);
    sessions.offer(sender.clone(), false);
    assert!(log.begins());
    log.lose_replay(&io::Error::other("no thread"));
    assert!(!log.is_replayed());
    sender.wait_over();
    let alone = || sessions.0.state.lock().live.is_alone();
    wait_until("it is alone again", alone);
    assert!(!log.is_kept());
    scene.tenure.end();
}

/// A backup that joins and is lost is none that was lost.
#[test]
fn a_join_that_is_cut_is_no_loss() {
    let scene = primary();
    let standing = scene.tenure.standing();
    let look = Lanes::default().look;
    let sessions = Sessions::alone(standing.clone(), look, &Events::default());
    let mut log = SessionLog::new(sessions.clone());
    for _ in 0..2 {
        assert_eq!(sessions.wants_backup(), Some(true));
        let (sender, receiver) = session(&scene);
        sessions.offer(sender.clone(), false);
        assert_eq!(sessions.wants_backup(), Some(false), "one is there");
        assert!(log.begins() && !log.begins());
        assert_eq!(sessions.wants_backup(), Some(false), "it joins");
        assert!(log.is_kept() && log.is_replayed() && !log.protects());
        drop(receiver);
        sender.wait_over();
        let alone = || sessions.0.state.lock().live.is_alone();
        wait_until("it is alone again", alone);
        assert!(!log.is_kept() && !log.protects());
    }
    assert_eq!(sessions.wants_backup(), Some(true));
    assert_eq!(sessions.epoch(), scene.epoch + 2, "each had one of its own");
    assert_eq!(standing.wait(Duration::ZERO), None, "nothing was asked");
    scene.tenure.end();
}

/// The view service would propose another host for the epoch that has begun, which would be refused.
#[test]
fn no_other_backup_is_wanted_between_an_admission_and_its_session() {
    let scene = primary();
    let look = Lanes::default().look;
    let sessions = Sessions::alone(scene.tenure.standing(), look, &Events::default());
    assert_eq!(sessions.wants_backup(), Some(true));
    let Admission::Admitted(epoch) = sessions.admit("hostb/first".parse().unwrap()) else {
        panic!("it is not admitted");
    };
    assert_eq!(
        (sessions.epoch(), epoch),
        (scene.epoch + 1, scene.epoch + 1)
    );
    assert_eq!(sessions.wants_backup(), Some(false));
    let (sender, receiver) = session(&scene);
    sessions.offer(sender.clone(), false);
    assert_eq!(sessions.wants_backup(), Some(false));
    drop(receiver);
    wait_until("it is gone", || sessions.wants_backup() == Some(true));
    scene.tenure.end();
    assert!(matches!(
        sessions.admit("hostb/late".parse().unwrap()),
        Admission::NotNow(_)
    ));
    assert_eq!(sessions.wants_backup(), Some(true), "it does not come");
}
