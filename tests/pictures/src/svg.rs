//! A screen as SVG.

use std::fmt::Write as _;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

/// Pixels of a cell, and around the screen.
const CELL: (f64, f64) = (8.4, 18.0);
const MARGIN: f64 = 14.0;
/// Of the text's base line, below the top of its cell.
const BASE: f64 = 13.5;

const BACKGROUND: &str = "#16181d";
const FOREGROUND: &str = "#d5d8de";

/// The picture.
pub(super) fn write(buffer: &Buffer) -> String {
    let area = buffer.area;
    let width = f64::from(area.width) * CELL.0 + 2.0 * MARGIN;
    let height = f64::from(area.height) * CELL.1 + 2.0 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" width=\"{width:.0}\" \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n"
    );
    for y in 0..area.height {
        let row: Vec<&Cell> = (0..area.width).map(|x| &buffer[(x, y)]).collect();
        let mut from = 0;
        for run in row.chunk_by(|one, other| look(one) == look(other)) {
            paint(&mut svg, run, (from, y));
            from += run.len();
        }
    }
    svg + "</svg>\n"
}

/// What cells have in common that are painted at once: colours, weight, and whether they are bars.
fn look(cell: &Cell) -> (&'static str, Option<&'static str>, bool, bool) {
    let (mut text, mut ground) = (colour(cell.fg), background(cell.bg));
    if cell.modifier.contains(Modifier::REVERSED) {
        (text, ground) = (ground.unwrap_or(BACKGROUND), Some(text));
    }
    let is_bold = cell.modifier.contains(Modifier::BOLD);
    (text, ground, is_bold, bar(cell).is_some())
}

/// The height of a bar, in eighths of a cell: fonts differ in how they have these.
fn bar(cell: &Cell) -> Option<u32> {
    let mut characters = cell.symbol().chars();
    let code = u32::from(characters.next()?);
    (0x2581..=0x2588).contains(&code).then(|| code - 0x2580)
}

fn paint(svg: &mut String, run: &[&Cell], (column, row): (usize, u16)) {
    let (text, ground, is_bold, _) = look(run[0]);
    let x = column as f64 * CELL.0 + MARGIN;
    let y = f64::from(row) * CELL.1 + MARGIN;
    let width = run.len() as f64 * CELL.0;
    // Writing to a string does not fail.
    if let Some(ground) = ground {
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{ground}\"/>",
            CELL.1
        );
    }
    if bar(run[0]).is_some() {
        let mut path = String::new();
        for (at, cell) in run.iter().enumerate() {
            let height = f64::from(bar(cell).unwrap_or(0)) / 8.0 * (CELL.1 - 4.0);
            let left = x + at as f64 * CELL.0 + 0.7;
            let _ = write!(
                path,
                "M{left:.1} {:.1}v-{height:.1}h{:.1}v{height:.1}z",
                y + CELL.1 - 2.0,
                CELL.0 - 1.4
            );
        }
        let _ = writeln!(svg, "<path d=\"{path}\" fill=\"{text}\"/>");
        return;
    }
    let words: String = run.iter().map(|cell| cell.symbol()).collect();
    if words.trim().is_empty() {
        return;
    }
    let weight = if is_bold { " font-weight=\"bold\"" } else { "" };
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{width:.1}\" fill=\"{text}\"{weight} xml:space=\"preserve\">{}</text>",
        y + BASE,
        escaped(&words)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn background(colour: Color) -> Option<&'static str> {
    match colour {
        Color::Reset => None,
        Color::Indexed(236) => Some("#303030"),
        other => Some(self::colour(other)),
    }
}

fn colour(colour: Color) -> &'static str {
    match colour {
        Color::Green => "#7bc275",
        Color::Yellow => "#e0b54e",
        Color::Red => "#ec6a64",
        Color::Cyan => "#5fc4cf",
        Color::Blue => "#6a9ff0",
        Color::DarkGray => "#7d828c",
        _ => FOREGROUND,
    }
}
