//! `ftvm record` and `ftvm replay` on a host.

use testbed::{Host, Output, Result};

/// Kernel command line of a guest that switches itself off when it is up.
pub(crate) const POWER_OFF: &str = "quiet mitigations=off ftvm.do=poweroff";

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
