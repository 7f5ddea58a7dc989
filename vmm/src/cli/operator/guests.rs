//! `ftvm vm`.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::{Args, Subcommand};
use disk_server::arbiter::VmName;
use disk_server::fleet::{Verb, VmStatus};
use ratatui::text::Line;
use serde::Serialize;
use serde_json::json;

use super::order::{self, OrderArgs};
use super::output::{self, OutputArgs};
use super::{ServiceArgs, locate, now_ms};
use crate::cli::outcome;
use crate::host::CONFIG_FILE;
use crate::io::Terminal;
use crate::operator::client::{Client, ClientError};
use crate::operator::define::{self, Change};
use crate::operator::json::{self, GuestJson};
use crate::operator::settings::socket_of_daemon;
use crate::operator::{console, local, view};

#[derive(Args)]
pub(in crate::cli) struct VmArgs {
    #[command(subcommand)]
    command: VmCommand,
}

#[derive(Subcommand)]
enum VmCommand {
    /// Describe a guest once, for all hosts, or describe it anew.
    Define(DefineArgs),
    /// Forget a guest that does not run.
    Undefine(UndefineArgs),
    /// Run a guest, on the host that fits best, and protect it.
    Start(StartArgs),
    /// End a guest in order.
    Stop(VmOrderArgs),
    /// Tell how a guest is.
    Status(StatusArgs),
    /// List the guests.
    List(ListArgs),
    /// Join this terminal to a guest's console.
    ///
    /// On whichever host it runs: after a failover the console goes on there. Ctrl-A x ends it.
    Console(ConsoleArgs),
}

#[derive(Args)]
struct DefineArgs {
    /// The guest's configuration (TOML). Its images are hashed, and each host checks its own by that.
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Args)]
struct UndefineArgs {
    /// The guest.
    vm: VmName,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Args)]
struct StartArgs {
    /// The guest.
    vm: VmName,
    /// Also where a host that may run it already does not answer. Only when that host is certainly gone.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    order: OrderArgs,
}

/// A guest, and an order for it.
#[derive(Args)]
pub(in crate::cli) struct VmOrderArgs {
    /// The guest.
    pub(super) vm: VmName,
    #[command(flatten)]
    pub(super) order: OrderArgs,
}

#[derive(Args)]
struct StatusArgs {
    /// The guest.
    vm: VmName,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Args)]
struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Args)]
struct ConsoleArgs {
    /// The guest.
    vm: VmName,
    #[command(flatten)]
    service: ServiceArgs,
}

/// Guests, and who knows them.
#[derive(Serialize)]
struct KnownJson<T: Serialize> {
    /// Or it is what the daemon of `known_by` knows.
    service_reachable: bool,
    known_by: Option<String>,
    #[serde(flatten)]
    guests: T,
}

#[derive(Serialize)]
struct GuestsJson<'a> {
    vms: Vec<GuestJson<'a>>,
}

/// Runs the command.
pub(in crate::cli) fn vm(args: &VmArgs) -> anyhow::Result<()> {
    match &args.command {
        VmCommand::Define(args) => args.output.told(define(args)),
        VmCommand::Undefine(args) => args.output.told(undefine(args)),
        VmCommand::Start(args) => {
            let verb = Verb::Start { force: args.force };
            order::guest(&args.order, &args.vm, verb, "start")
        }
        VmCommand::Stop(args) => order::guest(&args.order, &args.vm, Verb::Stop {}, "stop"),
        VmCommand::Status(args) => args.output.told(status(args)),
        VmCommand::List(args) => args.output.told(list(args)),
        VmCommand::Console(args) => console(args),
    }
}

fn define(args: &DefineArgs) -> anyhow::Result<()> {
    let client = args.service.client()?;
    let definition = define::read(&args.file)?;
    let vm = definition.vm.clone();
    let present = client.definition(&vm)?;
    let changes = define::changes(present.as_ref(), &definition);
    let order = match (&present, &changes[..]) {
        (Some(_), []) => None,
        _ => Some(client.define(definition)?),
    };
    if args.output.json {
        let changes: Vec<_> = (changes.iter())
            .map(|change| json!({"field": change.field, "from": change.from, "to": change.to}))
            .collect();
        return output::print_json(&json!({"vm": vm, "order": order, "changes": changes}));
    }
    let head = match (&present, order) {
        (None, _) => format!("{vm} is defined: `ftvm vm start {vm}` runs it"),
        (Some(_), Some(_)) => format!("{vm} is defined anew:"),
        (Some(_), None) => format!("{vm} is defined like that already"),
    };
    let mut lines = vec![Line::raw(head)];
    lines.extend(changes.iter().map(changed));
    Ok(output::print(&lines)?)
}

fn changed(change: &Change) -> Line<'static> {
    let Change { field, from, to } = change;
    Line::raw(match (from, to) {
        (None, Some(to)) => format!("  {field}: {to}"),
        (Some(from), Some(to)) => format!("  {field}: {from} → {to}"),
        (Some(from), None) => format!("  {field}: {from} → nothing"),
        (None, None) => format!("  {field}"),
    })
}

fn undefine(args: &UndefineArgs) -> anyhow::Result<()> {
    let (client, vm) = (args.service.client()?, &args.vm);
    let order = client.undefine(vm)?;
    match args.output.json {
        true => output::print_json(&json!({"vm": vm, "order": order})),
        false => Ok(output::print(&[Line::raw(format!("{vm} is forgotten"))])?),
    }
}

fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let (client, vm) = (args.service.client()?, &args.vm);
    let (known_by, status) = match client.status(vm) {
        Ok(status) => (None, status),
        Err(error) => {
            let (host, guests) = locally(error)?;
            let known = guests.into_iter().find(|status| status.vm == *vm);
            let unknown = || anyhow::anyhow!("{host} has no process of {vm}, and knows no more");
            (Some(host.clone()), known.ok_or_else(unknown)?)
        }
    };
    match args.output.json {
        true => output::print_json(&KnownJson {
            service_reachable: known_by.is_none(),
            known_by,
            guests: json::guest(&status),
        }),
        false => Ok(output::print(&view::status(&status, now_ms()))?),
    }
}

fn list(args: &ListArgs) -> anyhow::Result<()> {
    let client = args.service.client()?;
    let (known_by, vms) = match client.list() {
        Ok(vms) => (None, vms),
        Err(error) => {
            let (host, guests) = locally(error)?;
            (Some(host), guests)
        }
    };
    match args.output.json {
        true => output::print_json(&KnownJson {
            service_reachable: known_by.is_none(),
            known_by,
            guests: GuestsJson {
                vms: vms.iter().map(json::guest).collect(),
            },
        }),
        false => Ok(output::print(&view::guests(&vms, output::width()))?),
    }
}

/// What this host's daemon knows, in place of a service that does not answer; which is told.
fn locally(error: ClientError) -> anyhow::Result<(String, Vec<VmStatus>)> {
    if !matches!(error, ClientError::Unreachable(_)) {
        return Err(error.into());
    }
    let error = anyhow::Error::from(error);
    let Some(socket) = socket_of_daemon(Path::new(CONFIG_FILE)) else {
        return Err(error);
    };
    let known = local::ask(&socket);
    let known =
        known.map_err(|local| anyhow::anyhow!("{error:#}; {:#}", anyhow::Error::from(local)))?;
    let host = known.host.to_string();
    disk_server::lossy_writer::say(&format!("ftvm: {error:#}; this is what {host} knows\n"));
    Ok((host, known.guests()))
}

fn console(args: &ConsoleArgs) -> anyhow::Result<()> {
    let client = args.service.client()?;
    attach(&client, &args.vm, &*outcome::leave_on_signals()?)
}

/// Joins this terminal to a guest's console, until `cancel` is set at the latest.
pub(super) fn attach(client: &Client, vm: &VmName, cancel: &AtomicBool) -> anyhow::Result<()> {
    // What keeps it is told before the terminal is no longer one for text.
    locate(client, vm)?;
    let terminal = Terminal::raw()?;
    let attached = console::attach(
        vm,
        client.endpoint(),
        || locate(client, vm),
        io::stdin(),
        io::stdout(),
        cancel,
    );
    drop(terminal);
    if io::stdin().is_terminal() {
        output::print(&[Line::default()])?;
    }
    Ok(attached?)
}
