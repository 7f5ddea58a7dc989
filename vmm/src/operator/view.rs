//! How guests, hosts and what happened are told to a person.

use std::borrow::Cow;

use disk_server::arbiter::VmName;
use disk_server::fleet::{
    Entry, LagBounds, LagColour, Member, Reason, State, Subject, VmStatus, What,
};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::hosts::HostSummary;
use super::table::{Column, table};
use super::{states, words};

/// What is less important.
pub const FAINT: Style = Style::new().fg(Color::DarkGray);

/// What a person should look at.
const BAD: Style = Style::new().fg(Color::Red);
/// What mends itself.
const SOON: Style = Style::new().fg(Color::Yellow);
const GOOD: Style = Style::new().fg(Color::Green);

/// The colour of a state: green where all is well, yellow where that is under way or wanted so, red where
/// somebody has to see to it.
#[must_use]
pub fn state_style(state: &State) -> Style {
    match state {
        State::Protected => GOOD,
        State::Stopped { reason: None } => FAINT,
        State::Stopped { reason: Some(_) } => BAD,
        State::NotProtected(reason) | State::NotRunning(reason) => match reason {
            Reason::Starting {}
            | Reason::Joining { .. }
            | Reason::Diverged {}
            | Reason::Suspended { .. }
            | Reason::Stopping {} => SOON,
            Reason::NoIdleHost { .. }
            | Reason::Lagging { .. }
            | Reason::LoggingNetworkDown { .. }
            | Reason::ServiceUnreachable {}
            | Reason::Unknown { .. } => BAD,
        },
    }
}

/// The colour of a lag.
#[must_use]
pub fn lag_style(bounds: LagBounds, lag_ms: u64) -> Style {
    match bounds.colour(lag_ms) {
        LagColour::Green => GOOD,
        LagColour::Yellow => SOON,
        LagColour::Red => BAD,
    }
}

/// A guest in a few lines.
#[must_use]
pub fn status(status: &VmStatus, now_ms: u64) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let name = Span::styled(status.vm.to_string(), bold);
    let state = Span::styled(states::brief(&status.state), state_style(&status.state));
    let mut lines = vec![Line::from(vec![name, Span::raw("  "), state])];
    let mut row = |label: &str, value: Vec<Span<'static>>| {
        let label = Span::styled(format!("  {label:<15}"), FAINT);
        lines.push(Line::from_iter([vec![label], value].concat()));
    };
    let why = states::because(&status.state).into_iter();
    let labels = std::iter::once("because").chain(std::iter::repeat(""));
    for (label, text) in labels.zip(why.chain(states::advice(status))) {
        row(label, vec![Span::raw(text)]);
    }
    if !status.defined {
        let text = "it was started by hand, and takes no orders";
        row("by hand", vec![Span::raw(text)]);
    }
    let placement = &status.placement;
    if placement.primary.is_some() || placement.backup.is_some() {
        row("primary", vec![member(placement.primary.as_ref())]);
        row("backup", vec![member(placement.backup.as_ref())]);
    }
    if status.view > 0 {
        row("view", vec![Span::raw(status.view.to_string())]);
    }
    if let Some(lag) = status.lag_ms {
        let style = lag_style(status.lag, lag);
        row("lag", vec![Span::styled(words::span(lag), style)]);
    }
    if let Some(rate) = status.log_bytes_per_second {
        row("log", vec![Span::raw(words::rate(rate))]);
    }
    if let Some(last) = &status.last_failover {
        let (when, outage) = (
            words::ago(now_ms, last.unix_ms),
            words::span(last.outage_ms),
        );
        let text = format!("{when}, outage {outage}, won view {}", last.view);
        row("last failover", vec![Span::raw(text)]);
    }
    if let Some(last) = &status.last_failure {
        let when = words::ago(now_ms, last.unix_ms);
        let text = format!("{when}, {}", states::failed(last));
        row("last failure", vec![Span::raw(text)]);
        row("", vec![Span::raw(states::log_of(last, status))]);
    }
    if let Some((order, what)) = &status.pending {
        let text = format!("{what} (order {order})");
        row("under way", vec![Span::styled(text, SOON)]);
    }
    lines
}

fn member(member: Option<&Member>) -> Span<'static> {
    match member {
        None => Span::styled("–", FAINT),
        Some(member) if member.live => Span::raw(member.host.to_string()),
        Some(member) => Span::styled(format!("{} (its pings stay away)", member.host), BAD),
    }
}

/// The columns of [`guest_row`].
pub const GUEST: [Column; 6] = [
    Column::left("VM").cut_to(8),
    Column::left("STATE").cut_to(12),
    Column::left("PRIMARY").cut_to(7),
    Column::left("BACKUP").cut_to(6),
    Column::right("LAG"),
    Column::right("LOG"),
];

/// A guest as a row, with its state in these words.
#[must_use]
pub fn guest_row(status: &VmStatus, state: String) -> Vec<Span<'static>> {
    let host = |member: &Option<Member>| match member {
        None => Span::styled("–", FAINT),
        Some(member) => {
            let style = if member.live { Style::new() } else { BAD };
            Span::styled(member.host.to_string(), style)
        }
    };
    let none = || Span::styled("–", FAINT);
    let lag = status.lag_ms.map_or_else(none, |lag| {
        Span::styled(words::span(lag), lag_style(status.lag, lag))
    });
    let rate = status.log_bytes_per_second;
    vec![
        Span::raw(status.vm.to_string()),
        Span::styled(state, state_style(&status.state)),
        host(&status.placement.primary),
        host(&status.placement.backup),
        lag,
        rate.map_or_else(none, |rate| Span::raw(words::rate(rate))),
    ]
}

/// A table of guests, and what can be done about those that are not well.
#[must_use]
pub fn guests(vms: &[VmStatus], width: usize) -> Vec<Line<'static>> {
    if vms.is_empty() {
        return vec!["no guests yet: `ftvm vm define FILE` makes one".into()];
    }
    let row = |status: &VmStatus| guest_row(status, states::brief(&status.state));
    let mut lines = table(&GUEST, vms.iter().map(row).collect(), width);
    let remarks = vms.iter().flat_map(|status| {
        let of_it = states::remarks(status).into_iter();
        of_it.map(move |remark| Line::raw(format!("{}: {remark}", status.vm)))
    });
    let mut remarks = remarks.peekable();
    if remarks.peek().is_some() {
        lines.push(Line::default());
        lines.extend(remarks);
    }
    lines
}

/// What a host is, in a word.
#[must_use]
pub fn host_state(host: &HostSummary) -> Span<'static> {
    let (word, style) = match (host.live, host.draining) {
        (false, _) => ("dead", BAD),
        (true, true) if host.primaries.is_empty() && host.backups.is_empty() => ("drained", SOON),
        (true, true) => ("draining", SOON),
        (true, false) if !host.tended => ("no daemon", SOON),
        (true, false) => ("live", GOOD),
    };
    Span::styled(word, style)
}

/// Names in a row.
#[must_use]
pub fn names(names: &[VmName]) -> Span<'static> {
    let text: Vec<&str> = names.iter().map(VmName::as_str).collect();
    match text.is_empty() {
        true => Span::styled("–", FAINT),
        false => Span::raw(text.join(" ")),
    }
}

/// A table of hosts, and for each guest that lacks a backup why it is on none of them.
#[must_use]
pub fn hosts(hosts: &[HostSummary], width: usize) -> Vec<Line<'static>> {
    if hosts.is_empty() {
        return vec!["no host has pinged yet: start `ftvm host` on each".into()];
    }
    let columns = [
        Column::left("HOST").cut_to(8),
        Column::left("STATE"),
        Column::right("FREE"),
        Column::left("PAGING"),
        Column::left("PRIMARY OF").cut_to(10),
        Column::left("BACKUP OF").cut_to(9),
        Column::left("PROCESSOR").cut_to(9),
    ];
    let row = |host: &HostSummary| {
        vec![
            Span::raw(host.host.to_string()),
            host_state(host),
            Span::raw(words::memory(host.memory_mib)),
            Span::raw(host.paging.to_string()),
            names(&host.primaries),
            names(&host.backups),
            Span::raw(host.processor.to_string()),
        ]
    };
    let mut lines = table(&columns, hosts.iter().map(row).collect(), width);
    let unfit = |host: &HostSummary| {
        host.unfit
            .iter()
            .map(|(vm, _)| vm.clone())
            .collect::<Vec<_>>()
    };
    let mut lacking: Vec<VmName> = hosts.iter().flat_map(unfit).collect();
    lacking.sort();
    lacking.dedup();
    for vm in lacking {
        lines.push(Line::default());
        lines.push(Line::raw(format!("{vm} has no backup:")));
        for host in hosts {
            let why = host.unfit.iter().filter(|(of, _)| *of == vm);
            lines.extend(why.map(|(_, why)| Line::raw(format!("  {} {why}", host.host))));
        }
    }
    lines
}

/// What happened, in a line.
#[must_use]
pub fn entry(entry: &Entry) -> Line<'static> {
    let subject: Cow<'_, str> = match &entry.subject {
        Subject::Vm(vm) => vm.as_str().into(),
        Subject::Host(host) => format!("host {host}").into(),
    };
    let (text, style) = what(&entry.what);
    Line::from(vec![
        Span::styled(words::time(entry.unix_ms), FAINT),
        Span::raw(format!("  {subject:<10}  ")),
        Span::styled(text, style),
    ])
}

/// What happened, in words.
#[must_use]
pub fn what(what: &What) -> (String, Style) {
    let plain = Style::new();
    match what {
        What::Ordered { by, what, order } => (format!("{by}: {what} (order {order})"), plain),
        What::Done { order, how } => (format!("order {order} is done: {how}"), GOOD),
        What::Failed { order, why } => (format!("order {order} is not done: {why}"), BAD),
        What::Deferred { order, why } => (format!("order {order} is not done yet: {why}"), plain),
        What::View {
            view,
            primary,
            backup,
        } => {
            let who = match (primary, backup) {
                (None, _) => "nobody runs it".to_owned(),
                (Some(primary), None) => format!("{} alone", primary.host()),
                (Some(primary), Some(backup)) => {
                    format!("{}, with {} as backup", primary.host(), backup.host())
                }
            };
            (format!("view {view}: {who}"), plain)
        }
        What::State(state) => (state.to_string(), state_style(state)),
        What::Failover {
            view,
            outage_ms,
            from,
            to,
            cause,
        } => {
            let from = from.as_ref().map(|from| format!(" from {from}"));
            let cause = cause.map(|cause| format!(" {cause}"));
            let outage = words::span(*outage_ms);
            let text = format!(
                "failover{} to {to}{}: outage {outage}, view {view}",
                from.unwrap_or_default(),
                cause.unwrap_or_default()
            );
            (text, SOON.add_modifier(Modifier::BOLD))
        }
        What::Ended {
            host,
            status,
            reason,
        } => {
            let status = status.map(|status| format!(" with status {status}"));
            let status = status.unwrap_or_default();
            (
                format!("its process on {host} ended{status}: {reason}"),
                plain,
            )
        }
        What::Live {} => ("live: its pings come".into(), GOOD),
        What::Dead {} => ("dead: its pings stay away".into(), BAD),
    }
}
