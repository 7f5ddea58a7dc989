//! What it costs to keep two guests equal.

use std::time::Duration;

use ftvm_vmm::dice::Dice;
use ftvm_vmm::ram::{self, GuestRam, PAGE};
use nix::time::{ClockId, clock_gettime};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::Pair;

const PAGES: u64 = (128 << 20) / PAGE as u64;

fn noise(dice: &mut Dice) -> [u8; PAGE] {
    let mut content = [0; PAGE];
    for word in content.as_chunks_mut::<8>().0 {
        *word = dice.roll(u64::MAX).to_le_bytes();
    }
    content
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a number of kilobytes") << 10
}

/// How many pages of a guest's memory are mapped: those that were read or written, and what the system
/// gives with them.
fn mapped(memory: &GuestRam) -> usize {
    let bytes = ram::page_count(memory) as usize * PAGE;
    let slice = memory.get_slice(GuestAddress(0), bytes).expect("all of it");
    let mut pages = vec![0u8; bytes / PAGE];
    // SAFETY: the system writes one byte for each page of the slice, and reads nothing of it.
    let result = unsafe {
        libc::mincore(
            slice.ptr_guard_mut().as_ptr().cast(),
            bytes,
            pages.as_mut_ptr(),
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    pages.iter().filter(|page| *page & 1 != 0).count()
}

/// How long this thread had a processor.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.expect("every Linux has it").into()
}

impl Pair {
    /// Writes to these pages of the primary's guest, and has the backup follow by a delta.
    fn written(&mut self, pages: impl Iterator<Item = u64>, dice: &mut Dice) {
        for page in pages {
            self.primary.write(page, 0, &noise(dice));
        }
        assert!(self.delta(None));
        self.exits += 1;
    }
}

/// Guests that have written to all of their memory, with what cannot be compressed.
#[test]
fn both_hosts_need_little_more_than_the_memory_of_the_guest() {
    let before = resident();
    let mut dice = Dice(PAGES);
    let mut pair = Pair::new(PAGES, &|page| Some(noise(&mut Dice(page))), false);
    let mut most = resident();
    // By deltas, each of one part in 64 of memory, as often as it takes for all of it;
    for first in (0..PAGES).step_by(PAGES as usize / 64) {
        pair.written(first..first + PAGES / 64, &mut dice);
        most = most.max(resident());
    }
    // by digests;
    for page in 0..PAGES {
        let content = noise(&mut dice);
        pair.primary.write(page, 0, &content);
        pair.backup.write(page, 0, &content);
    }
    let mut first = 0;
    while first < PAGES {
        let [logged, own] = pair.digest(first, None);
        assert!(logged == own);
        first = logged.range.end;
    }
    most = most.max(resident());
    // and by a transfer of the whole state.
    pair.begin_whole();
    pair.commit_whole();
    most = most.max(resident());
    let guests = 2 * PAGES * PAGE as u64;
    let kept = (most - before).saturating_sub(guests);
    assert!(
        kept <= guests / 10,
        "{kept} bytes beside two guests of {guests}"
    );
}

/// What was there before the guest began, and what deltas had, both hosts know.
#[test]
fn few_bytes_are_sent_of_a_page_of_which_few_changed() {
    const WRITTEN: u64 = 400;
    let initial = |page| (page < WRITTEN).then(|| noise(&mut Dice(page)));
    let mut pair = Pair::new(16 * 2 * WRITTEN, &initial, false);
    let mut turn = 0..;
    let mut sends = |pair: &mut Pair, pages: std::ops::Range<u64>| {
        let at = 8 * turn.next().expect("any number of turns");
        for page in pages.clone() {
            pair.primary.write(page, at, &[at as u8 + 1; 8]);
        }
        let sent = pair.sent;
        assert!(pair.delta(None));
        pair.exits += 1;
        (pair.sent - sent) / (pages.end - pages.start)
    };
    for _ in 0..3 {
        let bytes = sends(&mut pair, 0..WRITTEN);
        assert!(bytes < 40, "{bytes} bytes a page");
    }
    // Others take their places in time.
    let others = 8 * WRITTEN..10 * WRITTEN;
    for page in others.clone() {
        let content = noise(&mut Dice(page));
        pair.primary.write(page, 0, &content);
        pair.backup.write(page, 0, &content);
    }
    pair.exit();
    pair.digest(0, None);
    assert!(sends(&mut pair, others.clone()) > PAGE as u64 / 4);
    for _ in 0..10 {
        sends(&mut pair, others.clone());
    }
    let bytes = sends(&mut pair, others);
    assert!(bytes < 40, "{bytes} bytes a page");
}

/// Bytes of a delta, and times, for guests that write to so many pages between two deltas.
#[test]
#[ignore = "measures, and fails in no case"]
fn what_deltas_cost() {
    let mut dice = Dice(PAGES);
    let mut pair = Pair::new(PAGES, &|page| Some(noise(&mut Dice(page))), false);
    for pages in [16, 100, 1000, 2000, 4000] {
        let (mut took, sent) = (Duration::ZERO, pair.sent);
        for turn in 0..50u64 {
            for page in 0..pages {
                let bytes = dice.roll(u64::MAX).to_le_bytes();
                pair.primary.write(page, 64 * (turn as usize % 50), &bytes);
            }
            let since = cpu_time();
            assert!(pair.delta(None));
            took += cpu_time() - since;
            pair.exits += 1;
        }
        let bytes = (pair.sent - sent) / 50;
        println!(
            "{pages} pages: {bytes} bytes in a delta, {:?} for both",
            took / 50
        );
    }
    for page in 0..PAGES / 4 {
        let content = noise(&mut dice);
        pair.primary.write(page, 0, &content);
        pair.backup.write(page, 0, &content);
    }
    let since = cpu_time();
    pair.digest(0, None);
    println!(
        "4096 changed pages: {:?} for both digests",
        (cpu_time() - since)
    );
    for page in 0..4096 {
        let byte = pair.primary.page(page)[0];
        pair.primary.write(page, 0, &[byte]);
        pair.backup.write(page, 0, &[byte]);
    }
    let since = cpu_time();
    pair.digest(0, None);
    println!(
        "4096 pages as they were: {:?} for both digests",
        (cpu_time() - since)
    );
    println!("{} MiB in all", resident() >> 20);
}

/// Its primary waits for it to take what is sent, and not for long: a guest may have much memory.
#[test]
fn a_guest_that_just_booted_is_made_zero_without_a_look_at_all_of_its_memory() {
    let few = 16;
    let kernel = |page| (page < few).then_some([7; PAGE]);
    let mut pair = Pair::new(PAGES, &kernel, false);
    // Again and again, as after a transfer that came to nothing.
    for transfer in 1..3 {
        let begun = pair.incoming.begin_whole(&mut pair.backup.at(0), transfer);
        begun.expect("nothing fails");
        let mapped = mapped(&pair.backup.memory) as u64;
        assert!(
            (few..PAGES / 16).contains(&mapped),
            "{mapped} of {PAGES} pages"
        );
        assert!((0..few).all(|page| pair.backup.page(page) == [0; PAGE]));
    }
}
