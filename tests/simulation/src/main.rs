//! Runs schedules, each of a seed: `cargo xtask simulate`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use clap::Parser;
use simulation::{Bounds, Defect, Failure, Matrix, Seen, run, run_moments, search};

/// So many schedules have one beside them in which everything is tried at every moment of two joins.
const MOMENTS: u64 = 1000;
/// At every one of so many.
const STEP: usize = 5;

/// Tries the protocol of hosts, their networks, the disk server and clients in simulated schedules.
#[derive(Debug, Parser)]
struct Simulate {
    /// How many schedules.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    schedules: u64,
    /// The seed of the first one; the others have the next ones.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// In place of schedules, everything that can happen to two hosts, and to three; then the same with
    /// what is broken on purpose.
    #[arg(long, conflicts_with_all = ["schedules", "seed"])]
    search: bool,
    /// In place of schedules, every cut of one link and of two, and every pair of crashes.
    #[arg(long, conflicts_with_all = ["schedules", "seed", "search"])]
    matrix: bool,
    /// Put the matrix into this directory too: the page `matrix.md`, with what `matrix/hosts.tsv` has of
    /// real hosts, and the picture `matrix/cuts.svg`.
    #[arg(long, value_name = "DIRECTORY", requires = "matrix")]
    write: Option<PathBuf>,
}

/// Makes the matrix, and puts it into a directory if there is one.
fn make_matrix(write: Option<&Path>) -> ExitCode {
    let start = Instant::now();
    let matrix = Matrix::run();
    println!("{matrix}, in {:.1} s", start.elapsed().as_secs_f64());
    let failures = matrix.failures();
    for failure in &failures {
        eprintln!("{failure}");
    }
    if let Some(directory) = write
        && let Err(what) = write_matrix(&matrix, directory)
    {
        eprintln!("FAIL: {what}");
        return ExitCode::FAILURE;
    }
    match failures.len() {
        0 => {
            println!("PASS");
            ExitCode::SUCCESS
        }
        some => {
            eprintln!("FAIL: {some}");
            ExitCode::FAILURE
        }
    }
}

fn write_matrix(matrix: &Matrix, directory: &Path) -> Result<(), String> {
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let write = |path: &Path, text: String| {
        fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
    };
    let page = directory.join("matrix.md");
    let hosts = read(&directory.join("matrix/hosts.tsv"))?;
    write(&page, matrix.fill(&read(&page)?, &hosts)?)?;
    write(&directory.join("matrix/cuts.svg"), matrix.picture())
}

/// Looks at everything that can happen within bounds.
fn search_all() -> ExitCode {
    println!("hosts  requests  backups  kills  cuts     states  depth  failovers  seconds");
    for bounds in [Bounds::TWO_HOSTS, Bounds::THREE_HOSTS] {
        let start = Instant::now();
        let searched = match search(bounds, None) {
            Ok(searched) => searched,
            Err(broken) => {
                eprintln!("FAIL: {broken}");
                return ExitCode::FAILURE;
            }
        };
        println!(
            "{:>5}  {:>8}  {:>7}  {:>5}  {:>4}  {:>9}  {:>5}  {:>9}  {:>7.1}",
            bounds.hosts,
            bounds.requests,
            bounds.backups,
            bounds.kills,
            bounds.cuts,
            searched.states,
            searched.depth,
            searched.failovers,
            start.elapsed().as_secs_f64()
        );
    }
    for defect in Defect::WITHOUT_TIME {
        let start = Instant::now();
        let Err(broken) = search(Bounds::TWO_HOSTS, Some(defect)) else {
            eprintln!("FAIL: {defect:?} is not found");
            return ExitCode::FAILURE;
        };
        println!(
            "{defect:?}: {}, in {} steps, after {} states and {:.1} s",
            broken.what,
            broken.steps.len(),
            broken.states,
            start.elapsed().as_secs_f64()
        );
    }
    println!("PASS");
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    let Simulate {
        schedules,
        seed,
        search,
        matrix,
        write,
    } = Simulate::parse();
    if search {
        return search_all();
    }
    if matrix {
        return make_matrix(write.as_deref());
    }
    let start = Instant::now();
    let next = AtomicU64::new(0);
    let seen: Mutex<(Seen, Vec<Box<Failure>>)> = Mutex::default();
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let mine = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if number >= schedules || !mine.1.is_empty() {
                return;
            }
            drop(mine);
            let seed = seed.wrapping_add(number);
            let found = run(seed, None).and_then(|mut seen| {
                if number.is_multiple_of(MOMENTS) {
                    seen += run_moments(seed, STEP)?;
                }
                Ok(seen)
            });
            let mut all = seen.lock().unwrap_or_else(PoisonError::into_inner);
            match found {
                Ok(one) => all.0 += one,
                Err(failure) => all.1.push(failure),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let (seen, failures) = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    for failure in &failures {
        println!("{failure}");
    }
    println!(
        "{} of {schedules} schedules in {:.1} s: {} failovers, {} joins and {} that were cut, {} renewals \
         and {} that were cut, {} outputs; in {} the only copy of the guest was killed",
        next.into_inner().min(schedules),
        start.elapsed().as_secs_f64(),
        seen.failovers,
        seen.joins,
        seen.joins_cut,
        seen.renewals,
        seen.renewals_cut,
        seen.outputs,
        seen.gone
    );
    match failures.first() {
        None => {
            println!("PASS");
            ExitCode::SUCCESS
        }
        Some(failure) => {
            eprintln!(
                "FAIL, again with --schedules 1 --seed {}: {}",
                failure.seed(),
                failure.broken()
            );
            ExitCode::FAILURE
        }
    }
}
