//! Tables in Markdown.

use std::fmt;

/// Rows under a head: the first column has words, the others figures. One without rows prints nothing.
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(titles: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            head: titles.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, which has a cell for each title.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        debug_assert_eq!(cells.len(), self.head.len(), "{cells:?}");
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rules = ["---"].into_iter().chain(std::iter::repeat("---:"));
        let rules = rules.take(self.head.len()).map(str::to_owned).collect();
        for row in [&self.head, &rules].into_iter().chain(&self.rows) {
            // A reason may have several lines.
            let cells = row.join(" | ").replace('\n', " ");
            writeln!(f, "| {cells} |")?;
        }
        writeln!(f)
    }
}

/// A cell of something that may not be there.
pub(crate) fn cell(value: Option<impl fmt::Display>) -> String {
    value.map_or("–".to_owned(), |value| value.to_string())
}
