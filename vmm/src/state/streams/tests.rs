use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use logging_channel::memory::TakeBlocks as _;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::ram::{GuestRam, PAGE, PageSet, allocate};
use crate::state::Baseline;
use crate::state::hashes::Hashes;
use crate::threads::LEFT;

const PAGES: u64 = 4096;

/// How long something may take that takes no time.
const LONG: Duration = Duration::from_secs(60);

fn memory() -> (GuestRam, Baseline) {
    let memory = allocate(PAGES * PAGE as u64).expect("16 MiB");
    let baseline = Baseline::new(memory.clone()).expect("16 MiB");
    (memory, baseline)
}

fn write(memory: &GuestRam, page: u64, byte: u8) {
    let address = GuestAddress(page * PAGE as u64);
    memory.write_slice(&[byte; PAGE], address).expect("in it");
}

fn first_bytes(memory: &GuestRam) -> Vec<u8> {
    let byte = |page| memory.read_obj(GuestAddress(page * PAGE as u64));
    (0..PAGES).map(|page| byte(page).expect("in it")).collect()
}

/// Hands blocks to a taker, each after it was let go.
struct Gated {
    to: Arc<MemoryTaker>,
    comes: Sender<u32>,
    go: Receiver<()>,
}

impl SendBlocks for Gated {
    fn send(&mut self, transfer: u32, block: &[u8]) -> io::Result<()> {
        let gone = |_| io::ErrorKind::BrokenPipe;
        self.comes.send(transfer).map_err(gone)?;
        self.go.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.to.take(transfer, block).map_err(io::Error::other)
    }
}

struct Bench {
    memory: GuestRam,
    sender: MemorySender,
    hashes: Hashes,
    taken: GuestRam,
    taker: Arc<MemoryTaker>,
    comes: Receiver<u32>,
    go: Sender<()>,
    woken: Receiver<()>,
}

impl Bench {
    fn new(streams: usize) -> Self {
        let ((memory, baseline), (taken, other)) = (memory(), memory());
        let taker = Arc::new(MemoryTaker::new(&other));
        let ((come, comes), (go, going), (wake, woken)) = (unbounded(), bounded(0), unbounded());
        let stream = |_| {
            let (to, comes, go) = (taker.clone(), come.clone(), going.clone());
            Box::new(Gated { to, comes, go }) as Box<dyn SendBlocks>
        };
        let streams = (0..streams).map(stream).collect();
        let wake = Box::new(move || wake.send(()).expect("somebody listens"));
        Self {
            sender: MemorySender::start(&baseline, streams, None, wake).expect("threads"),
            hashes: baseline.hashes(),
            memory,
            taken,
            taker,
            comes,
            go,
            woken,
        }
    }

    fn begin(&self, transfer: u32) {
        self.sender.begin(transfer, || {
            self.hashes.forget();
            self.hashes.clone()
        });
    }

    /// Lets blocks go until the round is over. How many the transfer has.
    fn finish(&self) -> u64 {
        thread::scope(|scope| {
            let over = scope.spawn(|| self.sender.wait(LONG));
            while !over.is_finished() {
                let _ = self.go.send_timeout((), Duration::from_millis(1));
            }
            match over.join().expect("no panic") {
                Waited::Sent { blocks } => blocks,
                other => panic!("{other:?}"),
            }
        })
    }
}

#[test]
fn what_is_sent_later_arrives_later_on_any_number_of_streams() {
    for streams in 1..5 {
        let bench = Bench::new(streams);
        bench.begin(1);
        bench.taker.open(1);
        // Half of it is not zero, and some of that changes in each round.
        let mut turn = 0..;
        for _ in 0..4 {
            let byte = turn.next().expect("any number") + 1;
            let pages = PageSet::full(PAGES);
            for page in pages.iter().filter(|page| page % 2 == 1) {
                write(&bench.memory, page, byte);
            }
            bench.finish();
            bench.sender.round(pages);
        }
        let blocks = bench.finish();
        bench.taker.complete(blocks).expect("all of it");
        assert!(first_bytes(&bench.taken) == first_bytes(&bench.memory));
    }
}

/// The other side throws away what is late of the first: it must not count as sent.
#[test]
fn a_transfer_that_begins_in_the_middle_of_another_sends_all_of_memory() {
    let bench = Bench::new(1);
    (0..100).for_each(|page| write(&bench.memory, page, 7));
    bench.begin(1);
    assert_eq!(bench.comes.recv(), Ok(1));
    bench.begin(2);
    bench.taker.open(2);
    let blocks = bench.finish();
    bench.taker.complete(blocks).expect("all of it");
    assert!(first_bytes(&bench.taken) == first_bytes(&bench.memory));
}

/// The hashes are the next session's by then, which must not find that a page was sent to it.
#[test]
fn what_is_sent_at_the_end_of_a_session_does_not_count_in_the_next() {
    let bench = Bench::new(1);
    write(&bench.memory, 5, 7);
    let hashes = bench.hashes.clone();
    let zeros = hashes.get(5);
    bench.begin(1);
    bench.taker.open(1);
    bench.comes.recv().expect("a block");
    let Bench {
        sender, go, taker, ..
    } = bench;
    drop(sender);
    hashes.forget();
    go.send(()).expect("it is sent");
    // Its thread has ended when it has let go of who takes its blocks.
    let mut others = Arc::strong_count(&taker);
    while others > 1 {
        thread::yield_now();
        others = Arc::strong_count(&taker);
    }
    assert_eq!(hashes.get(5), zeros);
}

#[test]
fn a_round_that_takes_long_is_not_waited_for() {
    let bench = Bench::new(1);
    write(&bench.memory, 5, 7);
    bench.begin(1);
    bench.taker.open(1);
    assert_eq!(bench.sender.wait(Duration::from_millis(1)), Waited::Late);
    bench.finish();
}

#[test]
fn memory_waits_for_the_log_to_begin_its_transfer() {
    let bench = Bench::new(1);
    write(&bench.memory, 5, 7);
    bench.begin(1);
    thread::scope(|scope| {
        let finished = scope.spawn(|| bench.finish());
        assert_eq!(bench.comes.recv(), Ok(1));
        assert_eq!(first_bytes(&bench.taken)[5], 0);
        bench.taker.open(1);
        let blocks = finished.join().expect("no panic");
        bench.taker.complete(blocks).expect("all of it");
    });
    assert_eq!(first_bytes(&bench.taken)[5], 7);
}

#[test]
fn a_round_says_what_it_came_to_and_has_the_guest_look() {
    let bench = Bench::new(2);
    (0..10).for_each(|page| write(&bench.memory, page * 400, 7));
    bench.begin(1);
    bench.taker.open(1);
    bench.finish();
    bench.woken.recv().expect("it is told");
    let (round, unchanged) = bench.sender.finished().expect("it is over");
    assert_eq!((round.looked_at, round.sent), (PAGES, 10));
    assert_eq!(unchanged.len(), PAGES - 10);
    let progress = bench.sender.progress();
    assert_eq!(
        (progress.bytes(), progress.left()),
        (round.bytes, (0, PAGES))
    );
}

#[test]
fn nobody_waits_for_those_who_take_no_memory_any_more() {
    let bench = Bench::new(1);
    write(&bench.memory, 0, 7);
    bench.begin(1);
    bench.comes.recv().expect("a block");
    drop(bench.go);
    assert_eq!(bench.sender.wait(LONG), Waited::Over);
    assert!(bench.sender.finished().is_none());
    bench.woken.recv().expect("it is told");

    // And the other way round.
    thread::scope(|scope| {
        let taking = scope.spawn(|| bench.taker.take(9, b"early"));
        bench.taker.ended("its stream broke".into());
        taking
            .join()
            .expect("no panic")
            .expect_err("none is wanted");
    });
    bench.taker.open(9);
    let error = bench.taker.complete(1).expect_err("it does not come");
    assert!(error.to_string().contains("its stream broke"), "{error}");
}

#[test]
fn memory_that_cannot_be_the_guests_is_refused() {
    let bench = Bench::new(1);
    bench.taker.open(1);
    bench.taker.take(1, b"nonsense").expect_err("no block");
    bench.taker.complete(1).expect_err("not all of it came");
}

#[test]
fn a_host_with_too_few_threads_sends_nothing() {
    let (_, baseline) = memory();
    let (come, comes) = unbounded::<u32>();
    let stream = |_| {
        let (comes, go) = (come.clone(), bounded(0).1);
        let to = Arc::new(MemoryTaker::new(&baseline));
        Box::new(Gated { to, comes, go }) as Box<dyn SendBlocks>
    };
    let streams = (0..2).map(stream).collect();
    drop(come);
    LEFT.set(1);
    let started = MemorySender::start(&baseline, streams, None, Box::new(|| {}));
    LEFT.set(u32::MAX);
    let error = started.err().expect("it has one thread");
    assert!(error.to_string().contains("TasksMax"), "{error}");
    // The one that was there has ended with its stream.
    comes.recv_timeout(LONG).expect_err("nothing is sent");
}

#[test]
fn a_limit_is_one_for_all_streams() {
    let limit = Limit::new(1_000_000);
    let since = std::time::Instant::now();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| limit.wait(50_000));
        }
    });
    limit.wait(1);
    assert!(since.elapsed() >= Duration::from_millis(150));
}
