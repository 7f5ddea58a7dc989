//! `ftvm replay`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::events::EventsArgs;
use super::guest::{GuestArgs, ReplicationArgs};
use transport::{Endpoint, socket_address};

use crate::assembly::Guest;
use crate::inspect::{Dumps, Format, Point};
use crate::roles::{self, Inspection, Replayed};
use crate::sources::Verification;

#[derive(Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    replication: ReplicationArgs,
    #[command(flatten)]
    events: EventsArgs,
    /// File with the log.
    #[arg(value_name = "FILE")]
    log: PathBuf,
    /// Stop there, with the inputs that belong to the exit: an exit's ordinal (1234, 0 is the
    /// start), the exit where a log entry is used (lsn:567), or the guest's end (end).
    #[arg(long, value_name = "POINT")]
    until: Option<Point>,
    /// Where the replay stops, print the registers, or write guest memory to a file, byte N being
    /// guest-physical address N. May be given twice.
    #[arg(long, value_name = "regs|mem=FILE")]
    dump: Vec<Dump>,
    /// Print the registers as one JSON object.
    #[arg(long)]
    json: bool,
    /// Wait for a debugger there (GDB's remote protocol), at the stop or else at the start. It can
    /// look at everything and change nothing. The protocol has no authentication: whoever reaches
    /// the port reads the guest's memory.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = socket_address)]
    gdb: Option<SocketAddr>,
}

/// One `--dump`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Dump {
    Registers,
    Memory(PathBuf),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not something to dump: give `regs` or `mem=FILE`")]
struct BadDump;

impl FromStr for Dump {
    type Err = BadDump;

    fn from_str(word: &str) -> Result<Self, BadDump> {
        match word.strip_prefix("mem=") {
            Some(file) if !file.is_empty() => Ok(Self::Memory(file.into())),
            None if word == "regs" => Ok(Self::Registers),
            _ => Err(BadDump),
        }
    }
}

impl ReplayArgs {
    fn inspection(&self) -> Inspection {
        let mut dumps = Dumps::default();
        for dump in &self.dump {
            match dump {
                Dump::Registers if self.json => dumps.registers = Some(Format::Json),
                Dump::Registers => dumps.registers = Some(Format::Text),
                Dump::Memory(file) => dumps.memory = Some(file.clone()),
            }
        }
        Inspection {
            until: self.until,
            dumps,
            debugger: self.gdb,
            is_watched: self.gdb.is_some() || self.guest.has_console(),
        }
    }
}

pub(super) fn replay(args: &ReplayArgs) -> anyhow::Result<()> {
    let events = args.events.open(&args.guest)?;
    let assemble = |disk| {
        // It has no disk, and speaks with nobody.
        let host = args
            .guest
            .host(args.replication.purpose(), Endpoint::plain());
        let verification = Verification::EveryExit;
        let guest = Guest::assemble_for_replay(&args.guest.vm()?, &host, verification, disk)?;
        Ok(guest)
    };
    let replayed = roles::run_replay(&args.log, assemble, &args.inspection(), &events)?;
    let outcome = outcome(&replayed);
    if args.json || args.events.takes_standard_output() {
        log::info!("{outcome}"); // standard output is for programs
    } else {
        println!("{outcome}");
    }
    Ok(())
}

fn outcome(replayed: &Replayed) -> String {
    let Replayed { compared, arrival } = replayed;
    let words = format!(
        "no difference: {} exits, {} log entries; compared {} register digests, {} register sets, \
         {} digests of the whole state, {} pages of memory; {} states taken over",
        compared.exits,
        compared.entries,
        compared.digests,
        compared.registers,
        compared.states,
        compared.pages,
        compared.deltas
    );
    match arrival {
        None => words,
        Some(arrival) => format!(
            "stopped at exit {}, before log entry {}, RIP {:#x}\n{words}",
            arrival.exits, arrival.next.0, arrival.rip
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_are_read() {
        assert_eq!("regs".parse(), Ok(Dump::Registers));
        assert_eq!("mem=/tmp/a=b".parse(), Ok(Dump::Memory("/tmp/a=b".into())));
        for word in ["", "mem", "mem=", "registers", "regs=x"] {
            assert_eq!(word.parse::<Dump>(), Err(BadDump), "{word}");
        }
    }
}
