//! How much memory a VMM needs, and whether that grows.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::host::Host;

/// Resident memory of an `ftvm`, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All of it.
    pub resident_kib: u64,
    /// Without the guest's memory and the VMM's copy of it, which are the
    /// largest mappings (or one, if the kernel merged them): the guest's use of
    /// those is no leak.
    pub own_kib: u64,
}

impl Memory {
    /// Reads it from the host's `/proc`.
    pub(crate) fn of(host: &Host) -> Result<Self> {
        // By the command line: its other threads and programs of that name are none of it.
        let script = "for process in /proc/[0-9]*; do \
             case $(tr '\\0' ' ' < $process/cmdline 2> /dev/null) in \
             \"ftvm primary \"* | \"ftvm backup \"*) exec cat $process/smaps ;; \
             esac; done; echo \"no ftvm of a pair\" >&2; exit 1";
        let smaps = host.check(&["sh", "-c", script])?;
        Self::parse(&smaps).ok_or_else(|| Error::Refused {
            host: host.name().to_owned(),
            reason: format!("no mapping in the smaps of ftvm:\n{smaps}"),
        })
    }

    /// Adds up the fields `Size` and `Rss` of `/proc/PID/smaps`, see proc(5).
    fn parse(smaps: &str) -> Option<Self> {
        let mut size = 0;
        let mut mappings: Vec<(u64, u64)> = Vec::new();
        for line in smaps.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let number = || value.trim().strip_suffix(" kB")?.parse::<u64>().ok();
            match name {
                "Size" => size = number()?,
                "Rss" => {
                    mappings.push((size, number()?));
                }
                _ => {}
            }
        }
        let (largest, _) = mappings.iter().max()?;
        let resident = mappings.iter().map(|(_, rss)| rss).sum();
        let guest: u64 = mappings
            .iter()
            .filter(|(size, _)| size * 2 >= *largest)
            .map(|(_, rss)| rss)
            .sum();
        Some(Self {
            resident_kib: resident,
            own_kib: resident - guest,
        })
    }
}

/// Less than this in a half of a run is an allocator's own affair, in KiB.
const NOISE_KIB: f64 = 256.0;
/// More than this part of it in an hour is growth.
const FLAT: f64 = 0.02;

/// How memory went over time, as a line through the samples of the second half
/// of a run (least squares). In the first half buffers and caches find their
/// sizes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Trend {
    /// Mean, in KiB.
    pub mean_kib: f64,
    /// The line's slope, in KiB an hour.
    pub kib_per_hour: f64,
    /// Whether the slope is below 2 % of the mean in an hour, or the line rises
    /// by less than 256 KiB in all: what an allocator keeps for itself would
    /// look like a steep slope in a run of minutes.
    pub flat: bool,
}

impl Trend {
    /// The trend of samples (seconds, KiB) in order of time; none if there are
    /// fewer than two in the second half.
    #[must_use]
    pub fn of(samples: &[(f64, u64)]) -> Option<Self> {
        let (first, last) = (samples.first()?.0, samples.last()?.0);
        let middle = f64::midpoint(first, last);
        let half: Vec<(f64, f64)> = samples
            .iter()
            .filter(|(seconds, _)| *seconds >= middle)
            .map(|(seconds, kib)| (*seconds, *kib as f64))
            .collect();
        if half.len() < 2 {
            return None;
        }
        let count = half.len() as f64;
        let mean_time = half.iter().map(|(time, _)| time).sum::<f64>() / count;
        let mean_kib = half.iter().map(|(_, kib)| kib).sum::<f64>() / count;
        let covariance: f64 = half
            .iter()
            .map(|(time, kib)| (time - mean_time) * (kib - mean_kib))
            .sum();
        let variance: f64 = half
            .iter()
            .map(|(time, _)| (time - mean_time).powi(2))
            .sum();
        let slope = covariance / variance;
        let kib_per_hour = slope * 3600.0;
        let rise = slope * (last - middle);
        Some(Self {
            mean_kib,
            kib_per_hour,
            flat: kib_per_hour < FLAT * mean_kib || rise < NOISE_KIB,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_is_told_apart() {
        let smaps = "\
55d0c0000000-55d0c0100000 r-xp 00000000 00:01 12 /usr/bin/ftvm
Size:               1024 kB
KernelPageSize:        4 kB
Rss:                 700 kB
Pss:                 700 kB
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
Size:             262144 kB
Rss:              100000 kB
7f0010001000-7f0020002000 rw-p 00000000 00:00 0
Size:             262148 kB
Rss:               50000 kB
7f0020003000-7f0020004000 rw-p 00000000 00:00 0 [heap]
Size:               2000 kB
Rss:                 300 kB
";
        let memory = Memory::parse(smaps).expect("four mappings");
        assert_eq!((memory.resident_kib, memory.own_kib), (151_000, 1000));
        assert_eq!(Memory::parse(""), None);
    }

    /// An hour, a sample a minute.
    fn hour(kib: impl Fn(u64) -> u64) -> Trend {
        let samples: Vec<(f64, u64)> = (0..=60)
            .map(|minute| (minute as f64 * 60.0, kib(minute)))
            .collect();
        Trend::of(&samples).expect("many samples")
    }

    #[test]
    fn a_leak_is_growth_and_a_warm_up_is_none() {
        let warm = hour(|minute| 20_000 + minute.min(20) * 500 + minute % 3);
        assert!(warm.flat, "{warm:?}");
        let leak = hour(|minute| 20_000 + minute * 20);
        assert!(!leak.flat, "{leak:?}");
        assert!((leak.kib_per_hour - 1200.0).abs() < 1e-6, "{leak:?}");
        assert!(hour(|minute| 20_000 - minute * 20).flat);
    }

    #[test]
    fn a_page_in_a_minute_is_no_leak() {
        let samples: Vec<(f64, u64)> = (0..12).map(|n| (n as f64 * 5.0, 20_000 + n)).collect();
        let trend = Trend::of(&samples).expect("six samples");
        assert!(trend.flat && trend.kib_per_hour > 400.0, "{trend:?}");
        assert_eq!(Trend::of(&samples[..2]), None);
    }
}
