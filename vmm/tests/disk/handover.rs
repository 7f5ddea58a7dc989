//! A backup's memory of what the server may still lose, from its gate to the service of the host
//! that goes live, with a server that loses its power.

use std::sync::Arc;

use crossbeam_channel::Receiver;
use disk_server::nbd::protocol::Command;
use ftvm_vmm::devices::Output;
use ftvm_vmm::disk::followed::Followed;
use ftvm_vmm::disk::guest_disk::GuestDisk;
use ftvm_vmm::disk::service::DiskService;
use ftvm_vmm::disk::serving::Serving;
use ftvm_vmm::disk::unflushed::OWN_FLUSH_BYTES;
use ftvm_vmm::disk::{DiskCompletion, DiskError, DiskOp, DiskPort as _, DiskRequest};
use ftvm_vmm::engine::OutputGate as _;
use ftvm_vmm::events::Events;
use ftvm_vmm::gates::{Suppressed, Unreleased};

use crate::fake_server::FakeServer;
use crate::world::{Log, PATIENCE, quick};

const BLOCK: usize = 512;
const SIZE: usize = 64 * BLOCK;

/// A primary, and the backup that hears of all that its guest does with the disk.
struct Pair {
    server: FakeServer,
    disk: GuestDisk,
    primary: DiskService,
    completions: Receiver<DiskCompletion>,
    gate: Suppressed,
    followed: Followed,
    next: u64,
}

/// The backup, live.
struct Live {
    service: DiskService,
    completions: Receiver<DiskCompletion>,
}

fn serve(disk: &GuestDisk, serving: Serving) -> (DiskService, Receiver<DiskCompletion>) {
    let (complete, completions) = crossbeam_channel::unbounded();
    let service = disk.serve(serving, &Events::default(), move |completion| {
        complete.send(completion).unwrap_or(());
    });
    (service, completions)
}

fn write(block: usize, byte: u8) -> DiskOp {
    DiskOp::Write {
        offset: (block * BLOCK) as u64,
        data: vec![byte; BLOCK],
    }
}

impl Pair {
    fn start(size: usize) -> Self {
        let server = FakeServer::start(size, 1);
        let uri = format!("nbd://{}/disk", server.address);
        // Each host opens it for itself, before the guest runs.
        let open = || GuestDisk::open(&uri.parse().unwrap(), "vm", quick()).unwrap();
        let (primaries, disk) = (open(), open());
        let serving = Serving {
            epoch: Some(1),
            log: Some(Arc::new(Log::new())),
            ..Serving::default()
        };
        let (primary, completions) = serve(&primaries, serving);
        let followed = disk.followed();
        let gate = Suppressed::keeping(Unreleased::default()).following(Some(followed.clone()));
        Self {
            server,
            disk,
            primary,
            completions,
            gate,
            followed,
            next: 0,
        }
    }

    /// Has the guest make a request, on both hosts.
    fn issue(&mut self, op: DiskOp) {
        self.next += 1;
        let request = DiskRequest { id: self.next, op };
        self.gate.submit(Output::Disk(request.clone()), None);
        self.primary.submit(request, None);
    }

    /// Waits for a completion, which both hosts see.
    fn complete(&mut self) -> DiskCompletion {
        let completion = self.completions.recv_timeout(PATIENCE).unwrap();
        self.followed
            .completed(completion.id, completion.result.is_ok());
        completion
    }

    fn now(&mut self, op: DiskOp) {
        self.issue(op);
        assert_eq!(self.complete().result, Ok(Vec::new()));
    }

    /// The primary dies, and the backup goes live.
    fn fail_over(self) -> (FakeServer, Live) {
        drop(self.primary);
        self.server.begin_epoch(2);
        let serving = Serving {
            epoch: Some(2),
            unflushed: self.followed.take(),
            ..Serving::default()
        };
        let (service, completions) = serve(&self.disk, serving);
        let live = Live {
            service,
            completions,
        };
        (self.server, live)
    }
}

impl Live {
    fn now(&mut self, op: DiskOp) -> Result<Vec<u8>, DiskError> {
        self.service.submit(DiskRequest { id: 1000, op }, None);
        self.completions.recv_timeout(PATIENCE).unwrap().result
    }
}

fn block(disk: &[u8], block: usize) -> u8 {
    disk[block * BLOCK]
}

#[test]
fn power_that_fails_after_the_failover_loses_nothing_that_is_flushed_later() {
    let mut pair = Pair::start(SIZE);
    pair.now(write(1, 1));
    pair.now(DiskOp::Flush);
    pair.now(write(2, 2));
    pair.now(write(2, 3));
    let (server, mut live) = pair.fail_over();
    live.now(write(4, 4)).unwrap();
    server.lose_power();
    live.now(DiskOp::Flush).unwrap();
    let stable = server.state().stable.clone();
    assert_eq!([1, 2, 4].map(|n| block(&stable, n)), [1, 3, 4]);
}

#[test]
fn power_that_fails_before_the_failover_loses_nothing_that_is_flushed_later() {
    let mut pair = Pair::start(SIZE);
    pair.now(write(2, 2));
    pair.now(write(2, 3));
    // The primary dies before it has made that again.
    pair.server.state().closed = true;
    pair.server.lose_power();
    let (server, mut live) = pair.fail_over();
    assert_eq!(block(&server.state().cached, 2), 0, "it is lost");
    server.state().closed = false;
    live.now(write(4, 4)).unwrap();
    live.now(DiskOp::Flush).unwrap();
    let stable = server.state().stable.clone();
    assert_eq!([2, 4].map(|n| block(&stable, n)), [3, 4]);
}

#[test]
fn a_server_that_lost_nothing_is_given_nothing_again() {
    let mut pair = Pair::start(SIZE);
    for n in 0..20 {
        pair.now(write(n, 1));
    }
    let (server, mut live) = pair.fail_over();
    live.now(DiskOp::Flush).unwrap();
    let writes = |server: &FakeServer| {
        let done = &server.state().done;
        done.iter().filter(|d| d.0 == Command::Write).count()
    };
    assert_eq!(writes(&server), 20);
    // Neither is it on another connection of the same host.
    live.now(write(1, 2)).unwrap();
    server.drop_connections();
    live.now(DiskOp::Flush).unwrap();
    assert_eq!(writes(&server), 21);
}

#[test]
fn what_a_backup_could_not_follow_is_told_by_the_next_flush() {
    let mut pair = Pair::start(SIZE);
    pair.now(write(1, 1));
    pair.followed.repaired();
    pair.now(write(2, 2));
    let (server, mut live) = pair.fail_over();
    server.lose_power();
    assert_eq!(live.now(DiskOp::Flush), Err(DiskError::Io));
    assert_eq!(live.now(DiskOp::Flush), Ok(Vec::new()));
    assert_eq!(block(&server.state().stable, 2), 2);
}

#[test]
fn what_the_primary_flushed_by_itself_the_backup_forgets() {
    const CHUNK: usize = 1 << 20;
    let mut pair = Pair::start(CHUNK);
    // With what is kept beside the data, it is more.
    let writes = OWN_FLUSH_BYTES / CHUNK as u64;
    for _ in 0..writes {
        let data = vec![1; CHUNK];
        pair.now(DiskOp::Write { offset: 0, data });
    }
    // Of the flush, which no request asked for.
    let own = pair.complete();
    assert!(own.id > writes, "{own:?}");
    assert_eq!(pair.followed.take().bytes(), 0);
}
