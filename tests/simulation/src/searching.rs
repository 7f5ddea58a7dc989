//! Everything that can happen within bounds, as a table; then what is broken on purpose.

use std::process::ExitCode;
use std::time::Instant;

use simulation::{Bounds, VARIANTS, Variant, search};

/// Searches within all bounds, and for every defect.
pub(crate) fn all() -> ExitCode {
    println!(
        "{:<14}  hosts     states  depth  failovers  seconds",
        "bounds"
    );
    for bounds in Bounds::TWO_HOSTS.into_iter().chain(Bounds::THREE_HOSTS) {
        let start = Instant::now();
        let searched = match search(bounds, None) {
            Ok(searched) => searched,
            Err(broken) => {
                eprintln!("FAIL within {}: {broken}", bounds.name);
                return ExitCode::FAILURE;
            }
        };
        println!(
            "{:<14}  {:>5}  {:>9}  {:>5}  {:>9}  {:>7.1}",
            bounds.name,
            bounds.hosts,
            searched.states,
            searched.depth,
            searched.failovers,
            start.elapsed().as_secs_f64()
        );
    }
    println!();
    for Variant {
        defect,
        rule,
        bounds,
    } in VARIANTS
    {
        let start = Instant::now();
        let name = format!("{defect:?}");
        match search(bounds, Some(defect)) {
            Err(broken) if broken.rule == rule => println!(
                "{name:<27}  {:>3} steps  {:>7} states  {:>4.1} s  {rule}: {}",
                broken.steps.len(),
                broken.states,
                start.elapsed().as_secs_f64(),
                broken.what,
            ),
            found => {
                eprintln!(
                    "FAIL: {name} does not break {rule} within {}: {found:?}",
                    bounds.name
                );
                return ExitCode::FAILURE;
            }
        }
    }
    println!("PASS");
    ExitCode::SUCCESS
}
