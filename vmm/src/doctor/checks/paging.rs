//! Who translates the guest's addresses: KVM, by shadow page tables, or the processor, by the guest's own.
//!
//! A processor that walks the guest's page tables (nested paging: EPT, NPT) sets accessed bits when it has
//! no entry in its TLB, and what is in there depends on all that happens on the host. Under shadow paging
//! it walks KVM's tables, and KVM sets the bits in the guest's at faults that follow from the guest alone.
//! So the two differ where a guest changes its page table and does not flush the TLB, which it need not
//! do at once (AMD APM volume 2, section 5.5.2; Intel SDM volume 3, section 4.10.4).

use std::arch::global_asm;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::super::report::with_causes;
use super::measure::{
    Effort, Measured, RBX, RCX, describe, failed, load_kernel, look_at_writes, registers, run_to,
};
use super::stops::stop_computing;
use crate::cpu::{CpuState, Exit};
use crate::kvm::Paging;
use crate::kvm::probe::{DATA, Event, MicroGuest};

global_asm!(include_str!("paging.S"));

unsafe extern "C" {
    static ftvm_paging_accessed: u8;
    static ftvm_paging_accessed_end: u8;
    static ftvm_paging_raised: u8;
    static ftvm_paging_raised_end: u8;
}

/// Pages that the micro-guests look at (`PAGES` in paging.S).
const WATCHED: u64 = 32;
/// Set by the host where the guest waits for it (`GO_ON` in paging.S).
const GO_ON: u64 = DATA;
/// The guest has cleared the bits, and waits.
const CLEARED: u16 = 0x10;
/// It has read or written its pages again.
const DONE: u16 = 0x11;
/// How often each is tried.
const ROUNDS: usize = 3;

/// What the host does between two looks of the guest at its pages. Any of it may empty the TLB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    /// Nothing; what it does for itself may come in between all the same.
    Nothing,
    /// Stops the guest, as for an input that waits.
    Stop,
    /// Lets it go on on another processor.
    Move,
    /// Looks which pages were written, as for a state delta. This always empties the TLB.
    LookAtWrites,
}

use Meanwhile::{LookAtWrites, Move, Nothing, Stop};

/// What came of a round of the micro-guest that clears accessed bits.
#[derive(Debug, Clone, Copy)]
struct Round {
    meanwhile: Meanwhile,
    /// Bits that were set when the guest had read its pages behind a flush.
    set: u64,
    /// Bits that were set again when it had read them once more, without one.
    back: u64,
}

pub(super) fn paging(guest: &mut MicroGuest, _: Effort) -> Measured {
    let rounds = rounds(guest)?;
    let faults = faults(guest)?;
    // The two trials, each by itself: the verdict needs only one of them.
    let back: u64 = rounds.iter().map(|round| round.back).sum();
    log::debug!("accessed bits that came back: {back} in {rounds:?}");
    log::debug!("page faults at raised permissions: {faults}");
    judge(&rounds, faults).and_then(|found| told(found, Paging::told()))
}

/// Which paging shows.
fn judge(rounds: &[Round], faults: u64) -> Result<Paging, String> {
    if let Some(round) = rounds.iter().find(|round| round.set != WATCHED) {
        // Neither kind of paging does so.
        let set = round.set;
        return Err(format!(
            "{set} of {WATCHED} pages that were read are marked so"
        ));
    }
    // The host may take a page away under shadow paging, too, but hardly twice in a few milliseconds.
    let shows = |meanwhile| {
        let tried = rounds.iter().filter(|round| round.meanwhile == meanwhile);
        let (tried, back) = tried.fold((0, 0), |(tried, back), round| {
            (tried + 1, back + usize::from(round.back > 0))
        });
        2 * back > tried
    };
    // A page that the guest may write never faults under shadow paging: KVM looks into its table.
    if faults > 0 || [Nothing, Stop, Move, LookAtWrites].into_iter().any(shows) {
        Ok(Paging::Nested)
    } else {
        Ok(Paging::Shadow)
    }
}

/// What is said of it. What KVM's module says of itself must not be something else: guests are run by
/// that ([`Paging::of_host`]).
fn told(found: Paging, module: Option<Paging>) -> Measured {
    let name = |paging| match paging {
        Paging::Shadow => "shadow",
        Paging::Nested => "nested",
    };
    match module {
        Some(module) if module != found => Err(format!(
            "{}, although KVM's module says {}",
            name(found),
            name(module)
        )),
        _ if found == Paging::Shadow => Ok(name(found).into()),
        _ => Err(name(found).into()),
    }
}

/// Has accessed bits cleared and counted.
fn rounds(guest: &mut MicroGuest) -> Result<Vec<Round>, String> {
    // SAFETY: the symbols are the ends of one range.
    let kernel = unsafe { code(&ftvm_paging_accessed, &ftvm_paging_accessed_end) };
    load_kernel(guest, kernel)?;
    guest.cpu().track_writes().map_err(|e| with_causes(&e))?;
    let all = sched_getaffinity(Pid::from_raw(0)).ok();
    let mut rounds = Vec::new();
    for meanwhile in [Nothing, Stop, Move, LookAtWrites].repeat(ROUNDS) {
        if meanwhile == Nothing {
            guest.write_word(GO_ON, 1);
        } else {
            run_to(guest, CLEARED)?;
            match meanwhile {
                Nothing => {}
                Stop => drop(stop_computing(guest)?),
                Move => all.iter().for_each(leave_processor),
                LookAtWrites => drop(look_at_writes(guest)?),
            }
            guest.write_word(GO_ON, 1);
        }
        let seen = run_to(guest, DONE);
        if let (Move, Some(all)) = (meanwhile, &all) {
            go_on_on(all);
        }
        let seen = seen?.gpr;
        rounds.push(Round {
            meanwhile,
            set: seen[RBX],
            back: seen[RCX],
        });
    }
    Ok(rounds)
}

/// Goes on on another processor of these, if there is one.
fn leave_processor(all: &CpuSet) {
    let here = nix::sched::sched_getcpu().ok();
    let mut others = *all;
    if let Some(here) = here
        && others.unset(here).is_ok()
        && (0..CpuSet::count()).any(|cpu| others.is_set(cpu).unwrap_or(false))
    {
        go_on_on(&others);
    }
}

/// A thread that stays where it is runs the guest as well.
fn go_on_on(processors: &CpuSet) {
    if let Err(error) = sched_setaffinity(Pid::from_raw(0), processors) {
        log::debug!("cannot choose the processor of the micro-guest: {error}");
    }
}

/// Has permissions raised, and counts the page faults at what the guest may do by then.
fn faults(guest: &mut MicroGuest) -> Result<u64, String> {
    // SAFETY: the symbols are the ends of one range.
    let kernel = unsafe { code(&ftvm_paging_raised, &ftvm_paging_raised_end) };
    load_kernel(guest, kernel)?;
    let mut faults = 0;
    for _ in 0..ROUNDS {
        loop {
            match guest.run().map_err(failed)? {
                Event::Exit(Exit::Io(access)) if access.port == DONE => break,
                Event::Vector { vector: 14, .. } if faults < ROUNDS as u64 * WATCHED => {
                    faults += 1;
                    guest.return_from_fault().map_err(|e| with_causes(&e))?;
                }
                other => return Err(format!("{} in place of a write", describe(other))),
            }
        }
        registers(guest)?;
    }
    Ok(faults)
}

/// The code between two symbols.
///
/// # Safety
/// They are the ends of one range of initialised memory that lasts for ever.
unsafe fn code(begin: &'static u8, end: &'static u8) -> &'static [u8] {
    let begin: *const u8 = begin;
    let end: *const u8 = end;
    // SAFETY: as the caller says.
    unsafe { std::slice::from_raw_parts(begin, end.offset_from_unsigned(begin)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(back: impl Fn(Meanwhile, usize) -> u64) -> Vec<Round> {
        let tried = [Nothing, Stop, Move, LookAtWrites].repeat(ROUNDS);
        (0..)
            .zip(tried)
            .map(|(n, meanwhile)| Round {
                meanwhile,
                set: WATCHED,
                back: back(meanwhile, n / 4),
            })
            .collect()
    }

    #[test]
    fn bits_that_come_back_and_faults_at_raised_permissions_show_the_tlb() {
        let quiet = rounds(|_, _| 0);
        assert_eq!(judge(&quiet, 0), Ok(Paging::Shadow));
        assert_eq!(
            judge(&quiet, 1),
            Ok(Paging::Nested),
            "a stale entry faulted"
        );
        let once = rounds(|_, round| if round == 1 { WATCHED } else { 0 });
        assert_eq!(
            judge(&once, 0),
            Ok(Paging::Shadow),
            "the host took pages away"
        );
        for shows in [Stop, Move, LookAtWrites] {
            let bits = rounds(|meanwhile, _| if meanwhile == shows { 1 } else { 0 });
            assert_eq!(judge(&bits, 0), Ok(Paging::Nested), "{shows:?}");
        }
        let mut strange = quiet;
        strange[2].set = 0;
        assert!(judge(&strange, 0).is_err());
    }

    #[test]
    fn a_trial_and_a_module_that_contradict_each_other_fail() {
        let words = |found, module| match told(found, module) {
            Ok(finding) => (true, finding.text),
            Err(text) => (false, text),
        };
        use Paging::{Nested, Shadow};
        assert_eq!(words(Shadow, Some(Shadow)), (true, "shadow".into()));
        assert_eq!(words(Shadow, None), (true, "shadow".into()));
        assert_eq!(words(Nested, Some(Nested)), (false, "nested".into()));
        assert_eq!(words(Nested, None), (false, "nested".into()));
        for (found, module, text) in [
            (Nested, Shadow, "nested, although KVM's module says shadow"),
            (Shadow, Nested, "shadow, although KVM's module says nested"),
        ] {
            assert_eq!(words(found, Some(module)), (false, text.into()));
        }
    }
}
