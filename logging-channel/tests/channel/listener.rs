//! Where a primary listens.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use logging_channel::Settings;
use logging_channel::entry::{Lsn, Payload};
use logging_channel::receiver::Next;
use logging_channel::session::{AcceptError, BindError};

use crate::logs::at;
use crate::peers::{LONG, accept, connect, eventually, identity, listen, listen_at, pair, patient};

#[test]
fn a_session_outlives_its_listener() {
    let mut pair = pair(&patient(), &patient());
    drop(pair.listener);
    pair.sender.append_and_flush(at(1, Payload::Progress));
    assert!(matches!(pair.receiver.next(LONG), Next::Entry(..)));
}

#[test]
fn a_primary_on_every_address_has_heartbeats_from_the_one_that_was_dialled() {
    let mut listener = listen_at("0.0.0.0:0".parse().expect("an address")).expect("bound");
    // 127.0.0.2 is this host too, and not what routing would choose to answer 127.0.0.1 from.
    let address = (Ipv4Addr::new(127, 0, 0, 2), listener.local_addr().port()).into();
    let settings = Settings {
        heartbeat_timeout: Duration::from_secs(2),
        ..patient()
    };
    thread::scope(|scope| {
        let backup = scope.spawn(|| connect(address, &identity(), &settings));
        let sender = accept(&mut listener, &settings, None).expect("a backup");
        let receiver = backup.join().expect("no panic").expect("a session");
        // Only heartbeats carry this: nothing is appended.
        sender.released(Lsn(5));
        eventually("a heartbeat comes", || receiver.released() == Lsn(5));
    });
}

#[test]
fn waiting_for_a_backup_can_be_cancelled() {
    let mut listener = listen();
    let cancel = AtomicBool::new(false);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| accept(&mut listener, &patient(), Some(&cancel)));
        cancel.store(true, Ordering::Relaxed);
        assert!(matches!(
            waiting.join().expect("no panic"),
            Err(AcceptError::Cancelled)
        ));
    });
}

#[test]
fn a_port_in_use_is_named() {
    let first = listen();
    match listen_at(first.local_addr()) {
        Err(
            error @ BindError::InUse {
                protocol: "TCP", ..
            },
        ) => {
            let message = error.to_string();
            let port = first.local_addr().to_string();
            assert!(
                message.contains(&port) && message.contains("choose another"),
                "{message}"
            );
        }
        other => panic!("{other:?}"),
    }
    // The log's port is free, the heartbeats' is not.
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    assert!(matches!(
        listen_at(udp.local_addr().expect("bound")),
        Err(BindError::InUse {
            protocol: "UDP",
            ..
        })
    ));
}

#[test]
fn an_address_of_another_host_is_named() {
    // TEST-NET-1: nobody's.
    let address = "192.0.2.1:0".parse().expect("an address");
    assert!(matches!(listen_at(address), Err(BindError::NotOurs { .. })));
}

#[test]
fn a_dropped_listener_frees_its_port() {
    let pair = pair(&patient(), &patient());
    let address = pair.listener.local_addr();
    drop(pair);
    TcpListener::bind(address).expect("free again");
}
