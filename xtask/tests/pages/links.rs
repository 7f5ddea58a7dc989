//! What pages refer to is there.

use std::fs;

use crate::none;
use crate::page::{Page, page, pages};
use crate::sources::workspace;

/// The targets of a page's links.
fn targets(page: &Page) -> Vec<String> {
    let mut found = Vec::new();
    for paragraph in &page.paragraphs {
        for part in paragraph.text.split("](").skip(1) {
            let target = part.split(')').next().unwrap_or_default();
            found.push(target.to_owned());
        }
    }
    found
}

#[test]
fn links_lead_somewhere() {
    let mut faults = Vec::new();
    let mut all = pages();
    all.push(page("CHANGELOG.md"));
    for from in &all {
        let folder = from.name.rsplit_once('/').map_or("", |(folder, _)| folder);
        for target in targets(from) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = match (file, folder) {
                ("", _) => from.name.clone(),
                (file, "") => file.to_owned(),
                (file, folder) => format!("{folder}/{file}").replace("docs/../", ""),
            };
            let is_there = workspace().join(&path).exists();
            let to = all.iter().find(|page| page.name == path);
            let has_anchor = |to: &Page| to.anchors.iter().any(|known| known == anchor);
            if !is_there || !anchor.is_empty() && !to.is_some_and(has_anchor) {
                faults.push(format!("{}: {target} leads nowhere", from.name));
            }
        }
    }
    none(&faults);
}

#[test]
fn files_that_are_named_are_there() {
    let entries = fs::read_dir(workspace()).expect("the checkout");
    let names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        // What is made is not always there.
        .filter(|name| !["target", ".ftvm"].contains(&name.as_str()))
        .collect();
    let mut faults = Vec::new();
    for page in pages() {
        for paragraph in &page.paragraphs {
            for span in paragraph.spans() {
                let path = span.code.trim_end_matches('/');
                let Some((first, _)) = path.split_once('/') else {
                    continue;
                };
                let is_pattern = path.contains(['*', ' ', '…']) || path.contains("NAME");
                if names.iter().any(|name| name == first)
                    && !is_pattern
                    && !workspace().join(path).exists()
                {
                    faults.push(format!("{}: there is no {path}", page.name));
                }
            }
        }
    }
    none(&faults);
}
