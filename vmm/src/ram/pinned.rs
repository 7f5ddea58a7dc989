//! Guest memory that stays where it is.
//!
//! Under shadow paging KVM sets accessed bits in the guest's page tables when it handles a fault, and
//! what Linux takes out of guest memory and puts back faults once more: a bit more than on the other
//! host. So whatever moves pages (swapping, merging, balancing, collapsing into huge ones) is kept off,
//! and all of them are there before the guest runs: which are there decides what KVM maps ahead.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MmapAdvise, madvise, mlock};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::room::Room;
use super::{GuestRam, PAGE};

/// MPOL_LOCAL of `linux/mempolicy.h`: memory of the node that a thread runs on, as without a policy.
const MPOL_LOCAL: libc::c_int = 4;
/// Of `linux/prctl.h`, since Linux 6.4.
const PR_SET_MEMORY_MERGE: libc::c_int = 67;

/// What Linux may still do with guest memory, and how that is mended.
#[derive(Debug, thiserror::Error)]
pub enum Loose {
    /// It may be swapped out.
    #[error(
        "guest memory cannot be locked{}: once Linux swaps a page of it out, a backup or a replay may \
         differ; set LimitMEMLOCK=infinity in the systemd unit, say `ulimit -l unlimited` as root, or \
         run as root",
        .limit.map(|bytes| format!(" (the limit is {} KiB)", bytes >> 10)).unwrap_or_default()
    )]
    Unlocked {
        /// How many bytes may be locked (RLIMIT_MEMLOCK), if there is a limit.
        limit: Option<u64>,
        /// Linux's answer.
        source: io::Error,
    },
    /// Its pages come with the guest's accesses.
    #[error(
        "guest memory cannot be had before the guest uses it: a backup or a replay may differ; use \
         Linux 5.14 or newer"
    )]
    Unpopulated(#[source] io::Error),
    /// It may be merged with memory of other processes.
    #[error(
        "guest memory cannot be kept from being merged: once KSM merges a page of it, a backup or a \
         replay may differ; switch KSM off: echo 2 > /sys/kernel/mm/ksm/run"
    )]
    Mergeable(#[source] io::Error),
    /// It may be unmapped to find out which node uses it.
    #[error(
        "guest memory cannot be kept from NUMA balancing: whenever that unmaps a page of it, a backup \
         or a replay may differ; switch it off: sysctl kernel.numa_balancing=0"
    )]
    Balanced(#[source] io::Error),
    /// Its pages may be collapsed into huge ones.
    #[error(
        "guest memory cannot be kept from being collapsed into huge pages: once it is, a backup or a \
         replay may differ; echo never > /sys/kernel/mm/transparent_hugepage/enabled"
    )]
    Collapsible(#[source] io::Error),
    /// A process that ftvm started would share it, page by page until it is written.
    #[error("guest memory cannot be kept out of the processes that ftvm starts")]
    Inherited(#[source] io::Error),
}

/// There is less memory than the guest is to have.
#[derive(Debug, thiserror::Error)]
#[error(
    "not enough memory: the guest's {} MiB are taken at once, and {room}; make room, or give the \
     guest less (--memory)",
    wanted >> 20
)]
pub struct NotEnough {
    wanted: u64,
    room: Room,
}

/// Has all of guest memory there, in huge pages as far as the system gives them, and keeps it where it
/// is. Gives what is lacking to that; nothing on a host that has all of it. To be called before the
/// guest runs.
///
/// # Errors
/// [`NotEnough`].
pub fn pin(memory: &GuestRam) -> Result<Vec<Loose>, NotEnough> {
    let wanted = super::page_count(memory) * PAGE as u64;
    let left = || match lock_limit().is_some_and(|limit| limit < wanted) {
        true => Room::left(),
        false => Room::left_to_lock(),
    };
    let room = left();
    if room.bytes < wanted {
        return Err(NotEnough { wanted, room });
    }
    // SAFETY: it changes nothing but whether this process's memory is merged; kernels that do not
    // know it refuse, and merge only what asks for it.
    let _ = unsafe { libc::prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0) };
    let mut loose = Vec::new();
    for mapping in mappings(memory) {
        let populated = mapping.pin(&mut loose);
        if populated == Err(Errno::ENOMEM) {
            let room = left();
            return Err(NotEnough { wanted, room });
        }
    }
    Ok(loose)
}

/// How many bytes of guest memory this host has set aside already, because something was written there.
#[must_use]
pub fn resident_bytes(memory: &GuestRam) -> u64 {
    let resident = mappings(memory).map(|mapping| mapping.resident_pages() * PAGE);
    resident.sum::<usize>() as u64
}

/// Where guest memory is.
fn mappings(memory: &GuestRam) -> impl Iterator<Item = Mapping> {
    memory.iter().map(|region| {
        let slice = region.as_volatile_slice().expect("memory of this process");
        let start = NonNull::new(slice.ptr_guard_mut().as_ptr()).expect("a mapping");
        Mapping {
            start: start.cast(),
            bytes: slice.len(),
        }
    })
}

/// How many bytes this process may lock (RLIMIT_MEMLOCK); none if it has no limit.
#[must_use]
pub fn lock_limit() -> Option<u64> {
    limit().filter(|_| !may_lock_all())
}

fn limit() -> Option<u64> {
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK).ok()?;
    (limit != RLIM_INFINITY).then_some(limit)
}

/// Whether this process has CAP_IPC_LOCK (capabilities(7)), for which the limit does not hold. In a
/// user namespace of its own it may seem to have it.
fn may_lock_all() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let effective = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    effective.is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 != 0)
}

/// Memory of this process.
#[derive(Clone, Copy)]
struct Mapping {
    start: NonNull<c_void>,
    bytes: usize,
}

impl Mapping {
    /// Pins it and tells what is lacking; an error if its pages are not there.
    fn pin(self, loose: &mut Vec<Loose>) -> Result<(), Errno> {
        // Kernels without NUMA, KSM or huge pages know no policy and no such advice, and do nothing
        // that they would keep off.
        if let Err(error) = self.keep_on_its_node()
            && error != Errno::ENOSYS
        {
            loose.push(Loose::Balanced(error.into()));
        }
        let mut advise = |advice, lacking: fn(io::Error) -> Loose| match self.advise(advice) {
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(error) => loose.push(lacking(error.into())),
        };
        advise(MmapAdvise::MADV_DONTFORK, Loose::Inherited);
        advise(MmapAdvise::MADV_UNMERGEABLE, Loose::Mergeable);
        let populated = self.advise(MmapAdvise::MADV_POPULATE_WRITE);
        // Huge pages that are there stay huge.
        advise(MmapAdvise::MADV_NOHUGEPAGE, Loose::Collapsible);
        // SAFETY: locking changes no content of the mapping.
        match unsafe { mlock(self.start, self.bytes) } {
            // That populates too.
            Ok(()) => return Ok(()),
            Err(error) => loose.push(Loose::Unlocked {
                limit: limit(),
                source: error.into(),
            }),
        }
        if let Err(error) = populated {
            loose.push(Loose::Unpopulated(error.into()));
        }
        populated
    }

    /// Those that are in memory; none if the system does not tell.
    fn resident_pages(self) -> usize {
        let mut pages = vec![0_u8; self.bytes.div_ceil(PAGE)];
        // SAFETY: it only tells of a mapping of this process, and has a byte for each of its pages.
        let told = unsafe { libc::mincore(self.start.as_ptr(), self.bytes, pages.as_mut_ptr()) };
        match told {
            0 => pages.iter().filter(|page| **page & 1 != 0).count(),
            _ => 0,
        }
    }

    fn advise(self, advice: MmapAdvise) -> Result<(), Errno> {
        // SAFETY: none of the advices used here changes a content of the mapping.
        unsafe { madvise(self.start, self.bytes, advice) }
    }

    /// Gives it a policy of its own: NUMA balancing leaves memory alone whose policy does not ask for
    /// it.
    fn keep_on_its_node(self) -> Result<(), Errno> {
        let no_nodes = std::ptr::null::<libc::c_ulong>();
        // SAFETY: mbind(2) with an empty set of nodes reads nothing, and changes where pages come from
        // that are not there yet.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.start.as_ptr(),
                self.bytes,
                MPOL_LOCAL,
                no_nodes,
                0usize,
                0u32,
            )
        };
        Errno::result(done).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::ram::allocate;

    /// What proc_pid_smaps(5) has of the mapping that begins there.
    fn smaps(start: usize) -> String {
        let all = fs::read_to_string("/proc/self/smaps").expect("a Linux process");
        let from = all.find(&format!("{start:x}-")).expect("it is mapped");
        let to = all[from..].find("VmFlags:").expect("the last line") + from;
        let line = all[to..].lines().next().expect("a line");
        all[from..to].to_owned() + line
    }

    #[test]
    fn pinned_memory_is_there_and_left_alone() {
        const BYTES: u64 = 4 << 20;
        let memory = allocate(BYTES).expect("four megabytes");
        let region = memory.iter().next().expect("one region");
        let start = region.as_volatile_slice().expect("memory");
        let start = start.ptr_guard().as_ptr().addr();
        let before = smaps(start);
        let resident_before = resident_bytes(&memory);
        let loose = pin(&memory).expect("four megabytes are there");
        let after = smaps(start);
        assert!(!before.contains("Rss:                4096 kB"), "{before}");
        assert!(after.contains("Rss:                4096 kB"), "{after}");
        assert_eq!((resident_before, resident_bytes(&memory)), (0, BYTES));
        assert!(after.contains("THPeligible:           0"), "{after}");
        let flags = after.lines().last().expect("flags");
        let has = |flag: &str| flags.split(' ').any(|one| one == flag);
        assert!(has("dc"), "no process inherits it: {flags}");
        assert!(!has("mg"), "nothing is merged: {flags}");
        match &loose[..] {
            [] => assert!(after.contains("Locked:             4096 kB"), "{after}"),
            [
                only @ Loose::Unlocked {
                    limit: Some(limit), ..
                },
            ] => {
                assert!(*limit < BYTES, "{only}");
                assert!(only.to_string().contains("LimitMEMLOCK=infinity"), "{only}");
            }
            _ => panic!("{loose:?}"),
        }
        assert!(crate::ram::take_written(&memory).is_empty());
    }

    #[test]
    fn more_memory_than_there_is_is_an_error_that_says_so() {
        let bytes = 2 * Room::left().bytes.next_multiple_of(1 << 20);
        let memory = allocate(bytes).expect("addresses");
        let error = pin(&memory).expect_err("twice what is left").to_string();
        let beginning = format!("not enough memory: the guest's {} MiB", bytes >> 20);
        assert!(error.starts_with(&beginning), "{error}");
        assert!(error.contains("MiB left"), "{error}");
    }
}
