//! `ftvm record` and `ftvm replay` on a host.

use testbed::pair::QUICK;
use testbed::{Exit, Host, Output, Result};

/// Kernel command line of a guest that switches itself off when it is up.
pub(crate) const POWER_OFF: &str = "quiet mitigations=off ftvm.do=poweroff";

/// The same, for scenarios that are not about the boot ([`QUICK`]).
pub(crate) fn quick_power_off() -> String {
    format!("{POWER_OFF} {QUICK}")
}

/// `ftvm COMMAND` with images of the host.
pub(crate) fn command(
    host: &Host,
    command: &str,
    initrd: &str,
    words: &str,
    rest: &[&str],
) -> Vec<String> {
    let (kernel, initrd) = (host.image("vmlinux"), host.image(initrd));
    let mut argv = vec!["ftvm", command, "--kernel", &kernel, "--initrd", &initrd];
    argv.extend(["--append", words]);
    argv.extend_from_slice(rest);
    argv.into_iter().map(str::to_owned).collect()
}

/// Runs a command to its end.
pub(crate) fn run(host: &Host, argv: &[String]) -> Result<Output> {
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    host.run(&argv)
}

/// What a replay without a difference has compared.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) exits: u64,
    pub(crate) registers: u64,
    /// Of the whole state.
    pub(crate) digests: u64,
    /// Of memory at the end.
    pub(crate) pages: u64,
    /// State deltas that were taken over.
    pub(crate) deltas: u64,
}

impl Compared {
    /// Reads "no difference: 1 exits, 2 log entries; compared 3 register digests, 4 register sets,
    /// 5 digests of the whole state, 6 pages of memory; 7 states taken over" out of what a replay
    /// printed.
    pub(crate) fn read(exit: Exit, printed: &str) -> Self {
        assert!(exit.success(), "the replay ended well: {exit}: {printed}");
        let mut lines = printed.lines();
        let line = lines.find(|line| line.starts_with("no difference: "));
        let line = line.unwrap_or_else(|| panic!("nothing of a difference: {printed}"));
        let numbers: Vec<u64> = line
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|digits| digits.parse().ok())
            .collect();
        let [exits, _, _, registers, digests, pages, deltas] = numbers[..] else {
            panic!("{line}");
        };
        Self {
            exits,
            registers,
            digests,
            pages,
            deltas,
        }
    }
}
