//! What the sources have.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The checkout.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where sources are; pages and this test are none.
pub(crate) const FOLDERS: [&str; 6] = [
    "vmm",
    "logging-channel",
    "disk-server",
    "guest-images",
    "tests",
    "xtask/src",
];

/// The files of a folder with one of these extensions, those in folders below it too.
pub(crate) fn files(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![workspace().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries {
            let path = entry.expect("an entry").path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if extension.is_some_and(|extension| extensions.contains(&extension)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn parse(path: &Path) -> syn::File {
    syn::parse_file(&read(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All names and words in the sources; of `EveryGuest` also `every_guest`, as it is printed.
pub(crate) fn words() -> BTreeSet<String> {
    let extensions = ["rs", "toml", "sh", "c", "S", "inc", "service", "socket"];
    let files = FOLDERS.iter().flat_map(|folder| files(folder, &extensions));
    let mut words = BTreeSet::new();
    for file in files {
        let text = read(&file);
        let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
        for word in text.split(|letter| !is_part(letter)) {
            if !words.contains(word) {
                words.insert(word.to_owned());
                words.insert(snake(word));
            }
        }
    }
    words
}

/// Where what users start is.
const DELIVERED: [&str; 5] = [
    "vmm/src",
    "logging-channel/src",
    "disk-server/src",
    "guest-images",
    "xtask/src",
];

/// All lines of code but tests, those of one string put together: what programs may print is in them.
pub(crate) fn lines() -> Vec<String> {
    let mut lines = Vec::new();
    for folder in DELIVERED {
        for file in files(folder, &["rs", "sh", "c", "S", "inc"]) {
            let text = read(&file);
            let code = text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default();
            let mut parts = code.split("\\\n");
            let mut joined = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                joined.push_str(part.trim_start());
            }
            let of_file = joined.lines().map(str::trim_start);
            let code = of_file.filter(|line| !line.starts_with("//"));
            lines.extend(code.map(str::to_owned));
        }
    }
    lines
}

/// `EveryGuest` with a separator between its words, in lower case.
fn separated(name: &str, separator: char) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push(separator);
        }
        text.extend(letter.to_lowercase());
    }
    text
}

/// `every_guest` of `EveryGuest`.
pub(crate) fn snake(name: &str) -> String {
    separated(name, '_')
}

/// `every-guest` of `EveryGuest` or `every_guest`.
pub(crate) fn kebab(name: &str) -> String {
    separated(name, '-').replace('_', "-")
}
