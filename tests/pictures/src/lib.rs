//! What operators see of ftvm, as pictures for the documentation: drawn by the product itself, of a fleet that
//! is made up.

mod fleet;
mod svg;

use ftvm_vmm::operator::top::{Key, Model, draw};
use ftvm_vmm::operator::view;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Widget};

/// Cells of the screen.
const TOP: (u16, u16) = (100, 24);

/// So wide is a terminal for everything else.
const WIDTH: u16 = 80;

/// The pictures, each with the name of its file.
///
/// # Panics
/// The product does not draw into memory.
#[must_use]
pub fn pictures() -> [(&'static str, String); 2] {
    [
        ("top.svg", svg::write(&top())),
        ("status.svg", svg::write(&status())),
    ]
}

/// `ftvm top`, after a minute.
fn top() -> Buffer {
    let mut model = Model::new("10.0.2.9:7420".into());
    for second in 0..60 {
        model.see(fleet::snapshot(second));
    }
    for _ in 0..3 {
        model.hit(Key::Down);
    }
    let mut terminal = Terminal::new(TestBackend::new(TOP.0, TOP.1)).expect("a screen");
    terminal
        .draw(|frame| draw(frame, &model))
        .expect("it is drawn");
    terminal.backend().buffer().clone()
}

/// `ftvm vm status` of a guest that is well and of one that is not, and what happened to the first.
fn status() -> Buffer {
    let fleet = fleet::snapshot(59);
    let of = |name: &str| fleet.vms.iter().find(|status| status.vm.as_str() == name);
    let mut lines = Vec::new();
    let mut said = |command: &str, answer: Vec<Line<'static>>| {
        if !lines.is_empty() {
            lines.push(Line::default());
        }
        let prompt = Span::styled("$ ", Style::new().fg(Color::DarkGray));
        lines.push(Line::from(vec![prompt, Span::raw(command.to_owned())]));
        lines.extend(answer);
    };
    for name in ["db", "mail"] {
        let status = of(name).expect("a guest");
        said(
            &format!("ftvm vm status {name}"),
            view::status(status, fleet.unix_ms),
        );
    }
    let history = fleet::history().iter().map(view::entry).collect();
    said("ftvm history db --limit 8", history);
    let height = u16::try_from(lines.len()).expect("a page");
    let widest = lines.iter().map(Line::width).max().unwrap_or(0);
    let width = u16::try_from(widest).expect("a page").max(WIDTH);
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    Paragraph::new(lines).render(buffer.area, &mut buffer);
    buffer
}
