//! libFuzzer with one of the fuzz targets of ftvm's crates, which `FTVM_FUZZ` names:
//!
//! ```text
//! FTVM_FUZZ=opening cargo run --release -- CORPUS -max_len=4096 -timeout=5
//! ```
//!
//! The target's own valid inputs are put into the corpus, if it has any.

#![no_main]

mod counted;
mod guest;

use std::sync::LazyLock;
use std::{env, fs, path::Path};

use counted::Counted;

/// Its name, what is done with an input, and inputs that go deep.
type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

#[global_allocator]
static MEMORY: Counted = Counted::new();

/// The most that anything takes for a stranger, in bytes: most of it are the entries of a batch.
const MOST: usize = 1 << 20;

static TARGET: LazyLock<(Target, Option<usize>)> = LazyLock::new(|| {
    let strangers = [
        &transport::fuzzing::TARGETS[..],
        &logging_channel::fuzzing::TARGETS[..],
        &disk_server::fuzzing::TARGETS[..],
        &ftvm_vmm::fuzzing::TARGETS[..],
    ];
    let strangers = strangers.concat().into_iter().map(|it| (it, Some(MOST)));
    let all: Vec<_> = strangers
        .chain(guest::TARGETS.map(|it| (it, None)))
        .collect();
    let name = env::var("FTVM_FUZZ").unwrap_or_default();
    match all.iter().find(|((it, ..), _)| *it == name) {
        Some(target) => *target,
        None => {
            let names: Vec<_> = all.iter().map(|((it, ..), _)| *it).collect();
            panic!("set FTVM_FUZZ to a target: {}", names.join(", "));
        }
    }
});

/// Writes the target's valid inputs into the corpus.
fn sow() {
    let ((_, run, seeds), _) = &*TARGET;
    let corpus = env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    for (number, seed) in seeds().iter().enumerate() {
        // What is made once is made now, and counts for no input.
        run(seed);
        if let Some(corpus) = corpus.as_ref().map(Path::new).filter(|it| it.is_dir()) {
            fs::write(corpus.join(format!("seed-{number}")), seed).expect("a corpus");
        }
    }
}

libfuzzer_sys::fuzz_target!(init: sow(), |input: &[u8]| {
    let ((_, run, _), most) = &*TARGET;
    let taken = MEMORY.most_in(|| run(input));
    assert!(most.is_none_or(|most| taken <= most), "an input takes {taken} bytes of memory");
});
