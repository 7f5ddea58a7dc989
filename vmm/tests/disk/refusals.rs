//! A writer whose right has ended.

use std::sync::Arc;

use ftvm_vmm::disk::progress::Reached;
use ftvm_vmm::disk::serving::Serving;
use ftvm_vmm::disk::{DiskOp, RefusalNotice};

use crate::fake_server::FakeServer;
use crate::world::{Guest, Log, PATIENCE, quick};

fn write(byte: u8) -> DiskOp {
    DiskOp::Write {
        offset: 512,
        data: vec![byte; 512],
    }
}

#[test]
fn a_superseded_writer_connects_anew_and_takes_over() {
    let server = FakeServer::start(4096, 1);
    let log = Log::new();
    let mut guest = Guest::new(&server, quick(), Some(&log));
    guest.now(write(1));
    for byte in 2..5 {
        server.supersede();
        guest.now(write(byte));
    }
    assert!(server.state().cached == guest.model);
}

#[test]
fn who_is_refused_as_the_writer_is_told_so() {
    let server = FakeServer::start(4096, 1);
    let log = Log::new();
    let (send, notices) = crossbeam_channel::unbounded();
    let serving = Serving {
        log: Some(Arc::new(log.clone())),
        refused: RefusalNotice::new(move |refused| send.send(refused).unwrap_or(())),
        ..Serving::default()
    };
    let mut guest = Guest::served(&server, quick(), true, serving);
    guest.now(write(1));
    assert!(notices.is_empty());
    server.begin_epoch(2);
    guest.submit(write(2), None);
    // First the change, and then every attempt to open the disk again.
    let change = notices.recv_timeout(PATIENCE).unwrap();
    assert_eq!(change.epoch, 1);
    assert!(change.reason.contains("not permitted"), "{change:?}");
    let opening = notices.recv_timeout(PATIENCE).unwrap();
    assert!(opening.reason.contains("epoch over"), "{opening:?}");
    log.set(Reached::Alone { epoch: Some(2) });
    guest.complete_all();
    assert!(server.state().cached == guest.model);
}
