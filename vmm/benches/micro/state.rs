//! Digests and deltas of a guest's memory, beside a comparison of all of it.

use std::cell::RefCell;
use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion};
use ftvm_vmm::devices::Devices;
use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::{Moment, Step};
use ftvm_vmm::fake_cpu::{FakeCpu, Script};
use ftvm_vmm::ram::{GuestRam, PAGE, allocate};
use ftvm_vmm::state::{Baseline, Capture, digest};
use logging_channel::entry::{ExecutionPoint, StatePart};
use vm_memory::{Bytes as _, GuestAddress};

/// 256 MiB.
const PAGES: u64 = (256 << 20) / PAGE as u64;
/// How many of a hundred pages change from one iteration to the next.
const CHANGED: [u64; 3] = [0, 1, 10];

/// An iteration looks for what changed, and tells it.
pub(crate) fn state(criterion: &mut Criterion) {
    let mut guest = Guest::new();
    let mut capture = Capture::new(Baseline::new(guest.memory.clone()).expect("hashes"));
    let memory: Vec<u8> = (0..PAGES).flat_map(noise).collect();
    let copy = memory.clone();
    for percent in CHANGED {
        let mut group = criterion.benchmark_group(format!("state, {percent} % changed"));
        group.bench_function("memcmp", |bencher| {
            bencher.iter(|| black_box(&memory[..]) == black_box(&copy[..]));
        });
        measure(&mut group, "digest", percent, &mut guest, &mut |at| {
            let mut first = 0;
            while first < PAGES {
                let digest = done(digest(capture.baseline(), at, first..PAGES, None));
                first = black_box(digest).range.end;
            }
        });
        measure(&mut group, "delta", percent, &mut guest, &mut |at| {
            let mut send = |part: StatePart| {
                black_box(part);
                Ok(())
            };
            let progress = done(capture.send_delta_memory(at, None, &mut send));
            assert!(progress.is_all);
            done(capture.commit_delta(at, &mut send));
        });
        group.finish();
    }
}

fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    percent: u64,
    guest: &mut Guest,
    act: &mut dyn FnMut(&mut Moment<'_>),
) {
    let guest = RefCell::new(guest);
    // What was written before.
    act(&mut guest.borrow_mut().at());
    group.bench_function(name, |bencher| {
        bencher.iter_batched(
            || guest.borrow_mut().change(PAGES * percent / 100),
            |()| act(&mut guest.borrow_mut().at()),
            BatchSize::PerIteration,
        );
    });
}

struct Guest {
    memory: GuestRam,
    cpu: FakeCpu,
    devices: Devices,
    dice: Dice,
}

impl Guest {
    /// With memory that cannot be compressed.
    fn new() -> Self {
        let memory = allocate(PAGES * PAGE as u64).expect("guest memory");
        for page in 0..PAGES {
            let written = memory.write_slice(&noise(page), address(page));
            written.expect("in memory");
        }
        Self {
            cpu: FakeCpu::new(Script::default(), memory.clone(), 1).under_nested_paging(),
            devices: Devices::new(&memory, [0; 6]),
            dice: Dice(PAGES),
            memory,
        }
    }

    /// Writes a word to each of so many pages, which lie anywhere.
    fn change(&mut self, pages: u64) {
        for _ in 0..pages {
            let page = self.dice.roll(PAGES);
            let word = self.dice.roll(u64::MAX);
            let written = self.memory.write_obj(word, address(page));
            written.expect("in memory");
        }
    }

    fn at(&mut self) -> Moment<'_> {
        Moment::new(ExecutionPoint::default(), &mut self.cpu, &mut self.devices)
    }
}

fn address(page: u64) -> GuestAddress {
    GuestAddress(page * PAGE as u64)
}

fn noise(page: u64) -> [u8; PAGE] {
    let mut dice = Dice(page);
    let mut content = [0; PAGE];
    for word in content.as_chunks_mut::<8>().0 {
        *word = dice.roll(u64::MAX).to_le_bytes();
    }
    content
}

fn done<T>(step: Step<T>) -> T {
    step.ok().expect("nothing fails")
}
