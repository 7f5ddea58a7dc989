//! Names and messages that pages quote are in the sources.

use std::collections::BTreeSet;

use crate::none;
use crate::page::{page, pages};
use crate::sources::{FOLDERS, files, lines, parse, read, words, workspace};

/// Names of Linux's that pages explain, and no source of ours has.
const OF_LINUX: &[&str] = &[
    "CONFIG_CLOCKSOURCE_VALIDATE_LAST_CYCLE",
    "SO_TIMESTAMP",
    "clocksource_delta",
    "console_init",
    "intel_powerclamp",
    "jitterentropy_rng",
    "late_time_init",
    "randomize_kstack_offset",
    "sched_clock_init",
    "tcp_tso_autosize",
    "timekeeping_init",
];

/// Programs that a piece of code may begin with.
const PROGRAMS: &[&str] = &["cargo", "disk-server", "ftvm", "ip", "kill", "modprobe"];

#[test]
fn names_are_those_of_the_code() {
    let words = words();
    let mut faults = Vec::new();
    for page in pages() {
        for paragraph in &page.paragraphs {
            for span in paragraph.spans() {
                let name = span.code.trim_end_matches("()");
                let parts: Vec<&str> = name.split("::").collect();
                let is_word = |part: &&str| {
                    let mut letters = part.chars();
                    !part.is_empty()
                        && letters.all(|letter| letter.is_alphanumeric() || letter == '_')
                };
                // A word without either may be one of the language. A `_p99` is a part of a name.
                let is_name = name.contains("::") || name.contains('_') && !name.starts_with('_');
                if !is_name || !parts.iter().all(is_word) || OF_LINUX.contains(&name) {
                    continue;
                }
                for part in parts.iter().filter(|part| !words.contains(**part)) {
                    faults.push(format!(
                        "{}: no source has the {part} of `{name}`",
                        page.name
                    ));
                }
            }
        }
    }
    none(&faults);
}

/// What a message is made of: pieces between `…`, and, for where a page has an example, between what is
/// not a plain word of a sentence.
fn pieces(message: &str, exact: bool) -> Vec<String> {
    let is_value = |word: &str| {
        let letters = word.trim_matches(|letter: char| !letter.is_alphanumeric());
        let is_name = letters.len() > 1 && letters.chars().all(|letter| letter.is_uppercase());
        is_name || letters.chars().any(|letter| letter.is_ascii_digit())
    };
    let words = message.split(' ');
    let words = words.map(|word| {
        if !exact && is_value(word) {
            "…"
        } else {
            word
        }
    });
    let joined: Vec<&str> = words.collect();
    let joined = joined.join(" ");
    let pieces = joined
        .split('…')
        .map(str::trim)
        .filter(|piece| !piece.is_empty());
    pieces.map(str::to_owned).collect()
}

fn has(lines: &[String], message: &str, exact: bool) -> bool {
    let pieces = pieces(message, exact);
    lines.iter().any(|line| {
        let mut rest = line.as_str();
        pieces
            .iter()
            .all(|piece| match rest.split_once(piece.as_str()) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
    })
}

/// Whether a piece of code is a sentence, or a part of one.
fn is_sentence(code: &str) -> bool {
    let words: Vec<&str> = code.split(' ').collect();
    let is_plain = |word: &&str| {
        let mut letters = word.chars();
        !word.is_empty()
            && letters.all(|letter| letter.is_alphanumeric() || ",:.'…".contains(letter))
    };
    words.len() >= 4 && words.iter().all(is_plain) && !PROGRAMS.contains(&words[0])
}

#[test]
fn messages_are_those_of_the_programs() {
    let lines = lines();
    let mut faults = Vec::new();
    for page in pages() {
        let mut quoted: BTreeSet<&str> = BTreeSet::new();
        for paragraph in &page.paragraphs {
            let spans = paragraph.spans();
            quoted.extend(
                spans
                    .iter()
                    .map(|span| span.code)
                    .filter(|code| is_sentence(code)),
            );
        }
        for table in page
            .tables()
            .iter()
            .filter(|table| table[0][0] == "message")
        {
            let cells = table.iter().skip(2).map(|row| row[0]);
            quoted.extend(cells.flat_map(crate::page::spans).map(|span| span.code));
        }
        let missing = quoted
            .iter()
            .filter(|message| !has(&lines, message, true) && !has(&lines, message, false));
        faults.extend(missing.map(|message| format!("{}: nothing says `{message}`", page.name)));
    }
    none(&faults);
}

#[test]
fn variables_of_the_environment_are_those_that_are_read() {
    let variables = |text: &str| -> BTreeSet<String> {
        let parts = text.split("FTVM_").skip(1);
        let names = parts.map(|part| {
            let end = part.find(|letter: char| !letter.is_ascii_uppercase() && letter != '_');
            part[..end.unwrap_or(part.len())].to_owned()
        });
        names.filter(|name| !name.is_empty()).collect()
    };
    let mut read_by_code = BTreeSet::new();
    for folder in FOLDERS {
        for file in files(folder, &["rs"]) {
            read_by_code.extend(variables(&read(&file)));
        }
    }
    let told = pages()
        .iter()
        .flat_map(|page| variables(&read(&workspace().join(&page.name))))
        .collect();
    assert_eq!(read_by_code, told, "the sources, and the pages");
}

#[test]
fn checks_of_the_doctor_are_told() {
    let catalogue = read(&workspace().join("vmm/src/doctor/catalogue.rs"));
    let ids = catalogue.split("id: \"").skip(1);
    let ids: Vec<&str> = ids.filter_map(|rest| rest.split('"').next()).collect();
    assert!(ids.len() > 10, "{ids:?}");
    let page = page("docs/hardware.md");
    let spans: Vec<_> = page.paragraphs.iter().flat_map(|one| one.spans()).collect();
    let is_told = |id: &&str| spans.iter().any(|span| span.code == *id);
    let missing = ids.iter().filter(|id| !is_told(id));
    let faults: Vec<String> = missing
        .map(|id| format!("docs/hardware.md: the check `{id}` is missing"))
        .collect();
    none(&faults);
}

#[test]
fn keys_of_the_configuration_are_told() {
    let keys = parse(&workspace().join("vmm/src/config.rs"))
        .items
        .into_iter()
        .find_map(|item| match item {
            syn::Item::Struct(item) if item.ident == "VmConfig" => Some(item.fields),
            _ => None,
        });
    let keys: BTreeSet<String> = (keys.expect("the configuration").into_iter())
        .filter_map(|field| Some(field.ident?.to_string()))
        .collect();
    let page = page("docs/two-machines.md");
    let mut blocks = page.blocks.iter();
    let sample = blocks.find(|block| block.contains("memory_mib"));
    let sample = sample.expect("a sample");
    // What is below the head of a table has keys of its own.
    let mut parts = sample.split("    [");
    let own = parts.next().unwrap_or_default().lines();
    let own = own.filter_map(|line| line.trim().split_once(" = "));
    let keys_told = own.map(|(key, _)| key).filter(|key| !key.starts_with('#'));
    let tables = parts.filter_map(|part| part.split(']').next());
    let told: BTreeSet<String> = keys_told.chain(tables).map(str::to_owned).collect();
    let unknown: Vec<&String> = told.difference(&keys).collect();
    assert!(
        unknown.is_empty(),
        "docs/two-machines.md: no key {unknown:?}"
    );
    let spans: BTreeSet<&str> = (page.paragraphs.iter())
        .flat_map(|one| one.spans())
        .map(|span| span.code.trim_matches(['[', ']']))
        .collect();
    let is_untold = |key: &&String| !told.contains(*key) && !spans.contains(key.as_str());
    let missing: Vec<&String> = keys.iter().filter(is_untold).collect();
    assert!(
        missing.is_empty(),
        "docs/two-machines.md: {missing:?} is missing"
    );
}

#[test]
fn the_version_of_the_protocol_is_told() {
    let codec = parse(&workspace().join("logging-channel/src/codec/mod.rs"));
    let version = codec.items.iter().find_map(|item| match item {
        syn::Item::Const(item) if item.ident == "PROTOCOL_VERSION" => match &*item.expr {
            syn::Expr::Lit(literal) => match &literal.lit {
                syn::Lit::Int(number) => number.base10_parse::<u16>().ok(),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    let version = version.expect("the version").to_string();
    let page = page("docs/wire-format.md");
    let now = format!("(now **{version}**)");
    let is_told = page
        .paragraphs
        .iter()
        .any(|paragraph| paragraph.text.contains(&now));
    assert!(is_told, "docs/wire-format.md: `{now}` is missing");
    let tables = page.tables();
    let versions = tables.iter().find(|table| table[0][0] == "version");
    let last = versions.and_then(|table| table.last()).map(|row| row[0]);
    assert_eq!(
        last,
        Some(version.as_str()),
        "docs/wire-format.md: the last version"
    );
}

#[test]
fn a_message_with_an_example_is_found() {
    let lines = ["LIVE in epoch {epoch}, unprotected".to_owned()];
    assert!(has(&lines, "LIVE in epoch 3, unprotected", false));
    assert!(has(&lines, "LIVE in … unprotected", true));
    assert!(!has(&lines, "LIVE in epoch 3, halted", false));
    assert!(!has(&lines, "unprotected … LIVE", true));
}
