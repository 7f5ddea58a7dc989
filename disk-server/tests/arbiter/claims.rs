//! Claims against real server processes that race, die and come back.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{GENEROUS, Process, SetWhenDropped, until};
use disk_server::arbiter::{
    Arbiter, CallError, Claim, ClaimError, Claimant, HostName, Next, ServerAddress, Settings,
    VmName,
};
use transport::{Endpoint, Opening, Patience, Service, Stream};

fn vm() -> VmName {
    "db".parse().unwrap()
}

/// Where a server listens that is to come back at the same port. Clients connect from 127.0.0.1, so
/// that none of them can be given that port while the server is away.
const ANEW: &str = "127.0.0.2:0";

/// A server that can be started again at the same address.
struct Reborn<'a> {
    state: &'a std::path::Path,
    address: String,
}

impl Reborn<'_> {
    fn start(&self) -> Process {
        Process::start(&self.address, self.state)
    }
}

/// What claimants were told, held against what may be.
#[derive(Default)]
struct Ledger(Mutex<BTreeMap<u64, Claimant>>);

impl Ledger {
    fn won(&self, epoch: u64, claimant: &Claimant) {
        let mut wins = self.0.lock().unwrap();
        if let Some(other) = wins.insert(epoch, claimant.clone()) {
            assert_eq!(&other, claimant, "epoch {epoch} was given twice");
        }
    }

    fn last(&self) -> u64 {
        self.0.lock().unwrap().keys().copied().max().unwrap_or(0)
    }
}

/// Claims again and again while it is wanted. Heeds every answer.
fn contend(arbiter: &Arbiter, who: &Claimant, ledger: &Ledger, wanted: impl Fn() -> bool) {
    let cancel = AtomicBool::new(false);
    let mut epoch = 0;
    while wanted() {
        let known = ledger.last();
        match arbiter
            .claim(&vm(), epoch, (who, Next::Start), &cancel, |_| ())
            .unwrap()
        {
            Claim::Won { epoch: won } => {
                assert_eq!(won, epoch + 1);
                ledger.won(won, who);
                epoch = won;
            }
            Claim::Lost { epoch: now, holder } => {
                assert!(now > epoch, "a claim for the current epoch lost");
                assert!(now >= known, "epoch {now} after {known} was won");
                assert!(holder.is_some());
                epoch = now;
            }
        }
    }
}

#[test]
fn of_many_racing_claimants_one_wins_each_epoch() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start("127.0.0.1:0", directory.path());
    let ledger = Ledger::default();
    thread::scope(|scope| {
        for n in 0..12 {
            let (server, ledger) = (&server, &ledger);
            scope.spawn(move || {
                let who = format!("host{n}").parse().unwrap();
                contend(&server.arbiter(), &who, ledger, || ledger.last() < 60);
            });
        }
    });
    let wins = ledger.0.into_inner().unwrap();
    let last = *wins.keys().max().unwrap();
    assert!(last >= 60);
    assert_eq!(wins.len() as u64, last, "every epoch has its one winner");
    assert_eq!(server.arbiter().read(&vm()).unwrap().epoch, last);
}

/// How often the server is killed.
const KILLS: usize = 60;

#[test]
fn a_killed_server_forgets_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Process::start(ANEW, directory.path());
    let reborn = Reborn {
        state: directory.path(),
        address: server.address.to_string(),
    };
    let address: ServerAddress = reborn.address.parse().unwrap();
    let ledger = Ledger::default();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for n in 0..6 {
            let (address, ledger, done) = (address.clone(), &ledger, &done);
            scope.spawn(move || {
                let who = format!("host{n}").parse().unwrap();
                let arbiter = Arbiter::new(address, Endpoint::plain(), Settings::default());
                contend(&arbiter, &who, ledger, || !done.load(Ordering::SeqCst));
            });
        }
        // Ends the claimants also when an assertion below fails.
        let _end = SetWhenDropped(&done);
        let mut random = u64::from(std::process::id()) | 1;
        for _ in 0..KILLS {
            // At a random distance behind some progress: within a commit, within an answer,
            // between the two, and while the state is being opened.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let before = ledger.last();
            if random & 3 != 0 {
                until("progress", || ledger.last() > before);
            }
            thread::sleep(Duration::from_micros(random >> 8 & 0x1fff));
            server.kill();
            let answered = ledger.last();
            server = reborn.start();
            let now = server.arbiter().read(&vm()).unwrap();
            assert!(now.epoch >= answered, "{} < {answered}", now.epoch);
        }
    });
    let wins = ledger.0.into_inner().unwrap();
    let last = *wins.keys().max().unwrap();
    assert_eq!(server.arbiter().read(&vm()).unwrap().epoch, last);
    assert_eq!(
        server.arbiter().read(&vm()).unwrap().holder.as_ref(),
        wins.get(&last)
    );
}

#[test]
fn a_claim_waits_for_a_server_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(ANEW, directory.path());
    let address = server.address;
    let arbiter = server.arbiter();
    // The connection goes stale under the client.
    arbiter.warm().unwrap();
    drop(server);
    let reasons = Mutex::new(Vec::new());
    let claim = thread::scope(|scope| {
        let claim = scope.spawn(|| {
            let who = Claimant::generate(&HostName::of_this_host()).unwrap();
            arbiter.claim(
                &vm(),
                0,
                (&who, Next::Start),
                &AtomicBool::new(false),
                |reason| {
                    reasons.lock().unwrap().push(reason.to_string());
                },
            )
        });
        until("the claim waits", || !reasons.lock().unwrap().is_empty());
        let _server = Process::start(&address.to_string(), directory.path());
        claim.join().unwrap()
    });
    assert_eq!(claim.unwrap(), Claim::Won { epoch: 1 });
    let reasons = reasons.into_inner().unwrap();
    assert!(reasons[0].contains(&address.to_string()), "{reasons:?}");
    assert!(
        reasons.windows(2).all(|pair| pair[0] != pair[1]),
        "each reason is told once: {reasons:?}"
    );
}

#[test]
fn a_stale_warm_connection_costs_no_claim() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(ANEW, directory.path());
    let reborn = Reborn {
        state: directory.path(),
        address: server.address.to_string(),
    };
    let arbiter = server.arbiter();
    arbiter.warm().unwrap();
    drop(server);
    let _server = reborn.start();
    let who = Claimant::generate(&HostName::of_this_host()).unwrap();
    let claim = arbiter.claim(
        &vm(),
        0,
        (&who, Next::Start),
        &AtomicBool::new(false),
        |reason| panic!("it waited: {reason}"),
    );
    assert_eq!(claim.unwrap(), Claim::Won { epoch: 1 });
}

/// One whose state was made anew, or another one.
#[test]
fn another_server_at_the_address_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let (state, other) = (directory.path().join("a"), directory.path().join("b"));
    let server = Process::start(ANEW, &state);
    let address = server.address.to_string();
    let at = |state| Reborn {
        state,
        address: address.clone(),
    };
    let arbiter = server.arbiter();
    let who = Claimant::generate(&HostName::of_this_host()).unwrap();
    let claim = |expected, on_wait: &mut dyn FnMut(String)| {
        let cancel = AtomicBool::new(false);
        arbiter.claim(&vm(), expected, (&who, Next::Start), &cancel, |reason| {
            on_wait(reason.to_string());
            cancel.store(true, Ordering::SeqCst);
        })
    };
    assert!(matches!(claim(0, &mut |_| {}), Ok(Claim::Won { epoch: 1 })));
    drop(server);
    // What it would say is what a claim for the first epoch of a machine hopes for.
    let server = at(&other).start();
    let mut reasons = Vec::new();
    for expected in [0, 1] {
        let claim = claim(expected, &mut |reason| reasons.push(reason));
        assert!(matches!(claim, Err(ClaimError::Cancelled)), "{claim:?}");
    }
    for reason in &reasons {
        assert!(reason.contains("another disk server answers"), "{reason}");
    }
    assert_eq!(reasons.len(), 2);
    for call in [
        arbiter.read(&vm()).map(drop),
        arbiter.warm(),
        arbiter.list().map(drop),
        arbiter.forget(&vm()),
    ] {
        assert!(
            matches!(call, Err(CallError::OtherServer { .. })),
            "{call:?}"
        );
    }
    // Nothing was decided there.
    assert_eq!(server.arbiter().read(&vm()).unwrap().epoch, 0);
    drop(server);
    let _server = at(&state).start();
    assert!(matches!(claim(1, &mut |_| {}), Ok(Claim::Won { epoch: 2 })));
}

#[test]
fn a_silent_server_is_no_answer_and_a_claim_can_be_cancelled() {
    // It accepts, in the kernel, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = Settings {
        answer_timeout: Duration::from_millis(20),
        ..Settings::default()
    };
    let arbiter = Arbiter::new(
        silent.local_addr().unwrap().into(),
        Endpoint::plain(),
        settings,
    );
    assert!(matches!(arbiter.read(&vm()), Err(CallError::Silent { .. })));
    let cancel = AtomicBool::new(false);
    let who = Claimant::generate(&HostName::of_this_host()).unwrap();
    let claim = arbiter.claim(&vm(), 0, (&who, Next::Start), &cancel, |_| {
        cancel.store(true, Ordering::SeqCst);
    });
    assert!(matches!(claim, Err(ClaimError::Cancelled)), "{claim:?}");
}

#[test]
fn something_else_at_the_address_is_recognised() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let call = thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::{Read as _, Write as _};
            let (mut stream, _) = other.accept().unwrap();
            stream.write_all(b"SSH-2.0-OpenSSH_10.0\r\n").unwrap();
            // Until the client has had enough.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        Arbiter::new(address.into(), Endpoint::plain(), Settings::default()).read(&vm())
    });
    assert!(matches!(call, Err(CallError::Unopened { .. })), "{call:?}");
}

/// What a disk server does first.
fn answer_plainly(server: &TcpListener) -> Stream {
    let (socket, _) = server.accept().unwrap();
    let opening = Opening::Preface(Service::DiskServer);
    let answered = Endpoint::plain().answer(socket, opening, &[], Patience::of(GENEROUS));
    answered.unwrap()
}

#[test]
fn an_error_of_a_later_server_is_no_refusal() {
    use std::io::{BufRead as _, BufReader, Write as _};
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let reasons = Mutex::new(Vec::new());
    let claim = thread::scope(|scope| {
        scope.spawn(|| {
            for answer in [
                r#"{"answer":"error","code":"moon_phase","message":"it is full"}"#,
                r#"{"answer":"won","epoch":1}"#,
            ] {
                let mut stream = answer_plainly(&server);
                let greeting = r#"{"ftvm":"arbiter","version":4}"#;
                writeln!(stream, "{greeting}").unwrap();
                let mut lines = BufReader::new(stream.clone()).lines();
                // The client's greeting and its claim.
                for _ in 0..2 {
                    lines.next().unwrap().unwrap();
                }
                writeln!(stream, "{answer}").unwrap();
            }
        });
        let who = Claimant::generate(&HostName::of_this_host()).unwrap();
        let arbiter = Arbiter::new(address.into(), Endpoint::plain(), Settings::default());
        let claim = arbiter.claim(
            &vm(),
            0,
            (&who, Next::Start),
            &AtomicBool::new(false),
            |reason| {
                reasons.lock().unwrap().push(reason.to_string());
            },
        );
        if claim.is_err() {
            // The server of this test waits for the next attempt.
            drop(std::net::TcpStream::connect(address));
        }
        claim
    });
    assert_eq!(claim.unwrap(), Claim::Won { epoch: 1 });
    let reasons = reasons.into_inner().unwrap();
    assert!(reasons[0].contains("it is full"), "{reasons:?}");
}

#[test]
fn a_client_speaks_what_the_server_knows_too() {
    use std::io::{BufRead as _, BufReader, Write as _};
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let greetings = [
        (r#"{"ftvm":"arbiter","version":3,"newest":4}"#, true),
        (r#"{"ftvm":"arbiter","version":4,"newest":9}"#, true),
        (r#"{"ftvm":"arbiter","version":3}"#, false),
        (r#"{"ftvm":"arbiter","version":8,"newest":9}"#, false),
    ];
    thread::scope(|scope| {
        scope.spawn(|| {
            for (greeting, _) in greetings {
                let mut stream = answer_plainly(&server);
                writeln!(stream, "{greeting}").unwrap();
                let mut lines = BufReader::new(stream.clone()).lines();
                let _hello = lines.next();
                if let Some(Ok(_)) = lines.next() {
                    writeln!(stream, r#"{{"answer":"echo"}}"#).unwrap();
                }
            }
        });
        for (greeting, fits) in greetings {
            let arbiter = Arbiter::new(address.into(), Endpoint::plain(), Settings::default());
            match arbiter.warm() {
                Ok(()) => assert_eq!((arbiter.version(), fits), (Some(4), true), "{greeting}"),
                Err(error) => {
                    let told = error.to_string();
                    assert!(!fits && told.contains("this ftvm speaks 4"), "{told}");
                    assert_eq!(arbiter.version(), None);
                }
            }
        }
    });
}

#[test]
fn a_server_that_lost_its_state_wins_nobody_anything() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start("127.0.0.1:0", directory.path());
    let who = Claimant::generate(&HostName::of_this_host()).unwrap();
    let claim = server.arbiter().claim(
        &vm(),
        5,
        (&who, Next::Start),
        &AtomicBool::new(false),
        |_| (),
    );
    assert!(
        matches!(
            claim,
            Err(ClaimError::WentBack {
                expected: 5,
                found: 0,
                ..
            })
        ),
        "{claim:?}"
    );
}
