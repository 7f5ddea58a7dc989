//! Every cut of one link and of two, and every pair of crashes, in a calm world: what becomes of the guest
//! meanwhile, and when all is healed.

mod asked;
mod case;
mod measure;
mod outcome;
mod page;
mod picture;
mod table;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use asked::asked;
use case::{CRASHING, Case, Cut};
use outcome::Outcome;
use table::Table;

/// How often each case is run, with other delays each time.
const TIMES: u64 = 8;

/// What was seen of all cases.
#[derive(Debug)]
pub struct Matrix {
    cuts: Vec<(Cut, Outcome)>,
    pairs: Vec<([Cut; 2], Outcome)>,
    /// Those at once, and those one after the other.
    crashes: [Vec<(String, Outcome)>; 2],
    /// What a person would ask about first.
    asked: Vec<(&'static str, Outcome)>,
}

impl Matrix {
    /// Runs them all.
    #[must_use]
    pub fn run() -> Self {
        let cuts: Vec<Cut> = Cut::all().collect();
        let pairs = cuts.iter().enumerate().flat_map(|(number, one)| {
            let others = cuts[number..].iter().filter(|other| other.0 != one.0);
            others.map(|other| [*one, *other])
        });
        let pairs: Vec<[Cut; 2]> = pairs.collect();
        let at_once = CRASHING.iter().enumerate().flat_map(|(number, one)| {
            CRASHING[number..]
                .iter()
                .map(move |other| match one == other {
                    true => (one.to_string(), Case::crashes(&[*one])),
                    false => (format!("{one} and {other}"), Case::crashes(&[*one, *other])),
                })
        });
        let in_turn = CRASHING.iter().flat_map(|one| {
            CRASHING.map(|next| {
                let name = format!("{one}; then {next}");
                (name, Case::one_after_the_other(*one, next))
            })
        });
        Self {
            cuts: outcomes(cuts.into_iter().map(|cut| (cut, Case::cuts(&[cut])))),
            pairs: outcomes(pairs.into_iter().map(|cuts| (cuts, Case::cuts(&cuts)))),
            crashes: [outcomes(at_once), outcomes(in_turn)],
            asked: outcomes(asked()),
        }
    }

    /// What broke a promise: the case, the seed, and what.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let cuts = self.cuts.iter().map(|(cut, it)| (format!("cut {cut}"), it));
        let pairs = self.pairs.iter();
        let pairs = pairs.map(|([one, other], it)| (format!("cut {one}, {other}"), it));
        let crashes = self.crashes.iter().flatten();
        let crashes = crashes.map(|(name, it)| (format!("crash of {name}"), it));
        let asked = self.asked.iter().map(|(name, it)| ((*name).to_owned(), it));
        let all = cuts.chain(pairs).chain(crashes).chain(asked);
        all.flat_map(|(name, outcome)| {
            let failures = outcome.failures.iter();
            failures.map(move |(seed, what)| format!("{name}, delays {seed}: {what}"))
        })
        .collect()
    }

    /// What was tried, in one sentence.
    fn summary(&self) -> String {
        format!(
            "{} cuts of one link, {} of two, {} crashes at once and {} one after the other, each {TIMES} \
             times with other delays",
            self.cuts.len(),
            self.pairs.len(),
            self.crashes[0].len(),
            self.crashes[1].len(),
        )
    }
}

/// Single cuts and crashes in full, and pairs of cuts in short.
impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", full("cut", &self.cuts))?;
        writeln!(f, "{}", page::grid(self))?;
        for crashes in &self.crashes {
            writeln!(f, "{}", full("crash", crashes))?;
        }
        write!(f, "{}", self.summary())
    }
}

/// All that was seen of some cases.
fn full<K: fmt::Display>(what: &str, cases: &[(K, Outcome)]) -> Table {
    let head = [
        what,
        "before the healing",
        "answered",
        "no reply for",
        "not protected for",
        "protected, after the healing",
        "in the end",
    ];
    let row = |(name, outcome): &(K, Outcome)| {
        vec![
            name.to_string(),
            outcome.meanwhile(),
            outcome.answered(),
            outcome.silence(),
            outcome.unprotected(),
            outcome.again(),
            outcome.finally(),
        ]
    };
    Table {
        head: head.map(str::to_owned).to_vec(),
        rows: cases.iter().map(row).collect(),
    }
}

/// Runs cases on all processors.
fn outcomes<K>(cases: impl IntoIterator<Item = (K, Case)>) -> Vec<(K, Outcome)> {
    let (keys, cases): (Vec<K>, Vec<Case>) = cases.into_iter().unzip();
    let next = AtomicUsize::new(0);
    let seen: Mutex<Vec<Outcome>> = Mutex::new(vec![Outcome::default(); cases.len()]);
    let work = || {
        while let number = next.fetch_add(1, Ordering::Relaxed)
            && let Some(case) = cases.get(number)
        {
            let mut outcome = Outcome::default();
            for seed in 0..TIMES {
                outcome.add(seed, measure::measure(case, seed));
            }
            seen.lock().unwrap_or_else(PoisonError::into_inner)[number] = outcome;
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    keys.into_iter().zip(seen).collect()
}
