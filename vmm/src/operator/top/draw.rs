//! Paints the screen.

use disk_server::fleet::{State, VmStatus};
use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Paragraph, Wrap};

use super::keys::Action;
use super::model::{Model, Selected, Shown, Trends, is_suspended};
use crate::operator::hosts::HostSummary;
use crate::operator::table::{Column, table};
use crate::operator::view::{self, FAINT};
use crate::operator::{states, words};

const KEY: Style = Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD);
const BAD: Style = Style::new().fg(Color::Red);
const SELECTED: Style = Style::new().bg(Color::Indexed(236));
const TITLE: Style = Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD);

/// The fewest cells of a trend, and the most.
const TREND: (usize, usize) = (6, 30);

/// Full height of the bars of a guest that sends next to nothing, in bytes a second.
const QUIET: u64 = 100_000;

/// Paints the screen.
pub fn draw(frame: &mut Frame<'_>, model: &Model) {
    let hosts = model.snapshot.hosts.len().max(1);
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(4),
        Constraint::Length(
            u16::try_from(hosts + 2)
                .unwrap_or(u16::MAX)
                .min(frame.area().height / 3),
        ),
        Constraint::Length(3),
        Constraint::Length(2),
    ]);
    let [head, guests, hosts, detail, help] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(title(model, head.width)), head);
    draw_guests(frame, guests, model);
    draw_hosts(frame, hosts, model);
    frame.render_widget(
        Paragraph::new(about(model)).wrap(Wrap { trim: false }),
        detail,
    );
    frame.render_widget(Paragraph::new(keys(model)), help);
    match &model.shown {
        Shown::Fleet => {}
        Shown::Question(action) => draw_question(frame, action),
        Shown::History {
            title,
            entries,
            from,
        } => {
            let lines = match entries {
                None => vec![Line::styled("asking …", FAINT)],
                Some(entries) if entries.is_empty() => vec![Line::styled("nothing yet", FAINT)],
                Some(entries) => entries.iter().skip(*from).map(view::entry).collect(),
            };
            draw_popup(frame, &format!(" history: {title} "), lines);
        }
    }
}

/// The first line: whose fleet, and how it is in figures.
fn title(model: &Model, width: u16) -> Line<'static> {
    let vms = &model.snapshot.vms;
    let count = |of: fn(&State) -> bool| vms.iter().filter(|it| of(&it.state)).count();
    let protected = count(|state| *state == State::Protected);
    let stopped = count(|state| matches!(state, State::Stopped { .. }));
    let bad = vms.len() - protected - stopped;
    let mut spans = vec![
        Span::styled(" ftvm ", TITLE.add_modifier(Modifier::REVERSED)),
        Span::raw(format!("  {} guests", vms.len())),
        Span::styled(
            format!("  {protected} protected"),
            view::state_style(&State::Protected),
        ),
    ];
    if bad > 0 {
        spans.push(Span::styled(
            format!("  {bad} not"),
            BAD.add_modifier(Modifier::BOLD),
        ));
    }
    if stopped > 0 {
        spans.push(Span::styled(format!("  {stopped} stopped"), FAINT));
    }
    let right = match &model.lost {
        None => Span::styled(format!("{} ", model.server), FAINT),
        Some(_) if model.snapshot.unix_ms == 0 => Span::styled("connecting … ", FAINT),
        Some(_) => Span::styled(
            "service unreachable: trying again ",
            BAD.add_modifier(Modifier::BOLD),
        ),
    };
    let used: usize = spans.iter().map(Span::width).sum();
    let pad = usize::from(width).saturating_sub(used + right.width());
    spans.extend([Span::raw(" ".repeat(pad.max(1))), right]);
    Line::from(spans)
}

fn draw_guests(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let vms = &model.snapshot.vms;
    let selected = match model.selected {
        Selected::Guest(at) if !vms.is_empty() => Some(at),
        _ => None,
    };
    if vms.is_empty() {
        let text = match &model.lost {
            Some(_) => "",
            None => " no guests yet: `ftvm vm define FILE` makes one",
        };
        return frame.render_widget(Paragraph::new(Line::styled(text, FAINT)), area);
    }
    // What the trends leave is for the words.
    let width = usize::from(area.width);
    let trend = (width.saturating_sub(68) / 2).clamp(TREND.0, TREND.1);
    let row = |status: &VmStatus| {
        let mark = Span::styled("●", view::state_style(&status.state));
        let cells = view::guest_row(status, states::briefest(&status.state));
        std::iter::once(mark).chain(cells).collect()
    };
    let [vm, state, primary, backup, lag, log] = view::GUEST;
    let columns = [Column::left(""), vm, state, primary, backup, lag, log];
    let room = width.saturating_sub(2 * (trend + 1));
    let mut lines = table(&columns, vms.iter().map(row).collect(), room);
    for (line, status) in lines.iter_mut().skip(1).zip(vms) {
        if let Some(trends) = model.trends.get(&status.vm) {
            line.spans.extend(bars(status, trends, trend));
        }
    }
    draw_list(frame, area, lines, selected);
}

/// How a guest's lag and its log went lately, so many cells each.
fn bars(status: &VmStatus, trends: &Trends, width: usize) -> Vec<Span<'static>> {
    let lag = trends.lag.bars(width, status.lag.yellow_ms);
    let lag = lag.map(|(lag, bar)| Span::styled(bar.to_string(), view::lag_style(status.lag, lag)));
    let log = trends.log.bars(width, QUIET);
    let log = log.map(|(_, bar)| Span::styled(bar.to_string(), Color::Blue));
    let mut spans = Vec::new();
    for bars in [lag.collect::<Vec<_>>(), log.collect()] {
        // The latest is on the right.
        spans.push(Span::raw(" ".repeat(1 + width - bars.len())));
        spans.extend(bars);
    }
    spans
}

fn draw_hosts(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let hosts = &model.snapshot.hosts;
    let selected = match model.selected {
        Selected::Host(at) => Some(at),
        Selected::Guest(_) => None,
    };
    if hosts.is_empty() {
        return;
    }
    let columns = [
        Column::left(""),
        Column::left("HOST").cut_to(8),
        Column::left("STATE"),
        Column::right("FREE"),
        Column::left("PRIMARY OF").cut_to(12),
        Column::left("BACKUP OF").cut_to(12),
    ];
    let row = |host: &HostSummary| {
        let state = view::host_state(host);
        vec![
            Span::styled("■", state.style),
            Span::raw(host.host.to_string()),
            state,
            Span::raw(words::memory(host.memory_mib)),
            view::names(&host.primaries),
            view::names(&host.backups),
        ]
    };
    let lines = table(&columns, hosts.iter().map(row).collect(), area.width.into());
    draw_list(frame, area, lines, selected);
}

/// Lines below their titles; of more than there is room for those about the selected one.
fn draw_list(
    frame: &mut Frame<'_>,
    area: Rect,
    mut lines: Vec<Line<'static>>,
    selected: Option<usize>,
) {
    if area.height == 0 {
        return;
    }
    let room = usize::from(area.height - 1);
    let mut shown = vec![lines.remove(0).style(FAINT)];
    let first = selected.map_or(0, |at| (at + 1).saturating_sub(room));
    for (at, line) in lines.into_iter().enumerate().skip(first).take(room) {
        shown.push(match Some(at) == selected {
            true => line.style(SELECTED),
            false => line,
        });
    }
    frame.render_widget(Paragraph::new(shown), area);
}

/// What there is to say of the selected line, or of the last key.
fn about(model: &Model) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if let Some(message) = &model.message {
        let style = if message.bad {
            BAD
        } else {
            Style::new().fg(Color::Yellow)
        };
        lines.push(Line::styled(message.text.clone(), style));
    } else if let Some(why) = model.lost.as_ref().filter(|_| model.snapshot.unix_ms > 0) {
        let since = "what is shown is what it said last";
        lines.push(Line::styled(format!("{why} ({since})"), BAD));
    } else if let Some(status) = model.guest() {
        let style = view::state_style(&status.state);
        let name = Span::styled(status.vm.to_string(), Modifier::BOLD);
        let state = Span::styled(format!("  {}", status.state), style);
        lines.push(Line::from(vec![name, state]));
        lines.extend(states::remarks(status).into_iter().take(1).map(Line::raw));
        let mut more = vec![format!("view {}", status.view)];
        if let Some(last) = &status.last_failover {
            let when = words::ago(model.snapshot.unix_ms, last.unix_ms);
            let outage = words::span(last.outage_ms);
            more.push(format!("last failover {when}, outage {outage}"));
        }
        if let Some((order, what)) = &status.pending {
            more.push(format!("under way: {what} (order {order})"));
        }
        lines.push(Line::styled(more.join("   "), FAINT));
    } else if let Some(host) = model.host() {
        let name = Span::styled(host.host.to_string(), Modifier::BOLD);
        let what = format!("  {} paging, {}", host.paging, host.processor);
        lines.push(Line::from(vec![name, Span::styled(what, FAINT)]));
        let unfit = host
            .unfit
            .iter()
            .map(|(vm, why)| format!("no backup of {vm}: {} {why}", host.host));
        lines.extend(unfit.take(1).map(Line::from));
    }
    lines
}

/// What keys do: with the selected line, and besides.
fn keys(model: &Model) -> Vec<Line<'static>> {
    let suspend = match model.guest() {
        Some(status) if is_suspended(&status.state) => "resume",
        _ => "suspend",
    };
    let power = match model.guest().map(|status| &status.state) {
        Some(State::Stopped { .. }) => "start",
        _ => "stop",
    };
    let drain = match model.host() {
        Some(host) if host.draining => "undrain",
        _ => "drain",
    };
    let rows: [&[(&'static str, &'static str)]; 2] = match (&model.shown, model.selected) {
        (Shown::Question(_), _) => [&[("y", "yes"), ("any other key", "no")], &[]],
        (Shown::History { .. }, _) => [&[("↑↓", "scroll"), ("Esc", "back")], &[]],
        (Shown::Fleet, Selected::Host(_)) if model.moving.is_some() => [
            &[("m", "backup here"), ("M", "primary here")],
            &[("↑↓", "host"), ("Tab", "guests"), ("q", "quit")],
        ],
        (Shown::Fleet, Selected::Guest(_)) => [
            &[
                ("f", "failover"),
                ("t", "test-failover"),
                ("b", "restart-backup"),
                ("s", suspend),
                ("p", power),
            ],
            &[
                ("m", "migrate"),
                ("c", "console"),
                ("h", "history"),
                ("Tab", "hosts"),
                ("q", "quit"),
            ],
        ],
        (Shown::Fleet, Selected::Host(_)) => [
            &[("d", drain)],
            &[("h", "history"), ("Tab", "guests"), ("q", "quit")],
        ],
    };
    let row = |keys: &[(&'static str, &'static str)]| -> Line<'static> {
        let spans = keys
            .iter()
            .flat_map(|(key, what)| [Span::styled(*key, KEY), Span::raw(format!(" {what}  "))]);
        spans.collect()
    };
    rows.map(row).into()
}

fn draw_question(frame: &mut Frame<'_>, action: &Action) {
    let question = action.question().unwrap_or_default();
    let area = frame.area();
    let width = u16::try_from(question.len() + 6)
        .unwrap_or(u16::MAX)
        .min(area.width);
    let [area] = Layout::horizontal([Constraint::Length(width)])
        .flex(Flex::Center)
        .areas(area);
    // With long names the question takes several lines.
    let more = 2 * (question.len() / usize::from(width.max(1)));
    let height = u16::try_from(5 + more).unwrap_or(u16::MAX);
    let [area] = Layout::vertical([Constraint::Length(height)])
        .flex(Flex::Center)
        .areas(area);
    let answers = Line::from(vec![
        Span::styled("y", KEY),
        Span::raw(" yes   "),
        Span::styled("n", KEY),
        Span::raw(" no"),
    ]);
    let lines = vec![Line::raw(question), Line::default(), answers];
    frame.render_widget(Clear, area);
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().fg(Color::Yellow));
    let text = Paragraph::new(lines).wrap(Wrap { trim: true });
    frame.render_widget(text.centered().block(block), area);
}

fn draw_popup(frame: &mut Frame<'_>, title: &str, lines: Vec<Line<'static>>) {
    let area = frame.area();
    let [_, area, _] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(5),
        // What keys do.
        Constraint::Length(2),
    ])
    .areas(area);
    frame.render_widget(Clear, area);
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(FAINT)
        .title(Span::styled(title.to_owned(), TITLE));
    let text = Paragraph::new(lines).wrap(Wrap { trim: false });
    frame.render_widget(text.block(block), area);
}
