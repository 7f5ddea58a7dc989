//! A backup's memory of what the server may still lose, from its gate to the service of the host
//! that goes live, with a server that loses its power.

use std::sync::Arc;

use crossbeam_channel::Receiver;
use disk_server::nbd::protocol::{Command, ErrorCode};
use ftvm_vmm::devices::Output;
use ftvm_vmm::disk::followed::{DiskNotice, Followed};
use ftvm_vmm::disk::guest_disk::GuestDisk;
use ftvm_vmm::disk::progress::Reached;
use ftvm_vmm::disk::service::DiskService;
use ftvm_vmm::disk::serving::Serving;
use ftvm_vmm::disk::unflushed::OWN_FLUSH_BYTES;
use ftvm_vmm::disk::{DiskCompletion, DiskError, DiskOp, DiskPort as _, DiskRequest};
use ftvm_vmm::engine::OutputGate as _;
use ftvm_vmm::events::Events;
use ftvm_vmm::gates::{Suppressed, Unreleased};
use transport::Endpoint;

use crate::fake_server::FakeServer;
use crate::world::{Log, PATIENCE, quick, until};

const BLOCK: usize = 512;
const SIZE: usize = 64 * BLOCK;

/// A primary, and the backup that hears of all that its guest does with the disk.
struct Pair {
    server: FakeServer,
    log: Log,
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

fn open(server: &FakeServer) -> GuestDisk {
    let uri = format!("nbd://{}/disk", server.address);
    GuestDisk::open(&uri.parse().unwrap(), "vm", &Endpoint::plain(), quick()).unwrap()
}

impl Pair {
    fn start(size: usize) -> Self {
        Self::begin(size, Log::new())
    }

    /// A primary whose guest is alone. What is followed is of no use before a backup joins.
    fn alone() -> Self {
        let log = Log::new();
        log.set(Reached::Alone { epoch: Some(1) });
        Self::begin(SIZE, log)
    }

    fn begin(size: usize, log: Log) -> Self {
        let server = FakeServer::start(size, 1);
        // Each host opens it for itself, before the guest runs.
        let (primaries, disk) = (open(&server), open(&server));
        let serving = Serving {
            epoch: Some(1),
            log: Some(Arc::new(log.clone())),
            ..Serving::default()
        };
        let (primary, completions) = serve(&primaries, serving);
        let followed = disk.followed();
        let gate = Suppressed::keeping(Unreleased::default()).following(Some(followed.clone()));
        Self {
            server,
            log,
            disk,
            primary,
            completions,
            gate,
            followed,
            next: 0,
        }
    }

    /// A backup starts, takes over the state, and protects the guest.
    fn join(&mut self) {
        self.disk = open(&self.server);
        self.followed = self.disk.followed();
        self.gate =
            Suppressed::keeping(Unreleased::default()).following(Some(self.followed.clone()));
        self.followed.joined();
        self.log.up_to(0, 0);
    }

    /// Has the guest make a request, on both hosts.
    fn issue(&mut self, op: DiskOp) {
        self.next += 1;
        let request = DiskRequest { id: self.next, op };
        self.gate.submit(Output::Disk(request.clone()), None);
        self.primary.submit(request, None);
    }

    /// Waits for what the log has next of the disk, which both hosts see.
    fn hear(&mut self) -> (DiskCompletion, Option<DiskNotice>) {
        let completion = self.completions.recv_timeout(PATIENCE).unwrap();
        let succeeded = completion.result.is_ok();
        self.followed.completed(completion.id, succeeded);
        let notice = DiskNotice::of(completion.id, succeeded);
        (completion, notice)
    }

    /// Waits for a completion.
    fn complete(&mut self) -> DiskCompletion {
        loop {
            if let (completion, None) = self.hear() {
                return completion;
            }
        }
    }

    /// Waits until the backup was told this.
    fn told(&mut self, what: DiskNotice) {
        while self.hear().1 != Some(what) {}
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
    while !matches!(pair.hear(), (_, Some(DiskNotice::Stable(_)))) {}
    assert_eq!(pair.followed.take().bytes(), 0);
}

#[test]
fn what_the_primary_knows_to_be_lost_a_backup_that_joins_learns() {
    let mut pair = Pair::alone();
    pair.now(write(1, 1));
    pair.server.state().failing = Some(ErrorCode::Io);
    pair.server.lose_power();
    until("that it cannot be made again", || {
        pair.server.state().failed > 0
    });
    pair.server.state().failing = None;
    // The guest flushes nothing before the primary dies.
    pair.join();
    pair.told(DiskNotice::Lost);
    let (_server, mut live) = pair.fail_over();
    assert_eq!(live.now(DiskOp::Flush), Err(DiskError::Io));
    assert_eq!(live.now(DiskOp::Flush), Ok(Vec::new()));
}

/// Its connection is idle, and the server's host came back without a word.
#[test]
fn a_loss_from_before_the_join_that_the_primary_has_not_seen_is_told_by_the_next_flush() {
    let mut pair = Pair::alone();
    pair.now(write(1, 1));
    {
        let mut server = pair.server.state();
        server.cached = server.stable.clone();
        server.boot = 2;
    }
    pair.join();
    pair.told(DiskNotice::Since(1));
    let (_server, mut live) = pair.fail_over();
    assert_eq!(live.now(DiskOp::Flush), Err(DiskError::Io));
}

#[test]
fn before_it_was_told_anything_a_backup_that_joined_takes_what_came_before_for_lost() {
    let mut pair = Pair::alone();
    pair.now(write(1, 1));
    pair.join();
    let (_server, mut live) = pair.fail_over();
    assert_eq!(live.now(DiskOp::Flush), Err(DiskError::Io));
}

#[test]
fn what_was_made_again_before_or_after_a_join_is_not_lost() {
    let mut pair = Pair::alone();
    pair.now(write(1, 1));
    pair.server.lose_power();
    pair.now(write(2, 2));
    pair.join();
    pair.told(DiskNotice::Since(2));
    pair.now(write(3, 3));
    pair.server.lose_power();
    pair.told(DiskNotice::Since(3));
    let (server, mut live) = pair.fail_over();
    live.now(DiskOp::Flush).unwrap();
    let stable = server.state().stable.clone();
    assert_eq!([1, 2, 3].map(|n| block(&stable, n)), [1, 2, 3]);
}
