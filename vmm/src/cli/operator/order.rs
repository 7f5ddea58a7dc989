//! Gives an order, and waits until it is done.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use disk_server::arbiter::{HostName, VmName};
use disk_server::fleet::{HostVerb, OrderNumber, Subject, Verb};
use indicatif::{ProgressBar, ProgressStyle};
use ratatui::text::Line;
use serde::Serialize;

use super::ServiceArgs;
use super::output::{self, OutputArgs};
use crate::cli::outcome;
use crate::operator::client::{Client, ClientError};
use crate::operator::states::Obstacle;
use crate::operator::waiting::{self, Ordered, Outcome, Report};
use crate::operator::words;

/// Between two pictures of the line that shows the progress.
const FRAME: Duration = Duration::from_millis(100);

/// What all orders take.
#[derive(Args)]
pub(in crate::cli) struct OrderArgs {
    /// Do not wait until it is done.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    service: ServiceArgs,
}

/// What came of an order, for programs.
#[derive(Serialize)]
struct OrderJson<'a> {
    order: OrderNumber,
    #[serde(flatten)]
    subject: &'a Subject,
    verb: &'a str,
    /// `accepted`, `done` or `failed`.
    outcome: &'a str,
    /// How it went, or why not.
    words: &'a str,
    outage_ms: Option<u64>,
    unprotected_ms: Option<u64>,
}

/// Has this done with a guest.
pub(super) fn guest(args: &OrderArgs, vm: &VmName, verb: Verb, name: &str) -> anyhow::Result<()> {
    args.output.told(order_guest(args, vm, verb, name))
}

fn order_guest(args: &OrderArgs, vm: &VmName, verb: Verb, name: &str) -> anyhow::Result<()> {
    let client = args.service.client()?;
    let cancel = outcome::cancel_on_signals()?;
    let subject = Subject::Vm(vm.clone());
    let ordered = order(&client, &subject, || client.order_guest(vm, verb))?;
    carry_out(args, &client, &ordered, name, &cancel)
}

/// Has this done with a host; with this one, by itself, where none is named.
pub(super) fn host(
    args: &OrderArgs,
    host: Option<&HostName>,
    verb: HostVerb,
    name: &str,
) -> anyhow::Result<()> {
    args.output.told(order_host(args, host, verb, name))
}

fn order_host(
    args: &OrderArgs,
    host: Option<&HostName>,
    verb: HostVerb,
    name: &str,
) -> anyhow::Result<()> {
    let (client, host, is_own) = match host {
        Some(host) => (args.service.client()?, host.clone(), false),
        None => {
            let (client, host) = args.service.client_of_host()?;
            (client, host, true)
        }
    };
    let cancel = outcome::cancel_on_signals()?;
    let subject = Subject::Host(host.clone());
    let give = || {
        order(&client, &subject, || match is_own {
            true => client.order_own_host(&host, verb),
            false => client.order_host(&host, verb),
        })
    };
    let given = match (is_own, verb) {
        // The host is about to go down: a disk server that is started again meanwhile is waited for.
        (true, HostVerb::Drain) => {
            let mut is_told = false;
            let on_silence = |error: &ClientError| {
                if !std::mem::replace(&mut is_told, true) {
                    log::warn!("{error}: the drain waits for it");
                }
            };
            waiting::insist(&cancel, on_silence, give)
        }
        _ => give(),
    };
    carry_out(args, &client, &given?, name, &cancel)
}

/// Gives an order, and notes what the journal had before it.
fn order(
    client: &Client,
    subject: &Subject,
    give: impl FnOnce() -> Result<OrderNumber, ClientError>,
) -> Result<Ordered, ClientError> {
    let since = waiting::latest(client, subject)?;
    Ok(Ordered {
        order: give()?,
        subject: subject.clone(),
        since,
    })
}

fn carry_out(
    args: &OrderArgs,
    client: &Client,
    ordered: &Ordered,
    verb: &str,
    cancel: &AtomicBool,
) -> anyhow::Result<()> {
    let outcome = match args.no_wait {
        true => None,
        false => Some(wait(client, ordered, verb, cancel)?),
    };
    tell(args, ordered, verb, outcome)
}

fn wait(
    client: &Client,
    ordered: &Ordered,
    verb: &str,
    cancel: &AtomicBool,
) -> Result<Outcome, ClientError> {
    // On a terminal alone, and beside what is printed for programs.
    let line = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}  {elapsed}  {msg}") {
        line.set_style(style);
    }
    line.set_prefix(format!("{} {verb}", name(&ordered.subject)));
    line.enable_steady_tick(FRAME);
    let mut told = Obstacle::default();
    let waited = waiting::wait(client, ordered, cancel, |progress| {
        line.set_message(progress.words.clone());
        if let Some(lines) = progress.status.as_ref().and_then(|it| told.news(it)) {
            line.suspend(|| disk_server::lossy_writer::say(&waits(ordered, verb, &lines)));
        }
    });
    line.finish_and_clear();
    waited
}

/// That an order waits, and for what, also where there is no terminal.
fn waits(ordered: &Ordered, verb: &str, why: &[String]) -> String {
    let (subject, order) = (name(&ordered.subject), ordered.order);
    let why = why.join("\n  ");
    format!("ftvm: {subject}: {verb} (order {order}) waits: {why}\n")
}

fn tell(
    args: &OrderArgs,
    ordered: &Ordered,
    verb: &str,
    outcome: Option<Outcome>,
) -> anyhow::Result<()> {
    let (order, subject) = (ordered.order, name(&ordered.subject));
    let json = |outcome: &str, report: &Report| {
        output::print_json(&OrderJson {
            order,
            subject: &ordered.subject,
            verb,
            outcome,
            words: &report.how,
            outage_ms: report.outage_ms,
            unprotected_ms: report.unprotected_ms,
        })
    };
    match (outcome, args.output.json) {
        (None, true) => json("accepted", &Report::default()),
        (None, false) => say(format!("{subject}: {verb} is accepted as order {order}")),
        (Some(Outcome::Done(report)), true) => json("done", &report),
        (Some(Outcome::Done(report)), false) => say(done(&subject, verb, &report)),
        (Some(Outcome::Failed(why)), is_json) => {
            if is_json {
                let how = why.clone();
                json(
                    "failed",
                    &Report {
                        how,
                        ..Report::default()
                    },
                )?;
            }
            let verb = verb.to_owned();
            Err(outcome::NotDone { subject, verb, why }.into())
        }
        (Some(Outcome::Cancelled), is_json) => {
            if is_json {
                json("accepted", &Report::default())?;
            }
            let watch = match &ordered.subject {
                Subject::Vm(vm) => format!("ftvm vm status {vm}"),
                Subject::Host(_) => "ftvm host list".to_owned(),
            };
            Err(outcome::OrderStands { order, watch }.into())
        }
    }
}

fn say(text: String) -> anyhow::Result<()> {
    Ok(output::print(&[Line::raw(text)])?)
}

fn done(subject: &str, verb: &str, report: &Report) -> String {
    let mut text = format!("{subject}: {verb} is done: {}", report.how);
    if let Some(outage) = report.outage_ms {
        text += &format!("; the guest stood still for {}", words::span(outage));
    }
    if let Some(unprotected) = report.unprotected_ms {
        text += &format!("; protected again after {}", words::span(unprotected));
    }
    text
}

fn name(subject: &Subject) -> String {
    match subject {
        Subject::Vm(vm) => vm.to_string(),
        Subject::Host(host) => host.to_string(),
    }
}
