//! A page, taken apart.

use std::fs;
use std::path::Path;

use crate::none;
use crate::sources::workspace;

/// A page of the documentation.
pub(crate) struct Page {
    /// Its path in the checkout.
    pub(crate) name: String,
    /// How many it has.
    lines: usize,
    /// Its prose, a paragraph, a line of a list or a row of a table each.
    pub(crate) paragraphs: Vec<Paragraph>,
    /// Its code blocks, without what Mermaid draws.
    pub(crate) blocks: Vec<String>,
    /// The anchors of its headings.
    pub(crate) anchors: Vec<String>,
}

/// Prose that belongs together.
pub(crate) struct Paragraph {
    pub(crate) text: String,
}

/// A piece of code in prose.
pub(crate) struct Span<'a> {
    pub(crate) code: &'a str,
    /// What follows it.
    pub(crate) after: &'a str,
}

impl Paragraph {
    pub(crate) fn spans(&self) -> Vec<Span<'_>> {
        spans(&self.text)
    }

    /// The cells, if it is a row of a table.
    pub(crate) fn cells(&self) -> Option<Vec<&str>> {
        let row = self.text.strip_prefix('|')?.strip_suffix('|')?;
        Some(row.split(" | ").map(str::trim).collect())
    }
}

/// The pieces of code in a text.
pub(crate) fn spans(text: &str) -> Vec<Span<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, code)) = rest.split_once('`') {
        let Some((code, after)) = code.split_once('`') else {
            break;
        };
        found.push(Span { code, after });
        rest = after;
    }
    found
}

impl Page {
    fn read(name: &str) -> Self {
        let path = workspace().join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut page = Self {
            name: name.to_owned(),
            lines: text.lines().count(),
            paragraphs: Vec::new(),
            blocks: Vec::new(),
            anchors: Vec::new(),
        };
        // A fence's language, while within it.
        let mut fence: Option<&str> = None;
        let mut block = String::new();
        let mut paragraph = String::new();
        for line in text.lines().chain([""]) {
            let closed = line.trim_start().strip_prefix("```");
            let is_indented = paragraph.is_empty() && line.starts_with("    ");
            if fence.is_some() && closed.is_none() || fence.is_none() && is_indented {
                block.push_str(line);
                block.push('\n');
                continue;
            }
            if let Some(language) = closed {
                fence = match fence {
                    Some("mermaid") => {
                        block.clear();
                        None
                    }
                    Some(_) => None,
                    None => Some(language),
                };
                continue;
            }
            if !block.is_empty() {
                page.blocks.push(std::mem::take(&mut block));
            }
            let is_own = ["|", "#", "- ", "* "]
                .iter()
                .any(|own| line.starts_with(own));
            if (line.is_empty() || is_own) && !paragraph.is_empty() {
                let text = std::mem::take(&mut paragraph);
                page.paragraphs.push(Paragraph { text });
            }
            if let Some(heading) = line.strip_prefix('#') {
                page.anchors.push(anchor(heading.trim_start_matches('#')));
            }
            if !paragraph.is_empty() {
                paragraph.push(' ');
            }
            paragraph.push_str(line.trim());
        }
        page
    }

    /// All tables: the cells of the head, and those of each row.
    pub(crate) fn tables(&self) -> Vec<Vec<Vec<&str>>> {
        let rows: Vec<_> = self.paragraphs.iter().map(Paragraph::cells).collect();
        let tables = rows.split(Option::is_none).filter(|rows| !rows.is_empty());
        let tables = tables.map(|rows| rows.iter().flatten().cloned().collect());
        tables.collect()
    }
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let text = heading.trim().to_lowercase();
    let kept = text.chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        _ => letter.is_alphanumeric().then_some(letter),
    });
    kept.collect()
}

/// What is said of the code as it is.
pub(crate) fn pages() -> Vec<Page> {
    let mut names = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    let docs = fs::read_dir(workspace().join("docs")).expect("the pages");
    for entry in docs {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "md") {
            let file = path.file_name().and_then(|name| name.to_str());
            names.push(format!("docs/{}", file.expect("a name")));
        }
    }
    names.sort();
    names.iter().map(|name| Page::read(name)).collect()
}

/// One page.
pub(crate) fn page(name: &str) -> Page {
    assert!(Path::new(name).is_relative());
    Page::read(name)
}

/// The most lines of a page: what is longer is not read.
fn longest(name: &str) -> usize {
    match name {
        "README.md" => 150,
        "docs/quick-start.md" => 40,
        _ => 250,
    }
}

#[test]
fn pages_are_short() {
    let mut faults = Vec::new();
    for Page { name, lines, .. } in pages() {
        if lines > longest(&name) {
            faults.push(format!("{name}: {lines} lines, not {}", longest(&name)));
        }
    }
    none(&faults);
}

#[test]
fn a_page_is_taken_apart() {
    assert_eq!(anchor(" `--force`"), "--force");
    assert_eq!(anchor(" The way of one entry"), "the-way-of-one-entry");
    let found = spans("give `--max-lag` (50 ms), or `x");
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].code, found[0].after),
        ("--max-lag", " (50 ms), or `x")
    );
}
