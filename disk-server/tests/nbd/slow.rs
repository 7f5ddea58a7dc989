//! Clients that are slow, or frozen, and what they cost the others: nothing.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use disk_server::arbiter::{Claim, Next};
use disk_server::export::Export;
use disk_server::nbd::protocol::{Command, CommandFlags, ErrorCode, RequestHeader};
use disk_server::server::Limits;

use crate::client::{Client, Negotiation};
use crate::disks::{Gated, Local};
use crate::support::{SetWhenDropped, until};

const MIB: usize = 1 << 20;
const NONE: CommandFlags = CommandFlags::empty();

/// Nobody is sent away, whatever it does.
fn patient() -> Limits {
    Limits {
        message: Duration::from_secs(3600),
        ..Limits::default()
    }
}

/// Wins an epoch of the machine.
fn claim(server: &Local, epoch: u64) {
    let (vm, who) = ("db".parse().unwrap(), format!("a/{epoch}").parse().unwrap());
    let stop = AtomicBool::new(false);
    let claim = (server.arbiter()).claim(&vm, epoch - 1, (&who, Next::Start), &stop, |_| {});
    assert_eq!(claim.unwrap(), Claim::Won { epoch });
}

/// Small and large requests of a client that does all as it should.
fn works(client: &mut Client) {
    client.write(4096, &[7; 4096]).unwrap();
    assert_eq!(client.read(4096, 4096).unwrap(), [7; 4096]);
    let large = vec![9; 32 * MIB];
    client.write(0, &large).unwrap();
    assert!(client.read(0, 32 << 20).unwrap() == large);
    client.flush().unwrap();
}

#[test]
fn clients_that_take_no_replies_cost_the_others_nothing() {
    let server = Local::start_with(Gated::new(32 * MIB), false, patient());
    let mut frozen = Vec::new();
    for flags in [NONE, CommandFlags::DF] {
        let mut client = Client::open(server.nbd, "disk");
        for _ in 0..40 {
            client
                .send((Command::Read, flags), 0, 32 << 20, &[])
                .unwrap();
        }
        frozen.push(client);
    }
    works(&mut Client::open(server.nbd, "disk"));
    let simple = Negotiation::start(server.nbd).unwrap();
    works(&mut simple.go("disk").unwrap().unwrap());
}

#[test]
fn clients_that_announce_much_and_send_nothing_cost_the_others_nothing() {
    let server = Local::start_with(Gated::new(32 * MIB), false, patient());
    let announced: Vec<_> = (0..40)
        .map(|_| {
            let mut client = Client::open(server.nbd, "disk");
            let write = (Command::Write, NONE);
            client.send(write, 0, 32 << 20, &[]).unwrap();
            client
        })
        .collect();
    works(&mut Client::open(server.nbd, "disk"));
    drop(announced);
}

/// A client that asks for much and takes nothing, and one that announces much and sends nothing.
fn stuck(server: &Local, export: &str) -> [Client; 2] {
    let [mut takes_nothing, mut sends_nothing] = [(); 2].map(|()| Client::open(server.nbd, export));
    for flags in [NONE, CommandFlags::DF].into_iter().cycle().take(40) {
        takes_nothing
            .send((Command::Read, flags), 0, 32 << 20, &[])
            .unwrap();
    }
    let write = (Command::Write, NONE);
    sends_nothing.send(write, 0, 32 << 20, &[]).unwrap();
    [takes_nothing, sends_nothing]
}

#[test]
fn the_host_that_runs_a_machine_is_behind_nobody() {
    let disk = || Box::new(Gated::new(32 * MIB));
    let (disk_name, other_name) = ("disk".parse().unwrap(), "other".parse().unwrap());
    let vm = "db".parse().unwrap();
    let exports = vec![
        Export::new(disk_name, Some(vm), false, disk()),
        Export::new(other_name, None, false, disk()),
    ];
    let server = Local::export(exports, patient());
    let mut others: Vec<_> = (0..6).map(|_| stuck(&server, "disk")).collect();
    others.extend((0..12).map(|_| stuck(&server, "other")));
    for epoch in 1..=3 {
        claim(&server, epoch);
        let writer = format!("disk@db:{epoch}");
        works(&mut Client::open(server.nbd, &writer));
        // The host is frozen, or gone: another one takes over, or the same one in a new connection.
        others.push(stuck(&server, &writer));
        works(&mut Client::open(server.nbd, &writer));
    }
}

#[test]
fn a_client_that_takes_or_sends_a_little_now_and_then_is_sent_away() {
    let limits = Limits {
        message: Duration::from_millis(300),
        connections: 1,
        ..Limits::default()
    };
    let server = Local::start_with(Gated::new(32 * MIB), false, limits);
    let there_is_room = || Negotiation::start(server.nbd).is_ok();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut slow = Client::open(server.nbd, "disk");
        let read = (Command::Read, CommandFlags::DF);
        for _ in 0..16 {
            slow.send(read, 0, 32 << 20, &[]).unwrap();
        }
        let _end = SetWhenDropped(&done);
        let done = &done;
        scope.spawn(move || {
            let mut little = [0; 64 << 10];
            while !done.load(Ordering::SeqCst) {
                // When it was sent away this fails at once, and nobody minds.
                let _ = slow.stream.read(&mut little);
                thread::sleep(Duration::from_millis(10));
            }
        });
        until("who takes little is sent away", there_is_room);
    });
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut slow = None;
        until("there is room for the next one", || {
            slow = Client::try_open(server.nbd, "disk").ok();
            slow.is_some()
        });
        let mut slow = slow.unwrap().unwrap();
        slow.send((Command::Write, NONE), 0, 32 << 20, &[]).unwrap();
        let _end = SetWhenDropped(&done);
        let done = &done;
        scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                let _ = slow.stream.write(&[1]);
                thread::sleep(Duration::from_millis(10));
            }
        });
        until("who sends little is sent away", there_is_room);
    });
}

#[test]
fn long_requests_need_little_memory() {
    let limits = Limits {
        memory: 0,
        ..Limits::default()
    };
    let disk = Gated::new(8 * MIB);
    let server = Local::start_with(disk.clone(), true, limits);
    let whole: Vec<u8> = (0..8 * MIB).map(|at| (at >> 12) as u8).collect();
    claim(&server, 1);
    let mut client = Client::open(server.nbd, "disk@db:1");
    let flushes = disk.flushes();
    let forced = (Command::Write, CommandFlags::FUA);
    client.call(forced, 0, 8 << 20, &whole).unwrap().unwrap();
    assert_eq!(disk.flushes(), flushes + 1, "once, behind all of it");
    thread::scope(|scope| {
        for structured in [true, false] {
            let (address, whole) = (server.nbd, &whole);
            scope.spawn(move || {
                let mut negotiation = Negotiation::start(address).unwrap();
                if structured {
                    negotiation.structured("disk").unwrap().unwrap();
                }
                let mut client = negotiation.go("disk").unwrap().unwrap();
                for length in [1, 4096, 300_000, 8 << 20] {
                    let read = client.read(0, length).unwrap();
                    assert!(read == whole[..length as usize]);
                    if structured {
                        let read = (Command::Read, CommandFlags::DF);
                        let read = client.call(read, 0, length, &[]).unwrap().unwrap();
                        assert!(read.bytes == whole[..length as usize]);
                    }
                }
            });
        }
    });
    // The right ends: nothing of a long write lands, and the connection stays in step.
    claim(&server, 2);
    let landed = disk.landed();
    let refused = client.write(0, &vec![0; 8 * MIB]);
    assert_eq!(refused, Err(ErrorCode::NotPermitted));
    assert_eq!(disk.landed(), landed);
    assert!(client.read(0, 8 << 20).unwrap() == whole);
}

#[test]
fn a_server_that_ends_does_what_it_began_and_refuses_the_rest() {
    let disk = Gated::new(MIB);
    let limits = Limits {
        requests: 1,
        ..Limits::default()
    };
    let server = Local::start_with(disk.clone(), false, limits);
    disk.set_open(false);
    let mut client = Client::open(server.nbd, "disk");
    let requests: Vec<u8> = (1..=4_u64)
        .flat_map(|cookie| {
            let header = RequestHeader {
                flags: NONE,
                command: Command::Write,
                cookie,
                offset: 512 * cookie,
                length: 512,
            };
            [&header.encode()[..], &[1; 512]].concat()
        })
        .collect();
    client.expect_writes(4);
    client.stream.write_all(&requests).unwrap();
    until("the first write waits at the gate", || disk.waiting() == 1);
    let mut other = server.connect_to_arbiter();
    // Its greeting: the connection is among those that are ended.
    other.read_exact(&mut [0]).unwrap();
    server.stop();
    // The arbiter's connections end when no session begins anything new.
    let _ = other.read_to_end(&mut Vec::new());
    disk.set_open(true);
    let results: Vec<_> = (0..4)
        .map(|_| client.receive().unwrap().result.map(|_| ()))
        .collect();
    assert_eq!(results[0], Ok(()));
    assert_eq!(results[2..], [Err(ErrorCode::Shutdown); 2], "{results:?}");
    let written = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(disk.landed(), written);
}
