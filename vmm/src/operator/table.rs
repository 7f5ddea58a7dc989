//! Tables that fit a terminal.

use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

/// What stands between two columns.
const GAP: usize = 2;

/// A column.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    title: &'static str,
    right: bool,
    /// The fewest cells that it can be cut to; `None` if it is never cut.
    least: Option<usize>,
}

impl Column {
    /// Of words.
    #[must_use]
    pub const fn left(title: &'static str) -> Self {
        Self {
            title,
            right: false,
            least: None,
        }
    }

    /// Of figures.
    #[must_use]
    pub const fn right(title: &'static str) -> Self {
        Self {
            title,
            right: true,
            least: None,
        }
    }

    /// May be cut where the table is too wide, down to so many cells.
    #[must_use]
    pub const fn cut_to(self, least: usize) -> Self {
        Self {
            least: Some(least),
            ..self
        }
    }
}

/// Lines for rows of cells, with the titles first: as wide as they need, and at most `width`, as far as columns
/// can be cut.
#[must_use]
pub fn table(
    columns: &[Column],
    rows: Vec<Vec<Span<'static>>>,
    width: usize,
) -> Vec<Line<'static>> {
    let cells = |at: usize| rows.iter().filter_map(move |row| row.get(at));
    let mut widths: Vec<usize> = (columns.iter().enumerate())
        .map(|(at, column)| {
            let widest = cells(at).map(Span::width).max().unwrap_or(0);
            widest.max(column.title.len())
        })
        .collect();
    shrink(columns, &mut widths, width);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let titles = columns.iter().map(|it| Span::styled(it.title, bold));
    let mut lines = vec![line(columns, &widths, titles.collect())];
    lines.extend(rows.into_iter().map(|row| line(columns, &widths, row)));
    lines
}

/// Takes cells from the widest column that can be cut, until all fit.
fn shrink(columns: &[Column], widths: &mut [usize], width: usize) {
    let gaps = GAP * columns.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > width {
        let cuttable = |at: &usize| columns[*at].least.is_some_and(|least| widths[*at] > least);
        let widest = (0..columns.len())
            .filter(cuttable)
            .max_by_key(|at| widths[*at]);
        let Some(widest) = widest else { return };
        widths[widest] -= 1;
    }
}

fn line(columns: &[Column], widths: &[usize], row: Vec<Span<'static>>) -> Line<'static> {
    let mut spans = Vec::with_capacity(2 * row.len());
    let last = row.len().saturating_sub(1);
    for (at, cell) in row.into_iter().enumerate() {
        let (cell, width) = (cut(cell, widths[at]), widths[at]);
        let pad = " ".repeat(width - cell.width());
        let gap = if at == last { "" } else { "  " };
        match columns[at].right {
            true => spans.extend([Span::raw(pad), cell, Span::raw(gap)]),
            // Nothing trails a line.
            false if at == last => spans.push(cell),
            false => spans.extend([cell, Span::raw(pad + gap)]),
        }
    }
    Line::from(spans)
}

/// As much of a cell as fits, with `…` where something is missing.
fn cut(cell: Span<'static>, width: usize) -> Span<'static> {
    if cell.width() <= width {
        return cell;
    }
    let mut text = cell.content.into_owned();
    while Span::raw(text.as_str()).width() + 1 > width && text.pop().is_some() {}
    if width > 0 {
        text.truncate(text.trim_end().len());
        text.push('…');
    }
    Span::styled(text, cell.style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_column_is_cut_first() {
        let columns = [
            Column::left("VM"),
            Column::left("STATE").cut_to(8),
            Column::right("LAG"),
        ];
        let row = |cells: [&'static str; 3]| cells.map(Span::raw).to_vec();
        let rows = vec![
            row(["db", "Not protected: starting", "12 ms"]),
            row(["mail", "Protected", "1 ms"]),
        ];
        let text = |width| {
            let lines = table(&columns, rows.clone(), width);
            let lines: Vec<String> = lines.iter().map(Line::to_string).collect();
            lines.join("\n")
        };
        assert_eq!(
            text(80),
            "VM    STATE                      LAG\n\
             db    Not protected: starting  12 ms\n\
             mail  Protected                 1 ms"
        );
        assert_eq!(
            text(26),
            "VM    STATE            LAG\n\
             db    Not protecte…  12 ms\n\
             mail  Protected       1 ms"
        );
        // Figures are never cut, and words not below what was said.
        assert_eq!(
            text(1),
            "VM    STATE       LAG\n\
             db    Not pro…  12 ms\n\
             mail  Protect…   1 ms"
        );
    }
}
