//! Tables in the documentation that scenarios write.

use std::fs;
use std::path::Path;

/// Puts a row into the table whose head begins with `head`, in the place of an earlier one of the same
/// `key`, which is the first cell. The rows are in the order of `keys`.
pub(crate) fn put_row(page: &Path, head: &str, keys: &[&str], key: &str, row: &str) {
    let text = fs::read_to_string(page).expect("the page");
    let lines: Vec<&str> = text.lines().collect();
    let found = lines.iter().position(|line| line.starts_with(head));
    let first = found.expect("the table's head") + 2;
    let rows = lines[first..]
        .iter()
        .take_while(|line| line.starts_with('|'));
    let end = first + rows.count();
    let rows = keys.iter().filter_map(|known| {
        if *known == key {
            return Some(row);
        }
        let start = format!("| {known} |");
        let mut rows = lines[first..end].iter().copied();
        rows.find(|row| row.starts_with(&start))
    });
    let before = lines[..first].iter().copied();
    let after = lines[end..].iter().copied();
    let page_text: Vec<&str> = before.chain(rows).chain(after).collect();
    fs::write(page, page_text.join("\n") + "\n").expect("the page");
}
