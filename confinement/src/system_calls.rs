//! Which system calls a process may make (seccomp(2)).
//!
//! A list of what is allowed, in [groups](Calls). Any other call fails with EPERM, and the kernel's audit log has it.
//! It does not end the process, as in monitors whose guests have one copy each: a call that is missing here is made
//! on both hosts of a guest, and the second one's at the time when it is the only one left. Whoever got hold of the
//! process gains nothing by a call that fails in place of one that ends it.

use std::collections::BTreeMap;
use std::io;
use std::process;

use libc::{SYS_ioctl as IOCTL, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is,
    SeccompCondition as Condition, SeccompFilter, SeccompRule as Rule, TargetArch,
};

/// A group of system calls beside those that every thread makes: for memory that is not executable, time, signals to
/// threads of its process, and descriptors that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// Threads are started without [`spawn`](crate::spawn): they have what their parents have.
    Threads,
    /// Files are opened, made, renamed and deleted.
    Files,
    /// Files that are open are changed, and put on stable storage.
    Storage,
    /// Connections are taken, where it listens already.
    Accept,
    /// IP connections are made and listened for, and datagrams sent.
    Connect,
    /// A guest of KVM's is run: its memory, processor, counter, network interface and terminal.
    Guest,
}

/// Why calls are not filtered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("every system call of its user can be made: {0}")]
    Compile(#[from] BackendError),
    #[error("every system call of its user can be made: take a kernel with CONFIG_SECCOMP_FILTER")]
    Refused(#[source] io::Error),
}

/// What every thread does.
const ALL: &[c_long] = &[
    // Descriptors.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    // Connections that it has.
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads that are there.
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_futex,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Time, and the rest.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

const FILES: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_getdents64,
    libc::SYS_mkdir,
    libc::SYS_rename,
    libc::SYS_renameat2,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_flock,
];

const STORAGE: &[c_long] = &[
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_copy_file_range,
];

/// In its place clone(2), see below.
const THREADS: &[c_long] = &[libc::SYS_clone3];

const ACCEPT: &[c_long] = &[libc::SYS_accept4];

const CONNECT: &[c_long] = &[libc::SYS_connect, libc::SYS_bind, libc::SYS_listen];

/// fcntl(2) of descriptors, and of none that has signals sent to a process of its user's.
const FCNTL_COMMANDS: &[libc::c_int] = &[
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
];

const GUEST: &[c_long] = &[libc::SYS_mlock, libc::SYS_mbind, libc::SYS_mincore];

/// `KVMIO` of `linux/kvm.h`, where a request has it.
const KVM: u64 = 0xae00;

/// What KVM is asked for while a guest runs: its numbers, without those that make a machine.
const KVM_REQUESTS: &[u64] = &[
    0x80, // RUN
    0x03, // CHECK_EXTENSION
    0x42, // GET_DIRTY_LOG
    0x44, // SET_NR_MMU_PAGES
    0x46, // SET_USER_MEMORY_REGION
    0x81, // GET_REGS
    0x82, // SET_REGS
    0x83, // GET_SREGS
    0x84, // SET_SREGS
    0x85, // TRANSLATE
    0x86, // INTERRUPT
    0x88, // GET_MSRS
    0x89, // SET_MSRS
    0x8c, // GET_FPU
    0x8d, // SET_FPU
    0x9b, // SET_GUEST_DEBUG
    0x9f, // GET_VCPU_EVENTS
    0xa0, // SET_VCPU_EVENTS
    0xa1, // GET_DEBUGREGS
    0xa2, // SET_DEBUGREGS
    0xa3, // ENABLE_CAP
    0xa4, // GET_XSAVE
    0xa5, // SET_XSAVE
    0xa6, // GET_XCRS
    0xa7, // SET_XCRS
    0xc0, // CLEAR_DIRTY_LOG
    0xc6, // X86_SET_MSR_FILTER
    0xcf, // GET_XSAVE2
];

/// `linux/prctl.h`: names of threads and of memory, timer slack, no merging of memory.
const PRCTL_REQUESTS: &[u64] = &[15, 16, 29, 67, 0x5356_4d41];

/// `asm-generic/ioctls.h`: FIONBIO, FIONREAD, and of terminals TCGETS, TCSETS, TIOCGWINSZ, and the first two as newer C
/// libraries ask for them, TCGETS2 and TCSETS2.
const REQUESTS: &[u64] = &[
    0x5421,
    0x541b,
    0x5401,
    0x5402,
    0x5413,
    0x802c_542a,
    0x402c_542b,
];

/// `linux/sched.h`: CLONE_THREAD, and all that gives a thread a namespace of its own, in which it had capabilities.
const THREAD: u64 = 0x0001_0000;
const NAMESPACES: u64 = 0x7e02_0000;

/// `linux/socket.h`: MSG_FASTOPEN, with which something is sent to whoever was not connected to.
const FAST_OPEN: u64 = 0x2000_0000;

/// TUNSETOFFLOAD (`linux/if_tun.h`).
const TUN_REQUEST: u64 = 0x5400 | 208;

/// Of performance counters (`linux/perf_event.h`): ENABLE, DISABLE, RESET and PERIOD.
const PERF_REQUESTS: &[u64] = &[0x2400, 0x2401, 0x2403, 0x2404];

/// An allow-list.
#[derive(Default)]
struct List(BTreeMap<c_long, Vec<Rule>>);

impl List {
    fn all(&mut self, calls: &[c_long]) {
        self.0.extend(calls.iter().map(|call| (*call, Vec::new())));
    }

    /// A call where all of these arguments are so, of which the kernel takes 32 bits.
    fn where_all(&mut self, call: c_long, arguments: &[(u8, Is, u64)]) -> Result<(), BackendError> {
        self.rule(call, arguments, &Width::Dword)
    }

    /// The same where it takes all bits.
    fn where_wide(
        &mut self,
        call: c_long,
        arguments: &[(u8, Is, u64)],
    ) -> Result<(), BackendError> {
        self.rule(call, arguments, &Width::Qword)
    }

    fn rule(
        &mut self,
        call: c_long,
        arguments: &[(u8, Is, u64)],
        width: &Width,
    ) -> Result<(), BackendError> {
        let conditions = arguments
            .iter()
            .map(|(at, is, value)| Condition::new(*at, width.clone(), is.clone(), *value))
            .collect::<Result<_, _>>()?;
        let rules = self.0.entry(call).or_default();
        rules.push(Rule::new(conditions)?);
        Ok(())
    }

    /// A call where an argument is one of these.
    fn where_any(&mut self, call: c_long, at: u8, values: &[u64]) -> Result<(), BackendError> {
        (values.iter()).try_for_each(|value| self.where_all(call, &[(at, Is::Eq, *value)]))
    }

    /// A request to a driver, by its kind and number, whatever the size of its argument.
    fn request(&mut self, request: u64) -> Result<(), BackendError> {
        self.where_all(IOCTL, &[(1, Is::MaskedEq(0xffff), request)])
    }
}

fn filter(groups: &[Calls]) -> Result<BpfProgram, BackendError> {
    const EXECUTABLE: u64 = libc::PROT_EXEC as u64;
    let mut list = List::default();
    list.all(ALL);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        list.where_all(call, &[(2, Is::MaskedEq(EXECUTABLE), 0)])?;
    }
    let commands = FCNTL_COMMANDS.iter().map(|command| *command as u64);
    list.where_any(libc::SYS_fcntl, 1, &commands.collect::<Vec<_>>())?;
    // To whom it is connected.
    let connected = [(3, Is::MaskedEq(FAST_OPEN), 0), (4, Is::Eq, 0)];
    list.where_wide(libc::SYS_sendto, &connected)?;
    // A pair of datagrams' can send them to whichever socket has a name.
    let (unix, stream) = (libc::AF_UNIX as u64, libc::SOCK_STREAM as u64);
    let pair = [(0, Is::Eq, unix), (1, Is::MaskedEq(0xf), stream)];
    list.where_all(libc::SYS_socketpair, &pair)?;
    // Its own threads.
    let own = u64::from(process::id());
    list.where_all(libc::SYS_tgkill, &[(0, Is::Eq, own)])?;
    for call in [libc::SYS_sched_setscheduler, libc::SYS_sched_setaffinity] {
        list.where_all(call, &[(0, Is::Eq, 0)])?;
    }
    let process = libc::PRIO_PROCESS as u64;
    list.where_all(
        libc::SYS_setpriority,
        &[(0, Is::Eq, process), (1, Is::Eq, 0)],
    )?;
    // Limits are read, and not set: half of a pointer that is none is not enough.
    list.where_wide(libc::SYS_prlimit64, &[(0, Is::Eq, 0), (2, Is::Eq, 0)])?;
    list.where_any(libc::SYS_prctl, 0, PRCTL_REQUESTS)?;
    // A thread may give up more.
    let narrower = [
        (0, u64::from(libc::SECCOMP_SET_MODE_FILTER)),
        (1, libc::SECCOMP_FILTER_FLAG_LOG),
    ];
    let narrower = narrower.map(|(at, value)| (at, Is::Eq, value));
    list.where_all(libc::SYS_seccomp, &narrower)?;
    for group in groups {
        match group {
            Calls::Threads => {
                list.all(THREADS);
                let flags = [(0, Is::MaskedEq(THREAD | NAMESPACES), THREAD)];
                list.where_all(libc::SYS_clone, &flags)?;
            }
            Calls::Files => list.all(FILES),
            Calls::Storage => list.all(STORAGE),
            Calls::Accept => list.all(ACCEPT),
            Calls::Connect => list.all(CONNECT),
            Calls::Guest => {
                list.all(GUEST);
                for number in KVM_REQUESTS {
                    list.request(KVM | number)?;
                }
                for request in PERF_REQUESTS {
                    list.request(*request)?;
                }
                list.request(TUN_REQUEST)?;
            }
        }
    }
    // Behind those of a guest, as the kernel looks at one after the other at each of its exits.
    list.where_any(IOCTL, 1, REQUESTS)?;
    if groups.contains(&Calls::Connect) {
        // The C library asks name servers with it.
        list.where_all(libc::SYS_sendmmsg, &[(3, Is::MaskedEq(FAST_OPEN), 0)])?;
        for family in [libc::AF_INET, libc::AF_INET6] {
            for (kind, protocol) in [
                (libc::SOCK_STREAM, 0),
                (libc::SOCK_STREAM, libc::IPPROTO_TCP),
                (libc::SOCK_DGRAM, 0),
                (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
            ] {
                let arguments = [
                    (0, Is::Eq, family as u64),
                    (1, Is::MaskedEq(0xf), kind as u64),
                    (2, Is::Eq, protocol as u64),
                ];
                list.where_all(libc::SYS_socket, &arguments)?;
            }
        }
    }
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(list.0, refused, SeccompAction::Allow, TargetArch::x86_64)?;
    filter.try_into()
}

/// clone3(2) keeps its flags where no filter sees them: the C library does with clone(2) where there is none.
fn without_clone3() -> Result<BpfProgram, BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, missing, TargetArch::x86_64)?.try_into()
}

/// Lets all threads of this process make no other calls from now on than those of these groups, and those of every
/// program.
pub(crate) fn allow(groups: &[Calls]) -> Result<(), FilterError> {
    // Compiled before either counts. What is refused is logged, but for what a process asks so often that the log would
    // be full of it (audit(8)).
    let (missing, list) = (without_clone3()?, filter(groups)?);
    let all_threads = libc::SECCOMP_FILTER_FLAG_TSYNC;
    install(&missing, all_threads)?;
    install(&list, all_threads | libc::SECCOMP_FILTER_FLAG_LOG)
}

/// The same for the calling thread alone, of what its process may.
pub(crate) fn narrow(groups: &[Calls]) -> Result<(), FilterError> {
    install(&filter(groups)?, libc::SECCOMP_FILTER_FLAG_LOG)
}

fn install(filter: &BpfProgram, flags: libc::c_ulong) -> Result<(), FilterError> {
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the kernel reads the program, which outlives the call; seccompiler's instructions have the layout of
    // `linux/filter.h`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        ..0 => Err(FilterError::Refused(io::Error::last_os_error())),
        // The number of a thread with another filter than this one.
        _ => Err(FilterError::Refused(io::ErrorKind::ResourceBusy.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_list_has_what_starts_programs_or_makes_machines() {
        let all = [
            Calls::Threads,
            Calls::Files,
            Calls::Storage,
            Calls::Accept,
            Calls::Connect,
            Calls::Guest,
        ];
        filter(&all).expect("it compiles");
        let lists = [ALL, THREADS, FILES, STORAGE, ACCEPT, CONNECT, GUEST].concat();
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_ptrace,
            libc::SYS_kill,
            libc::SYS_mmap,
            libc::SYS_mprotect,
            libc::SYS_socket,
            libc::SYS_sendto,
            libc::SYS_ioctl,
            libc::SYS_open_by_handle_at,
            libc::SYS_perf_event_open,
            libc::SYS_seccomp,
        ] {
            assert!(!lists.contains(&call), "{call}");
        }
        for creates in [0x01, 0x41, 0x90] {
            assert!(!KVM_REQUESTS.contains(&creates), "{creates:#x}");
        }
    }
}
