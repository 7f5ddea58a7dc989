//! A hardware counter of the guest's retired conditional branches, through `perf_event_open`
//! (perf_event_open(2); Linux, `tools/perf/design.txt`).

mod caveats;
mod error;
mod pmu;
mod probe;

use std::io;
use std::os::fd::AsRawFd;

use nix::unistd::gettid;
use perf_event::events::Raw;
use perf_event::{Builder, Counter};

pub use self::error::CounterError;
use self::error::system;
use self::pmu::{Pmu, Stay};
pub use self::probe::{Measured, probe};
use crate::counter::table::Microarchitecture;
use crate::kick;

/// Where Linux says who may count what.
const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";

/// How much of counting Linux forbids to whom (`kernel.perf_event_paranoid`), if that can be read.
#[must_use]
pub fn paranoid_level() -> Option<i32> {
    let text = std::fs::read_to_string(PARANOID).ok()?;
    text.trim().parse().ok()
}

/// What an error of `perf_event_open` means (perf_event_open(2), "ERRORS").
fn refused(error: io::Error, has_pmu: bool) -> CounterError {
    match error.raw_os_error() {
        // What KVM lends to guests is theirs, with events that count in guests refused
        // (mediated_pmu_account_event in kernel/events/core.c).
        Some(libc::EOPNOTSUPP) if has_pmu => CounterError::NotForGuests,
        Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP) => CounterError::NoPmu,
        Some(libc::EACCES) => CounterError::Forbidden {
            level: paranoid_level(),
        },
        Some(libc::EPERM) => CounterError::NotPermitted,
        Some(libc::EINVAL) => CounterError::NoGuestCounting,
        Some(libc::EBUSY) => CounterError::Busy,
        Some(libc::ENOSYS) => CounterError::NoKernelSupport,
        _ => system("open a performance counter")(error),
    }
}

/// A counter of the conditional branches that guests on the calling thread retire.
pub struct BranchCounter {
    counter: Counter,
    /// The least number of events after which it can be made to interrupt, at least 1: Linux has such
    /// a limit where it works around errors of processors.
    least_period: u64,
    /// Nanoseconds that it was not on the processor, when it was read last.
    absent: u64,
    /// The thread runs where it counts.
    _stay: Stay,
}

/// Nanoseconds that a counter may be off the processor between two looks at it: the kernel's clock may
/// be read between its own steps.
const MOST_ABSENT: u64 = 10_000;

impl BranchCounter {
    /// Opens it for guests that the calling thread runs. It counts from 0.
    ///
    /// # Errors
    /// [`CounterError`].
    pub fn open(row: &Microarchitecture) -> Result<Self, CounterError> {
        let pmu = Pmu::of_this_host()?;
        let stay = pmu.stay()?;
        let mut builder = Builder::new(Raw::new(row.event));
        builder.attrs_mut().type_ = pmu.kind;
        let mut counter = builder
            .include_kernel()
            .exclude_host(true)
            .exclude_guest(false)
            // On the processor whenever the thread is, or not at all.
            .pinned(true)
            // Far away: no interrupt until one is asked for.
            .sample_period(NEVER)
            .build()
            .map_err(|error| refused(error, pmu.exists()))?;
        kick_on_overflow(&counter).map_err(system("have a counter's overflow signalled"))?;
        counter.enable().map_err(system("start a counter"))?;
        Ok(Self {
            least_period: least_period(&counter)?,
            counter,
            absent: 0,
            _stay: stay,
        })
    }

    /// Branches since it was opened, or since [`BranchCounter::restart`].
    ///
    /// # Errors
    /// [`CounterError::Busy`] if the processor's counters were given to others, and
    /// [`CounterError::Absent`] if that was so for a while, or the thread was moved to a core that
    /// does not count.
    pub fn count(&mut self) -> Result<u64, CounterError> {
        // A pinned counter that lost its place reads as an end of file.
        let read = self.counter.read_count_and_time();
        let read = read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => CounterError::Busy,
            _ => system("read a counter")(error),
        })?;
        let absent = read.time_enabled.saturating_sub(read.time_running);
        let nanos = absent.saturating_sub(std::mem::replace(&mut self.absent, absent));
        if nanos > MOST_ABSENT {
            return Err(CounterError::Absent { nanos });
        }
        Ok(read.count)
    }

    /// By how many events the interrupt is asked for too late at most, beside its skid.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.least_period - 1
    }

    /// Counts from 0 again.
    ///
    /// # Errors
    /// [`CounterError::System`].
    pub fn restart(&mut self) -> Result<(), CounterError> {
        self.counter.reset().map_err(system("reset a counter"))
    }

    /// Interrupts the guest after `events` more branches, at least 1, or up to
    /// [`BranchCounter::late`] more, and every so many again.
    ///
    /// # Errors
    /// [`CounterError::System`].
    pub fn interrupt_after(&mut self, events: u64) -> Result<(), CounterError> {
        set_period(&self.counter, events.max(self.least_period))
            .map_err(system("set a counter's period"))
    }
}

/// Far away: no interrupt.
pub(super) const NEVER: u64 = u64::MAX >> 1;

fn set_period(counter: &Counter, events: u64) -> io::Result<()> {
    const PERF: libc::c_uint = b'$' as libc::c_uint;
    vmm_sys_util::ioctl_iow_nr!(PERF_EVENT_IOC_PERIOD, PERF, 4, u64);
    // SAFETY: the file descriptor is a performance event's and the kernel only reads the
    // number.
    let result =
        unsafe { vmm_sys_util::ioctl::ioctl_with_ref(counter, PERF_EVENT_IOC_PERIOD(), &events) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The least period that the kernel takes (`limit_period` in arch/x86/events): 1, but 32 on Nehalem and
/// 128 on Broadwell.
fn least_period(counter: &Counter) -> Result<u64, CounterError> {
    let mut period = 1;
    loop {
        match set_period(counter, period) {
            Ok(()) => break,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && period < 1 << 12 => {
                period *= 2;
            }
            Err(error) => return Err(system("set a counter's period")(error)),
        }
    }
    set_period(counter, NEVER).map_err(system("set a counter's period"))?;
    Ok(period)
}

/// Has the calling thread signalled when the counter overflows, which makes KVM_RUN return.
fn kick_on_overflow(counter: &Counter) -> io::Result<()> {
    /// `struct f_owner_ex` (fcntl(2), F_SETOWN_EX).
    #[repr(C)]
    struct Owner {
        kind: libc::c_int,
        id: libc::pid_t,
    }
    const F_SETSIG: libc::c_int = 10;
    const F_SETOWN_EX: libc::c_int = 15;
    const F_OWNER_TID: libc::c_int = 0;

    let signal = kick::handled_signal()?;
    let owner = Owner {
        kind: F_OWNER_TID,
        id: gettid().as_raw(),
    };
    let fd = counter.as_raw_fd();
    // SAFETY: the descriptor is open; F_SETOWN_EX reads the structure, the others take numbers.
    let results = unsafe {
        [
            libc::fcntl(fd, F_SETOWN_EX, &raw const owner),
            libc::fcntl(fd, F_SETSIG, signal),
            libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK),
        ]
    };
    if results.iter().any(|result| *result < 0) {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(errno: libc::c_int) -> CounterError {
        refused(io::Error::from_raw_os_error(errno), true)
    }

    #[test]
    fn refusals_are_told_apart_and_say_how_to_mend_them() {
        for (errno, hint) in [
            (libc::ENOENT, "pmu=on"),
            (libc::EOPNOTSUPP, "enable_mediated_pmu=0"),
            (libc::EACCES, "kernel.perf_event_paranoid"),
            (libc::EPERM, "CAP_PERFMON"),
            (libc::EINVAL, "Linux 5.10"),
            (libc::EBUSY, "nmi_watchdog"),
            (libc::ENOSYS, "CONFIG_PERF_EVENTS"),
        ] {
            let text = refusal(errno).to_string();
            assert!(text.contains(hint), "{errno}: {text}");
        }
        assert!(matches!(refusal(libc::EMFILE), CounterError::System { .. }));
    }
}
