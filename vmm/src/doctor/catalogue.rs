//! Every check, with what it means for a user.

use super::purpose::NeededBy;

/// The check that says which processor a host has. Where two hosts differ in that alone, their guest
/// is protected all the same.
pub const PROCESSOR: &str = "processor";

/// The check that says which kernel a host has, and so which KVM.
pub const DEVICE: &str = "device";

/// A check, before it is made.
pub(super) struct Entry {
    /// Name for programs.
    pub(super) id: &'static str,
    /// Name for people.
    pub(super) title: &'static str,
    /// What needs it.
    pub(super) needed_by: NeededBy,
    /// What it is needed for, and what it costs.
    pub(super) meaning: &'static str,
    /// What to do when it fails.
    pub(super) mend: &'static str,
}

const LOAD_KVM: &str = "load the kernel module kvm_intel or kvm_amd and enable virtualisation \
                        (VT-x, SVM) in the firmware; in a virtual machine, enable nested \
                        virtualisation on its host; as a plain user, join the group kvm";
const UPGRADE: &str = "use Linux 5.10 or newer on the host";
const OTHER_KVM: &str = "this KVM does not behave as Linux's does with hardware support: use a \
                         machine with VT-x or SVM and the kernel's own KVM";
const CPU_TYPE: &str = "use a processor with x86-64-v2 and AES; where the host is a virtual \
                        machine, give it the CPU type of its host";

/// All checks, in the order of examination.
pub(super) const CATALOGUE: &[Entry] = &[
    Entry {
        id: DEVICE,
        title: "/dev/kvm opens",
        needed_by: NeededBy::EveryGuest,
        meaning: "guests run on KVM",
        mend: LOAD_KVM,
    },
    Entry {
        id: "api",
        title: "API and capabilities",
        needed_by: NeededBy::EveryGuest,
        meaning: "exits and registers are read through them",
        mend: UPGRADE,
    },
    Entry {
        id: "cpu_model",
        title: "CPU model",
        needed_by: NeededBy::EveryGuest,
        meaning: "both hosts of a pair must show the guest the same processor",
        mend: CPU_TYPE,
    },
    Entry {
        id: "processor",
        title: "processor",
        needed_by: NeededBy::Nothing,
        meaning: "both hosts of a pair should have the same, with the same microcode: of what is not \
                  the same in all processors, ftvm compares only what it tries out",
        mend: "mount /proc",
    },
    Entry {
        id: "long_mode",
        title: "64-bit mode",
        needed_by: NeededBy::EveryGuest,
        meaning: "guests are 64-bit kernels",
        mend: OTHER_KVM,
    },
    Entry {
        id: "user_mode",
        title: "user mode and system calls",
        needed_by: NeededBy::EveryGuest,
        meaning: "without it Linux stops at its first program",
        mend: OTHER_KVM,
    },
    Entry {
        id: "cpuid",
        title: "CPUID is the model's",
        needed_by: NeededBy::EveryGuest,
        meaning: "features that cannot be replayed must be hidden from the guest",
        mend: OTHER_KVM,
    },
    Entry {
        id: "exits",
        title: "exits are deterministic",
        needed_by: NeededBy::EveryGuest,
        meaning: "their ordinal is the clock of the log; every device access, clock read and \
                  interrupt costs a guest one exit or a few",
        mend: OTHER_KVM,
    },
    Entry {
        id: "halt",
        title: "HLT exits",
        needed_by: NeededBy::EveryGuest,
        meaning: "an idle guest waits for its inputs there, and gets them at once",
        mend: OTHER_KVM,
    },
    Entry {
        id: "interrupts",
        title: "interrupts come in place",
        needed_by: NeededBy::EveryGuest,
        meaning: "a replay must deliver each at the instruction where the recording did",
        mend: OTHER_KVM,
    },
    Entry {
        id: "msr_filter",
        title: "MSR accesses exit",
        needed_by: NeededBy::EveryGuest,
        meaning: "the time stamp counter's value comes from the log; an access costs a \
                  guest one such exit",
        mend: UPGRADE,
    },
    Entry {
        id: "single_step",
        title: "single step",
        needed_by: NeededBy::EveryGuest,
        meaning: "brings an interrupt window that opened early to its place, for the cost of a \
                  step",
        mend: OTHER_KVM,
    },
    Entry {
        id: "tsc_trap",
        title: "user-mode RDTSC traps",
        needed_by: NeededBy::EveryGuest,
        meaning: "programs read the counter, and a replay must give them the logged value; a read \
                  costs a program one such trap",
        mend: OTHER_KVM,
    },
    Entry {
        id: "kick",
        title: "a computing guest can be stopped",
        needed_by: NeededBy::EveryGuest,
        meaning: "bounds the latency of inputs for a guest that computes without exits; the time \
                  that a stop takes adds to the bound",
        mend: OTHER_KVM,
    },
    Entry {
        id: "dirty_logging",
        title: "written pages are known",
        needed_by: NeededBy::EveryGuest,
        meaning: "state deltas and digests cover the pages that changed; each costs the reading \
                  of the log, and a guest the first write to each page after it",
        mend: OTHER_KVM,
    },
    Entry {
        id: "state_transfer",
        title: "state goes to another processor",
        needed_by: NeededBy::EveryGuest,
        meaning: "a guest stopped between two exits goes on from there on the backup: this keeps \
                  the latency bound, and repairs a backup that differs; the guest stands still \
                  for the saving",
        mend: OTHER_KVM,
    },
    Entry {
        id: "paging",
        title: "shadow paging",
        needed_by: NeededBy::Replication,
        meaning: "KVM, and not the processor, translates the guest's addresses and so decides when its \
                  accessed bits are set and whether a stale translation faults; under nested paging \
                  that follows from all else on the host, and the backup differs as soon as the guest's \
                  kernel looks, as Linux does when memory gets scarce. Costs guests more where they start \
                  many programs",
        mend: "stop all guests of this host (the module is in use as long as one runs), then `modprobe -r \
               kvm_intel && modprobe kvm_intel ept=0` (AMD: `modprobe -r kvm_amd && modprobe kvm_amd \
               npt=0`); for the next start of the host, a line `options kvm_intel ept=0` (AMD: `options \
               kvm_amd npt=0`) in /etc/modprobe.d/ftvm.conf, and `update-initramfs -u` where the initramfs \
               loads kvm; where KVM is built into the kernel, `kvm_intel.ept=0` (`kvm_amd.npt=0`) on its \
               command line. It holds for every guest of the host, of other programs too: those get slower, \
               most with guests inside guests. Where the module says something else than was found, look \
               for what else translates there (a hypervisor below) and tell us. `--allow-nested-paging` goes \
               on without",
    },
    Entry {
        id: "memory",
        title: "guest memory stays put",
        needed_by: NeededBy::Nothing,
        meaning: "when the host takes a page of guest memory away, if only to move it, the guest's next \
                  access faults once more, which the other host's does not: the backup, or a replay, may \
                  then differ, and a backup is repaired. ftvm keeps off KSM, NUMA balancing, huge page \
                  collapse and, where it may lock memory, swapping; not what is named here",
        mend: "swap: LimitMEMLOCK=infinity in the systemd unit, or run as root. Compaction: `sysctl -w \
               vm.compact_unevictable_allowed=0`, and a file for it in /etc/sysctl.d. KVM before Linux \
               6.13 gives translations back when the host's memory gets scarce: leave some free, do not \
               write to /proc/sys/vm/drop_caches, or use a newer kernel",
    },
    Entry {
        id: "counter",
        title: "performance counter",
        needed_by: NeededBy::Nothing,
        meaning: "names the place where a computing guest was stopped in few bytes, if both \
                  hosts of a pair have one; without it, the latency bound is kept by state \
                  deltas, at the cost of sending every page that changed",
        mend: "ftvm does without; in a virtual machine, let its host pass a PMU through",
    },
    Entry {
        id: "x87_pointers",
        title: "x87 pointers are kept",
        needed_by: NeededBy::Nothing,
        meaning: "programs that look at them (FNSTENV: fegetenv and swapcontext of the C library, \
                  and coroutines made of it) must find the same on both hosts; where they are not \
                  kept, such a program makes the backup differ, and each time it is repaired the \
                  guest is unprotected for a while",
        mend: "nothing to set: use processors that always save them (AMD from Zen 2 on, Intel), or \
               no such program; any other floating point is not concerned",
    },
    Entry {
        id: "instructions",
        title: "results of instructions",
        needed_by: NeededBy::Nothing,
        meaning: "undefined flags, approximations, and what the CPU model hides and the processor \
                  executes all the same: both hosts of a pair must come to the same, or the backup \
                  is refused",
        mend: "a processor that does not come to the same twice cannot carry a pair: use another host",
    },
    Entry {
        id: "hardware_breakpoint",
        title: "hardware breakpoints",
        needed_by: NeededBy::Nothing,
        meaning: "would find an execution point without rewriting the guest's code, for \
                  the cost of a stop",
        mend: "nothing to mend: ftvm does without",
    },
];
