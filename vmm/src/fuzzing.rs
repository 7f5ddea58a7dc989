//! Fuzz targets: what is said at a host's port of consoles and in a network test, by either side, where no keys are
//! asked for.
//!
//! Whatever that is, it is understood or refused with words that can be printed, and nobody waits for more than a line
//! may have. A violation panics. `tests/fuzz` has libFuzzer run these.

use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::lines::{MAX_QUESTION, read_line};
use crate::{host, network_test, operator};

/// A fuzz target: its name, what is done with an input, and inputs that go deep.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of this crate that a stranger reaches; what a guest reaches is in `tests/fuzz`.
pub const TARGETS: [Target; 2] = [
    ("console", console, lines),
    ("network-test", network_test, words),
];

/// More than anything here takes: whoever waits for the other side waits in vain, because that one has gone.
const PATIENCE: Duration = Duration::from_secs(600);

fn printable(words: &str) {
    assert!(
        !words.contains(char::is_control),
        "{words:?} goes to terminals"
    );
}

/// What comes to a port of consoles, or from there to an operator.
pub fn console(input: &[u8]) {
    let (ours, mut theirs) = UnixStream::pair().expect("two sockets");
    theirs.write_all(input).expect("there is room");
    theirs.shutdown(Shutdown::Write).expect("it is open");
    while let Ok(line) = read_line(&ours, MAX_QUESTION, Instant::now() + PATIENCE) {
        assert!(
            line.len() < MAX_QUESTION,
            "{} bytes are no line",
            line.len()
        );
        if let Ok(vm) = host::asked_for(&line) {
            printable(vm.as_str());
        }
        if let Err(refused) = operator::console::given(&line) {
            printable(&refused);
        }
    }
}

fn lines() -> Vec<Vec<u8>> {
    let lines = [
        r#"{"console":"db"}"#,
        r#"{"console":"db\u001b","more":1}"#,
        r#"{"ok":true}"#,
        r#"{"error":"db has no process\n on this host"}"#,
    ];
    let ended = lines.map(|line| format!("{line}\n"));
    let all = ended.concat();
    ended
        .into_iter()
        .chain([all])
        .map(String::into_bytes)
        .collect()
}

/// What the side that listens says to the one that connects.
pub fn network_test(input: &[u8]) {
    if let Err(error) = network_test::understands(input) {
        printable(&error.to_string());
    }
}

fn words() -> Vec<Vec<u8>> {
    [
        r#"{"begins":"bare-stream"}"#,
        r#"{"begins":"\u001b"}"#,
        r#"{"ended":{"stage":"frames","seconds":0.5,"bytes":1,"entries":2,"times":{"count":1,"p50_us":1,"p99_us":2,"max_us":3},"pressed":null}}"#,
        r#"{"over":{"heard":3,"lost":0,"jitter_us":null}}"#,
    ]
    .map(|word| word.as_bytes().to_vec())
    .to_vec()
}

#[cfg(test)]
#[path = "../../tests/fuzz/inputs.rs"]
mod inputs;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::inputs::inputs;
    use super::*;

    proptest! {
        #[test]
        fn a_line_of_a_console_is_understood_or_refused(input in inputs(lines())) {
            console(&input);
        }

        #[test]
        fn a_word_of_a_network_test_is_understood_or_refused(input in inputs(words())) {
            network_test(&input);
        }
    }
}
