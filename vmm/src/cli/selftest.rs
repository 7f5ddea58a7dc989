//! `ftvm selftest`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::guest::ReplicationArgs;
use super::number::number;
use super::outcome::{self, SelftestFailed};
use crate::selftest::{self, Task, Verdict};

#[derive(Args)]
pub(super) struct SelftestArgs {
    /// How long to go on, in minutes: a turn of guests is gone through to its end, and one at least.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = number(0..=10_080))]
    minutes: u64,
    /// Keep all recordings in a new directory, for --replay on another host.
    #[arg(long, value_name = "DIR", conflicts_with = "replay")]
    record: Option<PathBuf>,
    /// Replay what --record kept on another host, in place of recording.
    #[arg(long, value_name = "DIR", conflicts_with = "minutes")]
    replay: Option<PathBuf>,
    /// Directory with the test guests, as `cargo xtask images` makes it [default: .ftvm/images here, or
    /// where this program was built, or `images` beside it]
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    #[command(flatten)]
    replication: ReplicationArgs,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn selftest(args: &SelftestArgs) -> anyhow::Result<()> {
    let task = match &args.replay {
        Some(directory) => Task::Replay(directory.clone()),
        None => Task::Here {
            time: Duration::from_secs(60 * args.minutes),
            keep: args.record.clone(),
        },
    };
    let cancel = outcome::cancel_on_signals()?;
    let images = args.images.clone().unwrap_or_else(default_images);
    let report = selftest::run(&task, &images, args.replication.purpose(), &cancel)?;
    if args.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    match (report.verdict(), report.refused()) {
        (Verdict::Pass, _) => Ok(()),
        (Verdict::Fail, Some(why)) => Err(SelftestFailed::Refused(why.to_owned()).into()),
        (Verdict::Fail, None) if report.differs() => Err(SelftestFailed::Differs.into()),
        (Verdict::Fail, None) => Err(SelftestFailed::Failed.into()),
    }
}

/// The first directory that is there of those where the images may be.
fn default_images() -> PathBuf {
    const MADE: &str = ".ftvm/images";
    let program = std::env::current_exe().unwrap_or_default();
    // The program is in target/release.
    let checkout = program
        .ancestors()
        .nth(3)
        .map(|checkout| checkout.join(MADE));
    let beside = program.parent().map(|folder| folder.join("images"));
    let places = [checkout, beside].into_iter().flatten();
    let mut places = [PathBuf::from(MADE)].into_iter().chain(places);
    places
        .find(|place| place.is_dir())
        .unwrap_or_else(|| Path::new(MADE).to_owned())
}
