//! `ftvm check`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;

use crate::check::{self, CheckError, Kind};

#[derive(Args)]
pub(super) struct CheckArgs {
    /// The configuration (TOML).
    file: PathBuf,
    /// What it configures, where what it says does not show that.
    #[arg(long = "as", value_name = "KIND")]
    kind: Option<Kind>,
}

/// Faults are what is asked for: they go where answers go.
pub(super) fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let file = args.file.display();
    match check::check(&args.file, args.kind) {
        Ok(kind) => {
            let told = writeln!(
                io::stdout(),
                "{file}: {}, nothing is wrong",
                kind.in_words()
            );
            Ok(told?)
        }
        Err(CheckError::Wrong(faults)) => {
            writeln!(io::stdout(), "{}", faults.join("\n"))?;
            match faults.len() {
                1 => anyhow::bail!("{file}: 1 fault"),
                many => anyhow::bail!("{file}: {many} faults"),
            }
        }
        Err(error) => Err(error.into()),
    }
}
