//! The state of one guest for another: what it comes to, and what it costs.

mod cost;
mod model;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ftvm_vmm::devices::Devices;
use ftvm_vmm::engine::{Moment, Step};
use ftvm_vmm::fake_cpu::{FakeCpu, Script};
use ftvm_vmm::ram::{GuestRam, PAGE, allocate};
use ftvm_vmm::state::{
    Baseline, Capture, Committed, Incoming, MemorySender, MemoryTaker, SendBlocks, Waited, digest,
};
use logging_channel::entry::{ExecutionPoint, StateDigest, StatePart};
use logging_channel::memory::TakeBlocks as _;
use vm_memory::{Bytes, GuestAddress};

/// How long something may take that takes no time.
const LONG: Duration = Duration::from_secs(60);

/// A guest that does nothing by itself.
struct Guest {
    memory: GuestRam,
    cpu: FakeCpu,
    devices: Devices,
}

impl Guest {
    /// With so much of `memory`, which the VMM wrote.
    fn new(pages: u64, memory: &dyn Fn(u64) -> Option<[u8; PAGE]>, nested_paging: bool) -> Self {
        let ram = allocate(pages * PAGE as u64).expect("guest memory");
        let cpu = FakeCpu::new(Script::default(), ram.clone(), 1);
        let guest = Self {
            devices: Devices::new(&ram, [0; 6]),
            cpu: if nested_paging {
                cpu.under_nested_paging()
            } else {
                cpu
            },
            memory: ram,
        };
        for page in 0..pages {
            if let Some(content) = memory(page) {
                guest.write(page, 0, &content);
            }
        }
        guest
    }

    fn write(&self, page: u64, at: usize, bytes: &[u8]) {
        let address = GuestAddress(page * PAGE as u64 + at as u64);
        self.memory.write_slice(bytes, address).expect("in memory");
    }

    fn page(&self, page: u64) -> [u8; PAGE] {
        let mut content = [0; PAGE];
        let address = GuestAddress(page * PAGE as u64);
        let read = self.memory.read_slice(&mut content, address);
        read.expect("in memory");
        content
    }

    fn at(&mut self, exits: u64) -> Moment<'_> {
        let point = ExecutionPoint::at_exit(exits);
        Moment::new(point, &mut self.cpu, &mut self.devices)
    }
}

/// Memory goes straight from the one to the other.
struct Stream(Arc<MemoryTaker>);

impl SendBlocks for Stream {
    fn send(&mut self, transfer: u32, block: &[u8]) -> io::Result<()> {
        self.0.take(transfer, block).map_err(io::Error::other)
    }
}

/// Two of them, and what goes from one to the other.
struct Pair {
    primary: Guest,
    capture: Capture,
    memory: MemorySender,
    transfers: u32,
    backup: Guest,
    incoming: Incoming,
    /// The exits that the backup's guest made, and the primary's at least.
    exits: u64,
    /// Bytes that were sent.
    sent: u64,
}

fn done<T>(step: Step<T>) -> T {
    step.ok().expect("nothing fails")
}

impl Pair {
    fn new(pages: u64, memory: &dyn Fn(u64) -> Option<[u8; PAGE]>, nested_paging: bool) -> Self {
        let [primary, backup] = [0; 2].map(|_| Guest::new(pages, memory, nested_paging));
        let baseline = |guest: &Guest| Baseline::new(guest.memory.clone()).expect("some memory");
        let mut capture = Capture::new(baseline(&primary));
        let incoming = Incoming::new(baseline(&backup));
        let stream = |_| Box::new(Stream(incoming.memory_taker())) as Box<dyn SendBlocks>;
        let streams = (0..3).map(stream).collect();
        Self {
            memory: MemorySender::start(capture.baseline(), streams, None, Box::new(|| {}))
                .expect("it needs no thread"),
            transfers: 0,
            capture,
            incoming,
            primary,
            backup,
            exits: 0,
            sent: 0,
        }
    }

    /// Does something with the primary's state. The backup takes over what it sends.
    fn send<T>(
        &mut self,
        act: impl FnOnce(
            &mut Capture,
            &MemorySender,
            &mut Moment<'_>,
            &mut dyn FnMut(StatePart) -> Step<()>,
        ) -> Step<T>,
    ) -> T {
        let exits = self.exits;
        let (backup, incoming, sent) = (&mut self.backup, &mut self.incoming, &mut self.sent);
        let mut take = |part: StatePart| {
            let taken = match &part {
                StatePart::Begin(transfer) => {
                    incoming.begin_whole(&mut backup.at(exits), *transfer)
                }
                StatePart::Memory(blocks) => incoming.complete_memory(*blocks),
                StatePart::Pages(block) => incoming.pages(exits, block),
                StatePart::Rest(piece) => incoming.rest(exits, piece),
                StatePart::Commit(last) => incoming.commit(&mut backup.at(exits), exits, last),
            };
            taken.expect("it is what was sent");
            if let StatePart::Pages(data) | StatePart::Rest(data) | StatePart::Commit(data) = part {
                *sent += data.len() as u64;
            }
            Ok(())
        };
        done(act(
            &mut self.capture,
            &self.memory,
            &mut self.primary.at(exits),
            &mut take,
        ))
    }

    /// A stop of the primary for a delta, which looks at 64 pages, or at all. Whether it is complete then.
    fn delta(&mut self, time: Option<Duration>) -> bool {
        self.send(|capture, _, at, send| {
            let is_all = capture.send_delta_memory(at, time, send)?.is_all;
            if is_all {
                capture.commit_delta(at, send)?;
            }
            Ok(is_all)
        })
    }

    /// A transfer of the whole state begins.
    fn begin_whole(&mut self) {
        self.transfers += 1;
        let transfer = self.transfers;
        self.send(|capture, memory, at, send| capture.begin_whole(at, transfer, memory, send));
    }

    /// The round of its memory is over. How many pages were written meanwhile, which are the next round's.
    fn round(&mut self) -> u64 {
        assert!(matches!(self.memory.wait(LONG), Waited::Sent { .. }));
        let (_, unchanged) = self.memory.finished().expect("it is over");
        self.send(|capture, memory, at, _| {
            let written = capture.end_round(at, &unchanged)?;
            capture.begin_round(memory);
            Ok(written)
        })
    }

    /// It ends.
    fn commit_whole(&mut self) {
        assert!(matches!(self.memory.wait(LONG), Waited::Sent { .. }));
        let committed =
            self.send(|capture, memory, at, send| capture.commit_whole(at, LONG, memory, send));
        assert_eq!(committed, Committed::Sent);
    }

    /// Both guests make an exit.
    fn exit(&mut self) {
        self.exits += 1;
        self.capture.abandon_delta();
    }

    /// The part of a digest that begins with page `first`, as both have it.
    fn digest(&mut self, first: u64, time: Option<Duration>) -> [StateDigest; 2] {
        let exits = self.exits;
        let baseline = self.capture.baseline();
        let range = first..baseline.pages();
        let logged = done(digest(baseline, &mut self.primary.at(exits), range, time));
        let range = logged.range.clone();
        let baseline = self.incoming.baseline();
        let own = done(digest(baseline, &mut self.backup.at(exits), range, None));
        [logged, own]
    }
}
