//! `ftvm doctor` and `ftvm probe-counter`: what this host can do.

use clap::Args;

use super::number::number;
use crate::counter_trial::{self, At, Counting, Trial};
use crate::doctor::Purpose;
use crate::kvm::branch_counter;

#[derive(Args)]
pub(super) struct DoctorArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct ProbeCounterArgs {
    /// Interrupts to deliver.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = number(0..=u64::MAX))]
    interrupts: u64,
    /// What the random numbers follow from.
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = number(0..=u64::MAX))]
    seed: u64,
    /// Largest number of instructions between two interrupts.
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = number(counter_trial::HANDLER..=u64::MAX))]
    distance: u64,
}

pub(super) fn doctor(args: &DoctorArgs) -> anyhow::Result<()> {
    let report = crate::doctor::examine(crate::doctor::Effort::All);
    if args.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    let purpose = Purpose::Replication {
        allow_nested_paging: false,
    };
    Ok(report.verdict(purpose)?)
}

pub(super) fn probe_counter(args: &ProbeCounterArgs) -> anyhow::Result<()> {
    match branch_counter::probe() {
        Ok(found) => println!(
            "performance counter: conditional branches as on {}; interrupts come up to {} late \
             (allowed for: {})",
            found.row.name, found.measured_skid, found.skid
        ),
        Err(error) => println!("performance counter: none: {:#}", anyhow::Error::new(error)),
    }
    for counting in [Counting::Instructions, Counting::Branches] {
        let trial = Trial {
            counting,
            interrupts: args.interrupts,
            seed: args.seed,
            distance: (counter_trial::HANDLER, args.distance),
        };
        tell_trial(counting, &trial.run()?);
    }
    for survived in counter_trial::survive(args.seed)? {
        let at = match survived.at {
            At::Recorder => "recorder",
            At::Replayer => "replayer",
        };
        println!(
            "a counter with a fault, survived: {:?} at the {at}: {}",
            survived.fault, survived.told
        );
    }
    Ok(())
}

fn tell_trial(counting: Counting, seen: &counter_trial::Seen) {
    let counted = match counting {
        Counting::Instructions => "instructions",
        Counting::Branches => "branches, by a counter made of single steps that stops late",
    };
    println!(
        "{counted}: no difference: {} interrupts at stops and {} at windows, {} stops, {} exits; \
         compared {} register sets, {} pages of memory; a log with one stop moved by one \
         was found out; the guest was the same as a free one at {} exits",
        seen.at_stops,
        seen.at_windows,
        seen.stops,
        seen.exits,
        seen.registers,
        seen.pages,
        seen.unseen
    );
}
