//! Which guests are recorded, in which order, and how.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A guest and how it is recorded. A recording is kept with this, so that it can be replayed elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TestGuest {
    /// What reports call it.
    pub(super) name: String,
    /// Its files, below the images' directory.
    kernel: String,
    initrd: Option<String>,
    /// Words on its command line.
    words: String,
    memory_mib: u64,
    /// Whether it has a disk to swap to.
    pub(super) swaps: bool,
    /// How it is recorded, in milliseconds.
    latency: u64,
    digest_interval: u64,
    /// How long its load runs.
    seconds: u64,
}

/// A guest, in its turn.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) guest: TestGuest,
    /// The next one begins with another guest under load.
    pub(super) last_of_turn: bool,
}

const INITRD: &str = "selftest.cpio";

/// A kernel that it goes with.
#[derive(Debug)]
struct Kernel {
    name: &'static str,
    image: &'static str,
    /// What it is told of mitigations against its processor's faults.
    mitigations: &'static str,
    /// In MiB. It leaves the load some 40: what is filled before it swaps takes time.
    memory: u64,
}

/// Those of Debian 12 and 13. The second does what a kernel does by itself, and isolates its page tables even
/// where the processor does not need it: each of its entries from user mode changes CR3.
const KERNELS: [Kernel; 2] = [
    Kernel {
        name: "linux-debian12",
        image: "vmlinux",
        mitigations: "mitigations=off",
        memory: 96,
    },
    Kernel {
        name: "linux-debian13-pti",
        image: "vmlinux-debian13",
        mitigations: "pti=on",
        memory: 112,
    },
];

/// The micro-guests whose replay must not differ, and whether they can be told to make no exits: those of
/// `guest-images/src/micro.rs`. The first are those that need much of KVM.
const MICRO_GUESTS: [(&str, bool); 12] = [
    ("accessed-bits", false),
    ("page-fault", true),
    ("sti-hlt", false),
    ("system-calls", true),
    ("timer-hot-loop", false),
    ("fpu-sse", true),
    ("tsc", false),
    ("rep-strings", true),
    ("nested-exceptions", false),
    ("self-modifying", true),
    ("tsc-cached", false),
    ("hypercalls", false),
];
/// Makes a guest compute without exits until it was stopped for so many ticks.
const QUIET: &str = "micro.quiet=40";

/// For how long an input may wait for a guest, and how often all that changed is compared: from one turn
/// to the next, so that stops come rarely and often.
const PACES: [(u64, u64); 3] = [(50, 250), (10, 100), (4, 1000)];

/// For how long the load runs in each recording, in seconds: a twentieth of the whole.
fn load_seconds(time: Duration) -> u64 {
    (time.as_secs() / 20).clamp(2, 20)
}

fn under_load(turn: usize, seconds: u64) -> TestGuest {
    let Kernel {
        name,
        image,
        mitigations,
        memory,
    } = KERNELS[turn % KERNELS.len()];
    let (latency, digest_interval) = PACES[turn % PACES.len()];
    TestGuest {
        name: name.into(),
        kernel: image.into(),
        initrd: Some(INITRD.into()),
        words: format!("quiet {mitigations} panic=-1 ftvm.seconds={seconds}"),
        memory_mib: memory,
        swaps: true,
        latency,
        digest_interval,
        seconds,
    }
}

/// All of them, then those that can be quiet in that way.
fn micro_guest(n: usize) -> TestGuest {
    let quiet = MICRO_GUESTS
        .iter()
        .filter(|(_, can_be_quiet)| *can_be_quiet);
    let all = MICRO_GUESTS.iter().map(|(name, _)| (name, ""));
    let all: Vec<_> = all.chain(quiet.map(|(name, _)| (name, QUIET))).collect();
    let (name, words) = all[n % all.len()];
    let (latency, digest_interval) = PACES[n % PACES.len()];
    let manner = if words.is_empty() { "" } else { "-quiet" };
    TestGuest {
        name: format!("micro-{name}{manner}"),
        kernel: format!("micro/{name}.elf"),
        initrd: None,
        words: words.into(),
        // Some use memory from 32 MiB on.
        memory_mib: 64,
        swaps: false,
        latency,
        digest_interval,
        seconds: 10,
    }
}

/// Guests for a test of this length: in turns of one under load and two micro-guests, for ever.
pub(super) fn trials(time: Duration) -> impl Iterator<Item = Trial> {
    let seconds = load_seconds(time);
    (0..).flat_map(move |turn| {
        let guests = [
            under_load(turn, seconds),
            micro_guest(2 * turn),
            micro_guest(2 * turn + 1),
        ];
        let last = guests.len() - 1;
        guests.into_iter().enumerate().map(move |(n, guest)| Trial {
            guest,
            last_of_turn: n == last,
        })
    })
}

/// The files that must be there.
pub(super) fn needed_images() -> impl Iterator<Item = &'static str> {
    KERNELS
        .iter()
        .map(|kernel| kernel.image)
        .chain([INITRD, "micro"])
}

impl TestGuest {
    /// What `ftvm record` and `ftvm replay` are told of the guest itself.
    pub(super) fn arguments(&self, images: &Path) -> Vec<String> {
        let path = |name: &str| images.join(name).to_string_lossy().into_owned();
        let mut arguments = vec!["--kernel".into(), path(&self.kernel)];
        if let Some(initrd) = &self.initrd {
            arguments.extend(["--initrd".into(), path(initrd)]);
        }
        if !self.words.is_empty() {
            arguments.extend(["--append".into(), self.words.clone()]);
        }
        arguments.extend(["--memory".into(), self.memory_mib.to_string()]);
        arguments
    }

    /// What `ftvm record` is told of the recording.
    pub(super) fn manner(&self) -> Vec<String> {
        [
            ("--latency", self.latency),
            ("--digest-interval", self.digest_interval),
        ]
        .into_iter()
        .flat_map(|(option, ms)| [option.to_owned(), ms.to_string()])
        .chain(["--verify".to_owned()])
        .collect()
    }

    /// Much longer than it takes where it is slowest: on an emulated host.
    pub(super) fn limit(&self) -> Duration {
        Duration::from_secs(300 + 20 * self.seconds)
    }

    /// Whether what it wrote on its console shows that it did what it should, and what that was: what it
    /// said is wrong, if something is.
    pub(super) fn judge<'a>(&self, console: &'a str) -> Result<&'a str, String> {
        if self.swaps {
            let line = console.lines().find(|line| line.starts_with("mix: forks "));
            let wrong = console.lines().find(|line| line.starts_with("mix: WRONG "));
            return match (line, wrong) {
                (Some(line), None) => Ok(line.trim()),
                (_, Some(wrong)) => Err(format!("the guest says `{}`", wrong.trim())),
                (None, None) => Err("the guest's load did not come to its end".into()),
            };
        }
        let line = console.lines().last().unwrap_or_default().trim();
        if line.starts_with("micro ") && line.contains(": ok ") {
            Ok("")
        } else {
            Err(format!("the guest says `{line}`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_guest_has_its_turn() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let turn: Vec<Trial> = trials(minutes(0)).take(3).collect();
        assert!(turn[0].guest.words.ends_with("ftvm.seconds=2"));
        assert_eq!(turn.iter().filter(|trial| trial.guest.swaps).count(), 1);
        assert!(turn[2].last_of_turn && !turn[1].last_of_turn);
        let names = trials(minutes(10))
            .take(3 * 17)
            .map(|trial| trial.guest.name);
        let names: BTreeSet<String> = names.collect();
        assert_eq!(names.len(), 2 + 12 + 5);
        let isolates = |trial: &Trial| {
            let words = &trial.guest.words;
            words.contains("pti=on") && !words.contains("mitigations=off")
        };
        assert_eq!(trials(minutes(0)).take(6).filter(isolates).count(), 1);
        let long = trials(minutes(60)).next().expect("the first");
        assert!(long.guest.words.ends_with("ftvm.seconds=20"));
    }

    #[test]
    fn no_micro_guest_is_left_out() {
        let of_images = guest_images::micro::DETERMINISTIC;
        let of_images: BTreeSet<_> = of_images
            .iter()
            .map(|guest| (guest.name, guest.can_be_quiet))
            .collect();
        assert_eq!(of_images, BTreeSet::from(MICRO_GUESTS));
    }

    #[test]
    fn guests_are_judged_by_what_they_say() {
        let stock = under_load(0, 2);
        let line = "mix: forks 310, execs 77, wrong 0";
        let console = format!("ftvm-guest: up\r\n{line}\r\nftvm-guest: load done\r\n");
        assert_eq!(stock.judge(&console), Ok(line));
        let wrong = format!("mix: WRONG page 3\r\n{console}");
        assert!(stock.judge(&wrong).expect_err("wrong").contains("page 3"));
        assert!(stock.judge("ftvm-guest: up").is_err());
        let micro = micro_guest(0);
        assert_eq!(micro.judge("micro accessed-bits: ok 0123\r\n"), Ok(""));
        for bad in ["micro accessed-bits: FAILED x", ""] {
            assert!(micro.judge(bad).is_err(), "{bad}");
        }
    }
}
