//! Epochs where the disk hangs.

use std::io::Write as _;
use std::time::Duration;

use disk_server::nbd::protocol::ReplyType;
use disk_server::server::Limits;

use crate::client::{Client, Negotiation};
use crate::disks::{Gated, Local};
use crate::fencing::{BLOCK, WRITE, claim, vm};
use crate::support::until;

/// What the arbiter's protocol says first.
const HELLO: &str = "{\"ftvm\":\"arbiter\",\"version\":4}\n";

fn claim_line(epoch: u64, who: &str) -> String {
    let expected = epoch - 1;
    format!(
        "{HELLO}{{\"op\":\"compare_and_set\",\"vm\":\"db\",\"expected_epoch\":{expected},\"claimant\":\"{who}\",\"next\":\"start\"}}\n"
    )
}

#[test]
fn a_claim_behind_a_disk_that_hangs_is_told_to_ask_again() {
    let disk = Gated::new(1 << 20);
    let limits = Limits {
        clearing: Duration::from_millis(20),
        ..Limits::default()
    };
    let server = Local::start_with(disk.clone(), true, limits);
    let _open = disk.open_when_dropped();
    claim(&server.arbiter(), 1, "a/1");
    let mut old = Client::open(server.nbd, "disk@db:1");
    disk.set_open(false);
    old.send(WRITE, 0, BLOCK, &[1; BLOCK as usize]).unwrap();
    until("a write is under way", || disk.waiting() == 1);
    for _ in 0..2 {
        let mut stream = server.connect_to_arbiter();
        stream.write_all(claim_line(2, "b/2").as_bytes()).unwrap();
        let answer = std::io::read_to_string(&stream).unwrap();
        // A code that the oldest client takes for "ask again".
        assert!(answer.contains("\"code\":\"busy\""), "{answer}");
        assert!(answer.contains("epoch 2 of db is given to b/2"), "{answer}");
        let refused = Client::try_open(server.nbd, "disk@db:2").unwrap().err();
        assert_eq!(refused.unwrap().reply, ReplyType::ErrShutdown);
    }
    // It is decided all the same.
    assert_eq!(server.arbiter().read(&vm()).unwrap().epoch, 2);
    assert_eq!(disk.landed(), 0);
    disk.set_open(true);
    claim(&server.arbiter(), 2, "b/2");
    assert_eq!(disk.landed(), 1);
    Client::open(server.nbd, "disk@db:2")
        .write(0, &[2; 512])
        .unwrap();
}

#[test]
fn a_disk_that_hangs_takes_no_places_of_clients_that_have_left() {
    const PLACES: usize = 4;
    let disk = Gated::new(1 << 20);
    let limits = Limits {
        connections: PLACES,
        clearing: Duration::from_secs(600),
        ..Limits::default()
    };
    let server = Local::start_with(disk.clone(), true, limits);
    let _open = disk.open_when_dropped();
    claim(&server.arbiter(), 1, "a/1");
    let mut old = Client::open(server.nbd, "disk@db:1");
    disk.set_open(false);
    old.send(WRITE, 0, BLOCK, &[1; BLOCK as usize]).unwrap();
    until("a write is under way", || disk.waiting() == 1);
    // Hosts and clients that ask, hear nothing, and ask anew.
    for _ in 0..3 * PLACES {
        let mut opener = Negotiation::start_when_let_in(server.nbd);
        opener.send_go("disk@db:1");
    }
    for _ in 0..3 * PLACES {
        let mut claimant = server.connect_to_arbiter();
        claimant.write_all(claim_line(2, "b/2").as_bytes()).unwrap();
        until("the claim waits", || {
            server
                .arbiter()
                .read(&vm())
                .is_ok_and(|record| record.epoch == 2)
        });
    }
    until("others are let in", || server.arbiter().warm().is_ok());
    until("others are let in", || {
        Client::try_open(server.nbd, "disk").is_ok_and(|opened| opened.is_ok())
    });
    disk.set_open(true);
    assert!(old.receive().unwrap().result.is_ok());
}

#[test]
fn requests_that_clients_left_in_the_disk_keep_a_bounded_number_of_places() {
    let disk = Gated::new(1 << 20);
    let server = Local::start(disk.clone(), true);
    let _open = disk.open_when_dropped();
    disk.set_open(false);
    until("no more are let in", || {
        match Client::try_open(server.nbd, "disk").unwrap() {
            Ok(mut client) => {
                client.send(WRITE, 0, BLOCK, &[1; BLOCK as usize]).unwrap();
                false
            }
            Err(refused) => {
                assert_eq!(refused.reply, ReplyType::ErrShutdown, "{}", refused.message);
                true
            }
        }
    });
    assert!(disk.waiting() < Limits::default().connections / 4);
    assert!(server.arbiter().warm().is_ok());
    disk.set_open(true);
    until("all are let in again", || {
        Client::try_open(server.nbd, "disk").unwrap().is_ok()
    });
}
