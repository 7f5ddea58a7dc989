//! A disk server that is away, silent, or another one.

use std::io::Write as _;
use std::net::TcpListener;

use super::one_way::OneWay;
use super::*;
use crate::roles::claim::ClaimFailure;

/// Ends the connections that come to the address of a server that is away, until there were so many.
fn turn_away(address: &ServerAddress, connections: usize) {
    let listener = TcpListener::bind(address.as_str()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (deadline, mut came) = (Instant::now() + LONG, 0);
    while came < connections {
        assert!(Instant::now() < deadline, "it tries again");
        match listener.accept() {
            Ok(_) => came += 1,
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Both a shutdown and an error may come while the disk server is away.
#[test]
fn the_end_is_told_to_a_disk_server_that_comes_back() {
    for in_order in [true, false] {
        let scene = primary();
        let Scene { epoch, tenure, .. } = scene;
        let (folder, address) = (scene.folder, scene.server.address.clone());
        drop(scene.server);
        let ended = thread::spawn(move || if in_order { tenure.end() } else { drop(tenure) });
        turn_away(&address, 3);
        let server = DiskServer::start_at(address.as_str(), folder.path());
        ended.join().unwrap();
        assert!(server.is_stopped_at(epoch + 1), "{in_order}");
        assert!(scene.halted.try_recv().is_err());
    }
}

/// One whose state was lost knows nothing that a host could believe, until the first one is back.
#[test]
fn a_host_does_not_heed_another_disk_server_at_the_address() {
    let scene = primary();
    let (rights, epoch) = (&scene.rights, scene.epoch);
    let address = scene.server.address.clone();
    drop(scene.server);
    let elsewhere = tempfile::tempdir().unwrap();
    let other = DiskServer::start_at(address.as_str(), elsewhere.path());
    // There, another one runs the guest in a later epoch.
    for _ in 0..=epoch {
        other.rights().start(&NEVER).unwrap();
    }
    assert!(matches!(
        rights.vouch_for(&rights.title(epoch), None),
        Confirmation::Unknown(_)
    ));
    scene.tenure.standing().tell(Input::Doubt);
    let (told, reasons) = mpsc::channel();
    thread::scope(|scope| {
        let contest = scope.spawn(move || {
            let me = rights.claimant();
            let waits = |reason: &str| told.send(reason.to_owned()).unwrap();
            rights.claim((epoch, me), &Next::Alone, waits)
        });
        let reason = reasons.recv_timeout(LONG).unwrap();
        assert!(reason.contains("another disk server"), "{reason}");
        assert!(scene.halted.try_recv().is_err());
        let before = other.record();
        drop(other);
        let _first = DiskServer::start_at(address.as_str(), scene.folder.path());
        let won = contest.join().unwrap();
        assert_eq!(won, Claim::Won { epoch: epoch + 1 });
        assert_eq!(before.0, epoch + 1, "nothing was claimed at the other one");
        drop(scene.tenure);
    });
}

/// How long a disk server is silent, nobody knows.
#[test]
fn a_loss_is_told_while_the_disk_server_owes_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let server = DiskServer::start(folder.path());
    let one_way = OneWay::to(&server.address);
    let rights = one_way.rights();
    let epoch = rights.start(&NEVER).unwrap();
    let told = folder.path().join("events");
    let events = Events::open(Some(&told)).unwrap();
    let core = Core::holding(rights.claimant().clone(), epoch);
    let pace = Duration::from_millis(10);
    let tenure = Tenure::start(rights, core, BACKUP, pace, &events, halt().0);
    let (announce, session) = session();
    tenure.standing().pair_with(session);

    one_way.muted.store(true, Ordering::SeqCst);
    let before = one_way.asked.load(Ordering::SeqCst);
    wait_until("a look", || one_way.asked.load(Ordering::SeqCst) > before);
    announce.send(lost()).unwrap();
    wait_until("its loss is told", || {
        std::fs::read_to_string(&told)
            .unwrap()
            .contains("peer-lost")
    });
    one_way.muted.store(false, Ordering::SeqCst);
    let verdict = tenure.standing().wait(LONG);
    assert!(matches!(verdict, Some(Verdict::Won { .. })), "{verdict:?}");
}

#[test]
fn who_does_not_hear_the_disk_server_does_not_win_unheard() {
    let folder = tempfile::tempdir().unwrap();
    let server = DiskServer::start(folder.path());
    let one_way = OneWay::to(&server.address);
    let primary = one_way.rights();
    let epoch = primary.start(&NEVER).unwrap();

    one_way.muted.store(true, Ordering::SeqCst);
    let before = one_way.asked.load(Ordering::SeqCst);
    let contest = {
        let primary = Arc::clone(&primary);
        thread::spawn(move || {
            let me = primary.claimant();
            primary.claim((epoch, me), &Next::Alone, |_| {})
        })
    };
    wait_until("it asks", || one_way.asked.load(Ordering::SeqCst) > before);
    let another = server.rights();
    assert_eq!(another.start(&NEVER).unwrap(), epoch + 1);
    one_way.muted.store(false, Ordering::SeqCst);
    assert!(matches!(contest.join().unwrap(), Claim::Lost { .. }));
}

#[test]
fn a_backup_waits_at_its_start_for_a_disk_server_that_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let server = DiskServer::start(folder.path());
    let (rights, address) = (server.rights(), server.address.clone());
    drop(server);
    let at_once =
        rights.wait_for_server(Some(Duration::ZERO), |_| panic!("it is too late to wait"));
    assert!(matches!(at_once, Err(ClaimFailure::Call(_))), "{at_once:?}");
    let (told, reasons) = mpsc::channel();
    let waits = thread::spawn(move || {
        let told = |reason: &str| told.send(reason.to_owned()).unwrap();
        rights.wait_for_server(None, told)
    });
    let reason = reasons.recv_timeout(LONG).unwrap();
    assert!(reason.contains(address.as_str()), "{reason}");
    turn_away(&address, 3);
    let _server = DiskServer::start_at(address.as_str(), folder.path());
    waits.join().unwrap().unwrap();
}

#[test]
fn what_is_no_disk_server_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = ArbiterConfig {
        server: listener.local_addr().unwrap().into(),
        endpoint: Endpoint::plain(),
        host: HostName::of_this_host(),
        force: Force::No,
    };
    let other = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
    });
    let rights = Rights::new(&config, "db").unwrap();
    let waited = rights.wait_for_server(None, |reason| panic!("{reason}"));
    assert!(matches!(waited, Err(ClaimFailure::Call(_))), "{waited:?}");
    other.join().unwrap();
}
