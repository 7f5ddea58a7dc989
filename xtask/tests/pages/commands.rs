//! Commands and options in pages exist, with the defaults and ranges that are told; and all that exist are
//! told.

use std::collections::BTreeSet;

use crate::none;
use crate::options::{Opt, Program, programs};
use crate::page::{Page, page, pages};

/// Options of other people's programs that pages name in prose.
const OF_OTHERS: &[&str] = &["--gtod_reduce"];

/// Every program has these.
const OF_ALL: &[&str] = &["--help", "--version"];

/// A command line, in words; those that belong together by quotes, too.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, ' ') => words.push(std::mem::take(&mut word)),
            _ => word.push(letter),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    let end = words.iter().position(|word| word.starts_with('#'));
    words.truncate(end.unwrap_or(words.len()));
    words
}

/// The option in a word: `--max-lag` of `--max-lag=50`.
fn option(word: &str) -> Option<&str> {
    let name = word.split(['=', '[']).next()?;
    let name = name.trim_end_matches([',', '.', ':']);
    (name.starts_with("--") && name.len() > 2).then_some(name)
}

/// What is wrong with a line's uses of our programs.
fn faults(line: &str, programs: &[Program]) -> Vec<String> {
    let words = words(line);
    let mut faults = Vec::new();
    // A program, and its command as far as it was named.
    let mut current: Option<(&Program, String)> = None;
    let mut is_command_next = false;
    for (n, word) in words.iter().enumerate() {
        let before = n.checked_sub(1).map(|before| words[before].as_str());
        let is_first = matches!(before, None | Some("--")) || word.starts_with("ExecStart=");
        let is_named = |program: &&Program| match program.name {
            "cargo xtask" => word == "xtask" && before == Some("cargo"),
            name => is_first && (word == name || word.ends_with(&format!("/{name}"))),
        };
        if let Some(program) = programs.iter().find(is_named) {
            current = Some((program, String::new()));
            is_command_next = true;
            continue;
        }
        let Some((program, command)) = &mut current else {
            continue;
        };
        if word == "--" {
            current = None;
        } else if let Some(name) = option(word) {
            // In prose, a program may stand for all of its commands.
            let is_known = match command.is_empty() {
                true => !program.options(name).is_empty(),
                false => (program.commands[command].iter()).any(|option| option.name == name),
            };
            if !is_known && !OF_ALL.contains(&name) {
                faults.push(format!("`{line}`: {} has no {name} there", program.name));
            }
            is_command_next = false;
        } else if is_command_next && is_plain(word) {
            let below = format!("{command} {word}").trim().to_owned();
            let has_commands = |name: &String| name.starts_with(&format!("{command} "));
            if program.commands.contains_key(&below) {
                *command = below;
            } else if command.is_empty() || program.commands.keys().any(has_commands) {
                faults.push(format!("`{line}`: {} has no command {below}", program.name));
                is_command_next = false;
            }
        } else {
            is_command_next = false;
        }
    }
    faults
}

fn is_plain(word: &str) -> bool {
    (word.chars()).all(|letter| letter.is_ascii_lowercase() || letter == '-')
}

/// Command lines in blocks, each in one line.
fn lines(page: &Page) -> Vec<String> {
    let joined = page.blocks.iter().map(|block| block.replace("\\\n", " "));
    let lines = joined.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.collect()
}

#[test]
fn commands_and_options_exist() {
    let programs = programs();
    let mut found = Vec::new();
    for page in pages() {
        let mut of_page: Vec<String> = lines(&page)
            .iter()
            .flat_map(|line| faults(line, &programs))
            .collect();
        for span in page
            .paragraphs
            .iter()
            .flat_map(|paragraph| paragraph.spans())
        {
            of_page.extend(faults(span.code, &programs));
            let Some(name) = option(span.code.split(' ').next().unwrap_or_default()) else {
                continue;
            };
            let is_known = programs
                .iter()
                .any(|program| !program.options(name).is_empty());
            if !is_known && ![OF_OTHERS, OF_ALL].concat().contains(&name) {
                of_page.push(format!("no program has {name}"));
            }
        }
        found.extend(
            of_page
                .iter()
                .map(|fault| format!("{}: {fault}", page.name)),
        );
    }
    none(&found);
}

#[test]
fn all_commands_and_options_are_told() {
    let mut told = BTreeSet::new();
    let mut command_lines = Vec::new();
    for page in pages() {
        let spans = page
            .paragraphs
            .iter()
            .flat_map(|paragraph| paragraph.spans());
        let spans = spans.map(|span| span.code.to_owned());
        for line in spans.chain(lines(&page)) {
            let words = words(&line);
            let options = words.iter().filter_map(|word| option(word));
            told.extend(options.map(str::to_owned));
            let names = words
                .iter()
                .map(|word| word.rsplit('/').next().unwrap_or(word));
            command_lines.push(format!(" {} ", names.collect::<Vec<_>>().join(" ")));
        }
    }
    let mut missing = BTreeSet::new();
    for program in programs() {
        for (command, options) in &program.commands {
            let name = format!("{} {command}", program.name);
            let name = name.trim();
            let is_in = |line: &String| line.contains(&format!(" {name} "));
            if !command_lines.iter().any(is_in) {
                missing.insert(format!("no page has `{name}`"));
            }
            let untold = options.iter().filter(|option| !told.contains(&option.name));
            missing.extend(untold.map(|option| format!("no page has {} of `{name}`", option.name)));
        }
    }
    none(&missing.into_iter().collect::<Vec<_>>());
}

/// The options of this name that a page is about.
fn meant<'a>(page: &Page, programs: &'a [Program], name: &str) -> Vec<&'a Opt> {
    let first = match page.name.as_str() {
        "README.md" | "docs/benchmark.md" | "docs/long-runs.md" => "cargo xtask",
        "docs/disk-server.md" | "docs/arbiter.md" => "disk-server",
        _ => "ftvm",
    };
    let first = programs.iter().filter(|program| program.name == first);
    let found = first.chain(programs).map(|program| program.options(name));
    found
        .into_iter()
        .find(|options| !options.is_empty())
        .unwrap_or_default()
}

/// A number, and what follows it.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit());
    let (digits, after) = text.split_at(end.unwrap_or(text.len()));
    Some((digits.parse().ok()?, after))
}

/// The default in ` (50 ms)` or `, 1 s`, in the unit of the option.
fn default_behind(after: &str, option: &Opt) -> Option<u64> {
    let (value, unit) = number(
        after
            .strip_prefix([' ', ','])?
            .trim_start_matches([' ', '(']),
    )?;
    let is = |name: &str| {
        unit.starts_with(&format!(" {name})")) || unit.starts_with(&format!(" {name},"))
    };
    match option.value.as_str() {
        "MS" if is("ms") => Some(value),
        "MS" if is("s") => Some(value * 1000),
        "S" if is("s") => Some(value),
        _ => None,
    }
}

/// `10 to 600` in a row.
fn ranges(text: &str) -> Vec<(u64, u64)> {
    let starts = text
        .match_indices(|letter: char| letter.is_ascii_digit())
        .map(|(start, _)| start);
    let starts =
        starts.filter(|start| !text[..*start].ends_with(|before: char| before.is_ascii_digit()));
    let ranges = starts.filter_map(|start| {
        let (first, after) = number(&text[start..])?;
        let (last, _) = number(after.strip_prefix(" to ")?)?;
        Some((first, last))
    });
    ranges.collect()
}

#[test]
fn defaults_and_ranges_are_right() {
    let programs = programs();
    let mut found = Vec::new();
    let mut seen = 0;
    for page in pages() {
        for paragraph in &page.paragraphs {
            let spans = paragraph.spans();
            for span in &spans {
                let name = option(span.code.split(' ').next().unwrap_or_default());
                let options = name
                    .map(|name| meant(&page, &programs, name))
                    .unwrap_or_default();
                for option in options {
                    let told = default_behind(span.after, option);
                    let has_default = told.is_some() && option.default.is_some();
                    seen += usize::from(has_default);
                    if has_default && told != option.default {
                        found.push(format!(
                            "{}: {} {:?}, not {told:?}",
                            page.name, option.name, option.default
                        ));
                    }
                }
            }
            let Some(cells) = paragraph.cells() else {
                continue;
            };
            let Some(name) = cells[0]
                .strip_prefix('`')
                .and_then(|cell| option(cell.split([' ', '`']).next()?))
            else {
                continue;
            };
            // Of a row of several options it is not to be seen which one is meant.
            let is_one = cells[0].matches("`--").count() == 1;
            let told = cells[1].parse().ok();
            let in_words = cells
                .last()
                .map(|text| text.split('(').skip(1).collect::<Vec<_>>());
            let in_words = in_words.unwrap_or_default().into_iter().find_map(|text| {
                let (value, after) = number(text)?;
                after.starts_with(')').then_some(value)
            });
            for option in meant(&page, &programs, name).into_iter().filter(|_| is_one) {
                let told = told.or(in_words);
                let has_default = told.is_some() && option.default.is_some();
                if has_default && told != option.default {
                    found.push(format!(
                        "{}: {} {:?}, not {told:?}",
                        page.name, option.name, option.default
                    ));
                }
                let told = ranges(cells[cells.len() - 1]);
                if let Some(range) = option.range
                    && !told.is_empty()
                    && !told.contains(&range)
                {
                    found.push(format!(
                        "{}: {} {range:?}, not {told:?}",
                        page.name, option.name
                    ));
                }
                seen += usize::from(has_default) + told.len();
            }
        }
    }
    none(&found);
    assert!(
        seen > 20,
        "only {seen} defaults and ranges were found in the pages"
    );
}

#[test]
fn the_sample_disk_server_has_the_disk_of_the_sample_configuration() {
    let page = page("docs/two-machines.md");
    let disk = page.blocks.iter().flat_map(|block| block.lines());
    let disk = disk.filter_map(|line| line.strip_prefix("    disk = \"nbd://10.0.2.9/"));
    let disks: BTreeSet<&str> = disk.filter_map(|line| line.strip_suffix('"')).collect();
    let lines = lines(&page);
    let servers = lines
        .iter()
        .filter(|line| line.trim().starts_with("disk-server --listen"));
    let servers: Vec<&String> = servers.collect();
    assert!(
        !disks.is_empty() && !servers.is_empty(),
        "{disks:?} {servers:?}"
    );
    for disk in disks {
        for server in &servers {
            assert!(
                server.contains(&format!("--export {disk}=")),
                "{disk}: {server}"
            );
        }
    }
}

#[test]
fn what_is_wrong_is_found() {
    let programs = programs();
    for line in [
        "ftvm primary --no-such-option",
        "ftvm backup --listen 10.0.0.1:7421 --heartbeat-timeout 5",
        "cargo xtask frobnicate",
        "cargo xtask exec a -- ftvm record --verify --lgo /tmp/boot.log",
        "target/release/disk-server status --serve 10.0.0.1:7420",
    ] {
        assert_eq!(faults(line, &programs).len(), 1, "{line}");
    }
    for line in [
        "cargo xtask exec a --get /tmp/a:a -- ls --all",
        "ftvm replay boot.log --until 5 # --no-such-option",
        "install target/release/ftvm /usr/local/bin/ --mode 755",
    ] {
        assert!(faults(line, &programs).is_empty(), "{line}");
    }
    let lag = meant(&page("docs/roles.md"), &programs, "--max-lag");
    assert_eq!(default_behind(" (51 ms)", lag[0]), Some(51));
    assert_eq!(default_behind(", 1 s)", lag[0]), Some(1000));
    assert_eq!(ranges("silence; 10 to 600000. Shorter"), [(10, 600_000)]);
}
