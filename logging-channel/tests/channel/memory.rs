//! Guest memory on its way beside the log.

use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use logging_channel::codec::VERSIONS;
use logging_channel::handshake::{Message, RefusalCode};
use logging_channel::memory::TakeBlocks;
use logging_channel::{LossReason, Settings};

use crate::peers::{
    FakeBackup, LONG, Pair, VERSION, accept, announced, connect, dial, eventually, identity,
    listen, pair, patient,
};

/// Says what came, and how the streams ended.
struct Told {
    blocks: Sender<(u32, Vec<u8>)>,
    ends: Sender<String>,
}

type Heard = (Receiver<(u32, Vec<u8>)>, Receiver<String>);

fn told() -> (Arc<dyn TakeBlocks>, Heard) {
    let ((blocks, came), (ends, ended)) = (unbounded(), unbounded());
    (Arc::new(Told { blocks, ends }), (came, ended))
}

impl TakeBlocks for Told {
    fn take(&self, transfer: u32, block: &[u8]) -> Result<(), String> {
        let _ = self.blocks.send((transfer, block.to_vec()));
        Ok(())
    }

    fn ended(&self, reason: String) {
        let _ = self.ends.send(reason);
    }
}

fn with_streams(memory_streams: u8) -> Settings {
    Settings {
        memory_streams,
        ..patient()
    }
}

#[test]
fn blocks_come_in_order_on_each_stream_and_end_with_the_session() {
    let Pair {
        sender, receiver, ..
    } = pair(&with_streams(3), &patient());
    let (taker, (came, ended)) = told();
    receiver.handle().read_memory(&taker).expect("threads");
    let mut streams = sender.memory_streams().expect("streams");
    assert_eq!(streams.len(), 3);
    for (n, stream) in (0..).zip(&mut streams) {
        for block in 0..100u8 {
            stream.send(n, &[block]).expect("sent");
        }
    }
    let mut next = [0u8; 3];
    for _ in 0..300 {
        let (n, block) = came.recv_timeout(LONG).expect("a block");
        assert_eq!(block, [next[n as usize]]);
        next[n as usize] += 1;
    }
    assert!(ended.is_empty());
    drop(sender);
    for _ in 0..3 {
        ended.recv_timeout(LONG).expect("its end");
    }
    assert!(streams[0].send(0, b"late").is_err(), "the session is over");
}

#[test]
fn a_backup_that_does_not_read_memory_holds_no_thread_beyond_the_session() {
    let Pair {
        sender, receiver, ..
    } = pair(&with_streams(1), &patient());
    let mut streams = sender.memory_streams().expect("streams");
    let sending = thread::spawn(move || {
        let block = vec![7; 60_000];
        while streams[0].send(1, &block).is_ok() {}
    });
    drop(receiver);
    eventually("the sending thread ends", || sending.is_finished());
    eventually("the session is over", || sender.is_lost());
}

#[test]
fn a_memory_stream_that_breaks_ends_the_session_for_its_primary() {
    let mut listener = listen();
    let (backup, sender) = FakeBackup::join(&mut listener, &with_streams(2));
    let events = sender.events();
    drop(backup.memory);
    let mut streams = sender.memory_streams().expect("streams");
    eventually("a block cannot be sent", || {
        streams[1].send(1, b"memory").is_err()
    });
    assert!(matches!(announced(&events), LossReason::Memory(_)));
}

/// It may be that the log still comes: what it says of the guest's end is not to be lost.
#[test]
fn a_memory_stream_that_breaks_is_no_loss_for_its_backup() {
    let Pair {
        sender, receiver, ..
    } = pair(&with_streams(1), &patient());
    let (taker, (_, ended)) = told();
    receiver.handle().read_memory(&taker).expect("threads");
    sender.finish(LONG);
    ended.recv_timeout(LONG).expect("its end");
    assert_eq!(announced(&receiver.events()), LossReason::Orderly);
}

#[test]
fn a_stream_for_no_session_is_refused_and_a_backup_without_streams_is_not_waited_for() {
    let settings = Settings {
        handshake_timeout: Duration::from_millis(300),
        ..with_streams(2)
    };
    let mut listener = listen();
    let address = listener.local_addr();
    thread::scope(|scope| {
        let backup = scope.spawn(move || {
            // For a session that is none.
            let mut stranger = dial(address);
            let (session, number) = (7, 0);
            let memory = Message::Memory { session, number };
            stranger
                .write_all(&memory.encode(VERSION).expect("valid"))
                .expect("sent");
            match Message::read_from(&mut stranger, VERSIONS).expect("an answer") {
                Message::Refuse(refusal) => assert_eq!(refusal.code, RefusalCode::NotUnderstood),
                other => panic!("{other:?}"),
            }
            // One that is ready, and opens none of its streams.
            let _lazy = FakeBackup::lazy(address);
            connect(address, &identity(), &patient()).expect("a session")
        });
        let sender = accept(&mut listener, &settings, None).expect("a backup");
        let receiver = backup.join().expect("no panic");
        assert_eq!(sender.session().session, receiver.session().session);
    });
}
