//! Which performance monitoring unit counts, and on which processors.
//!
//! Hybrid processors have one for each kind of core. An event that is opened for one of them is not
//! counted on cores of another kind, without an error: it reads as if nothing had happened there (rr's
//! issue 3338). So the thread that counts stays on performance cores.

use std::arch::x86_64::__cpuid_count;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::error::CounterError;

/// Where Linux lists what can count (Documentation/ABI/testing/sysfs-bus-event_source-devices).
const SOURCES: &str = "/sys/bus/event_source/devices";
/// `PERF_TYPE_RAW`: events of the processor's unit where it has one only.
const RAW: u32 = 4;
/// CPUID leaf 7, EDX: the processor has cores of several kinds (Intel SDM volume 2, CPUID).
const HYBRID: u32 = 1 << 15;

/// A performance monitoring unit of this host's processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pmu {
    /// Where Linux describes it.
    pub(super) directory: PathBuf,
    /// `perf_event_attr.type` of its events.
    pub(super) kind: u32,
    /// The processors that have it, if others do not.
    cpus: Option<CpuSet>,
}

impl Pmu {
    /// The one that the table's events are of.
    pub(super) fn of_this_host() -> Result<Self, CounterError> {
        Self::find(Path::new(SOURCES), __cpuid_count(7, 0).edx & HYBRID != 0)
    }

    fn find(sources: &Path, is_hybrid: bool) -> Result<Self, CounterError> {
        let cores = sources.join("cpu_core");
        if !cores.exists() {
            return if is_hybrid {
                Err(CounterError::KindsOfCores)
            } else {
                Ok(Self {
                    directory: sources.join("cpu"),
                    kind: RAW,
                    cpus: None,
                })
            };
        }
        let read = |name| fs::read_to_string(cores.join(name)).ok();
        let kind = read("type").and_then(|text| text.trim().parse().ok());
        let cpus = read("cpus").and_then(|text| cpu_list(&text));
        let (kind, cpus) = kind.zip(cpus).ok_or(CounterError::KindsOfCores)?;
        Ok(Self {
            directory: cores,
            kind,
            cpus: Some(cpus),
        })
    }

    /// Whether the kernel has it at all.
    pub(super) fn exists(&self) -> bool {
        self.directory.exists()
    }

    /// Keeps the calling thread on processors that have it.
    pub(super) fn stay(&self) -> Result<Stay, CounterError> {
        let Some(cpus) = &self.cpus else {
            return Ok(Stay(None));
        };
        let this = Pid::from_raw(0);
        let allowed = sched_getaffinity(this).map_err(affinity)?;
        let Some(common) = common(&allowed, cpus) else {
            return Err(CounterError::NoPerformanceCore);
        };
        sched_setaffinity(this, &common).map_err(affinity)?;
        Ok(Stay(Some(allowed)))
    }
}

fn affinity(error: nix::Error) -> CounterError {
    super::error::system("bind the guest's thread to performance cores")(error.into())
}

fn members(set: &CpuSet) -> impl Iterator<Item = usize> {
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false))
}

/// The processors that are in both, if there are any.
fn common(one: &CpuSet, other: &CpuSet) -> Option<CpuSet> {
    let mut common = CpuSet::new();
    let mut any = false;
    for cpu in members(one).filter(|cpu| other.is_set(*cpu).unwrap_or(false)) {
        common.set(cpu).ok()?;
        any = true;
    }
    any.then_some(common)
}

/// A list of processors as the kernel writes it: `0-3,8`.
fn cpu_list(text: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        for cpu in first..=last {
            set.set(cpu).ok()?;
        }
    }
    Some(set)
}

/// Keeps the thread that made it on some processors; then it may go where it could before.
#[derive(Debug)]
pub(super) struct Stay(Option<CpuSet>);

impl Drop for Stay {
    fn drop(&mut self) {
        if let Some(before) = &self.0
            && let Err(error) = sched_setaffinity(Pid::from_raw(0), before)
        {
            log::debug!("the guest's thread stays bound to performance cores: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<usize> {
        members(&cpu_list(text).expect("a list")).collect()
    }

    fn sources(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, contents) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
            fs::write(path, contents).expect("a file");
        }
        folder
    }

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(list("5"), [5]);
        for wrong in ["", "a", "1-", "100000"] {
            assert!(cpu_list(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn hybrid_processors_count_on_one_kind_of_core() {
        let both = sources(&[
            ("cpu_core/type", "10\n"),
            ("cpu_core/cpus", "0-3\n"),
            ("cpu_atom/type", "11\n"),
            ("cpu_atom/cpus", "4-7\n"),
        ]);
        let pmu = Pmu::find(both.path(), true).expect("they are told apart");
        assert_eq!((pmu.kind, pmu.exists()), (10, true));
        assert_eq!(pmu.cpus, cpu_list("0-3"));

        let one = sources(&[("cpu/type", "4\n")]);
        let pmu = Pmu::find(one.path(), false).expect("there is one");
        assert_eq!((pmu.kind, &pmu.cpus), (RAW, &None));
        // A kernel that knows no difference counts the wrong event on the other cores.
        assert!(matches!(
            Pmu::find(one.path(), true),
            Err(CounterError::KindsOfCores)
        ));
    }

    /// The thread stays where the unit is while it counts, and is refused where it may not go.
    #[test]
    fn a_thread_stays_as_long_as_it_counts() {
        let this = Pid::from_raw(0);
        let allowed = sched_getaffinity(this).expect("it is known");
        let first = members(&allowed).next().expect("it runs");
        let pmu = |cpus| Pmu {
            directory: PathBuf::new(),
            kind: RAW,
            cpus: Some(cpus),
        };
        let stay = pmu(cpu_list(&first.to_string()).expect("a list")).stay();
        let stayed = sched_getaffinity(this).expect("it is known");
        assert_eq!(members(&stayed).collect::<Vec<_>>(), [first]);
        drop(stay);
        assert_eq!(sched_getaffinity(this), Ok(allowed));

        let elsewhere = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu) == Ok(false));
        let elsewhere = cpu_list(&elsewhere.expect("not so many").to_string());
        let refused = pmu(elsewhere.expect("a list")).stay();
        assert!(matches!(refused, Err(CounterError::NoPerformanceCore)));
        assert_eq!(sched_getaffinity(this), Ok(allowed));
    }
}
