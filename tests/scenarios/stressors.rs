//! Every stressor of stress-ng that can run in a guest, recorded and replayed: nothing differs but what
//! stores x87 pointers, where these are not kept, and that is named as the cause.
//!
//! `FTVM_STRESSORS=all`, or names of classes (`FTVM_STRESSORS=cpu,vm`), goes through the stressors class
//! by class and writes the table in `docs/stressors.md`; those that differ are left out. By its name, a
//! stressor runs alone (`FTVM_STRESSORS=context`), and what is seen is printed. Without the variable, a
//! few are tried in one guest.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use guest_images::error::ImageError;
use guest_images::libraries::{PackageLibraries, add_programs};
use guest_images::{Archive, PackageStore, images};
use testbed::pair::QUICK;
use testbed::{Exit, Host, LIMIT, Layout, Result, Testbed};

use crate::recording::{Compared, command};
use crate::shadow_pages::ShadowPages;
use crate::table::put_row;

const MEMORY_MIB: &str = "256";
/// Of a host that keeps the log of many stressors.
const HOST_MIB: u32 = 2560;
/// So many run in one guest, which boots for a dozen seconds.
const IN_ONE_GUEST: usize = 20;
const LOG: &str = "/tmp/stressors.log";
const CONSOLE: &str = "/tmp/stressors.console";
/// Exit status of a replay that differs from its log.
const DIVERGED: Exit = Exit::Code(4);

/// Those that may differ, and what a replay then says of the cause, among others. They call functions of
/// the C library that store x87 pointers (getcontext, swapcontext, feclearexcept, feraiseexcept), which no
/// others do; or they execute random bytes.
const DIFFERING: [(&str, &str); 6] = [
    ("context", X87_POINTERS),
    ("fp-error", X87_POINTERS),
    ("get", X87_POINTERS),
    ("opcode", "executes RDRAND"),
    ("sigfpe", X87_POINTERS),
    ("stackmmap", X87_POINTERS),
];
const X87_POINTERS: &str = "reads x87 pointers";

/// What the suite tries: address spaces that come and go, signals, floating point, and memory that is filled
/// and given back.
const SHARE: [&str; 5] = ["fork", "sigsegv", "vecfp", "bigheap", "bigheap"];

/// A host, and what its guests boot from.
struct Stage {
    testbed: Testbed,
    host: Host,
    initrd: String,
}

/// What a guest said of one stressor.
#[derive(Debug)]
struct Ran {
    name: String,
    /// stress-ng's status, and what it counted of its own operations. Nothing where the guest came to
    /// its end with it.
    end: String,
    /// Why it could not run, if it could not.
    excuse: Option<String>,
}

/// A guest that was recorded and replayed.
struct Outcome {
    ran: Vec<Ran>,
    /// Or the stressor that ran when the replay differed, and what it printed.
    compared: std::result::Result<Compared, (String, String)>,
}

impl Stage {
    fn new(testbed: Testbed) -> Result<Self> {
        let archive = initramfs()?;
        let local = testbed.logs().join("stressors.cpio");
        fs::write(&local, archive.to_bytes()).expect("a file in the run's directory");
        let host = testbed.start_host("a")?;
        let initrd = host.provide(&local, "stressors.cpio")?;
        Ok(Self {
            testbed,
            host,
            initrd,
        })
    }

    /// Runs `ftvm` to its end. Gives how that was, all it printed, and the guest's console.
    fn ftvm(&self, name: &str, names: &str, rest: &[&str]) -> Result<(Exit, String, String)> {
        let words = format!("quiet loglevel=0 mitigations=off {QUICK} stressors={names}");
        let options = ["--memory", MEMORY_MIB, "--console-log", CONSOLE];
        let options = [&options[..], rest].concat();
        let argv = command(&self.host, name, &self.initrd, &words, &options);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let process = self.host.spawn(&argv)?;
        let lines = process.lines().clone();
        let exit = process.wait(LIMIT)?;
        let printed: Vec<String> = lines.try_iter().map(|line| line.text).collect();
        let console = self.host.check(&["cat", CONSOLE])?;
        self.host.check(&["rm", CONSOLE])?;
        Ok((exit, printed.join("\n"), console))
    }

    /// The classes and their stressors, as the program knows them, each stressor in one class: the
    /// first, but that of all that use the system, which is last.
    fn classes(&self) -> Result<Vec<(String, Vec<String>)>> {
        let (exit, printed, console) = self.ftvm("run", "?", &[])?;
        assert!(exit.success(), "{printed}");
        let mut classes: Vec<(String, Vec<String>)> = console
            .lines()
            .filter_map(|line| {
                let (class, names) = line.trim().strip_prefix("class ")?.split_once(": ")?;
                let names = names.split_whitespace().map(str::to_owned);
                Some((class.to_owned(), names.collect()))
            })
            .collect();
        classes.sort_by_key(|(class, _)| class == "os");
        let mut seen = BTreeSet::new();
        for (_, names) in &mut classes {
            names.retain(|name| seen.insert(name.clone()));
        }
        assert!(seen.len() > 250, "{console}");
        Ok(classes)
    }

    fn record_and_replay(&self, names: &[&str]) -> Result<Outcome> {
        let list = names.join(",");
        let record = ["--verify", "--digest-interval", "100", "--log", LOG];
        let (exit, printed, console) = self.ftvm("record", &list, &record)?;
        assert!(
            exit.success(),
            "the recording of {list}: {printed}\n{console}"
        );
        let ran = read_console(&console);
        let (exit, printed, console) = self.ftvm("replay", &list, &[LOG])?;
        self.host.check(&["rm", LOG])?;
        let compared = if exit == DIVERGED {
            let last = read_console(&console).pop();
            Err((last.map_or_else(String::new, |ran| ran.name), printed))
        } else {
            Ok(Compared::read(exit, &printed))
        };
        Ok(Outcome { ran, compared })
    }
}

/// Busybox, stress-ng, and a process 1 that runs it.
fn initramfs() -> std::result::Result<Archive, ImageError> {
    let store = PackageStore::new(Layout::find().packages());
    let busybox = store.package("busybox-static")?;
    let mut archive = images::base(&busybox, include_bytes!("stressors/init.sh"))?;
    let stress_ng = store.package("stress-ng")?;
    let program = stress_ng.file("usr/bin/stress-ng")?;
    let mut libraries = PackageLibraries::new(&store, vec![stress_ng]);
    let programs = [("usr/bin/stress-ng", program)];
    add_programs(&mut archive, &programs, &mut libraries)?;
    Ok(archive)
}

/// What a guest said of its stressors.
fn read_console(console: &str) -> Vec<Ran> {
    let mut ran: Vec<Ran> = Vec::new();
    for line in console.lines() {
        let Some(words) = line.trim().strip_prefix("stressor ") else {
            continue;
        };
        match words.split_once(": ") {
            None => ran.push(Ran {
                name: words.to_owned(),
                end: String::new(),
                excuse: None,
            }),
            Some((_, end)) => {
                let last = ran.last_mut().expect("one began");
                let mut parts = end.splitn(3, ' ');
                last.end = parts.by_ref().take(2).collect::<Vec<_>>().join(" ");
                let excuse = parts.next().filter(|words| !words.is_empty());
                last.excuse = excuse.map(str::to_owned);
            }
        }
    }
    ran
}

/// What was seen of a class.
#[derive(Debug, Default)]
struct Row {
    ran: usize,
    cannot: Vec<String>,
    /// For the reason that [`DIFFERING`] has.
    differ: Vec<String>,
    unexplained: Vec<String>,
    exits: u64,
    deltas: u64,
    digests: u64,
}

impl Row {
    /// Stressors whose guest was compared to its end.
    fn note(&mut self, ran: &[Ran], compared: &Compared) {
        self.exits += compared.exits;
        self.deltas += compared.deltas;
        self.digests += compared.digests;
        self.count(ran);
    }

    fn count(&mut self, ran: &[Ran]) {
        for Ran { name, end, excuse } in ran {
            eprintln!("{name}: {end} {excuse:?}");
            // Of stress-ng: a resource is missing, or a function of processor or kernel.
            if excuse.is_some() || end.starts_with(['3', '4']) {
                self.cannot.push(name.clone());
            } else {
                self.ran += 1;
            }
        }
    }

    fn text(&self, class: &str) -> String {
        let listed = |names: &[String]| match names {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        format!(
            "| {class} | {} | {} | {} |",
            self.ran,
            listed(&self.cannot),
            listed(&self.differ),
        )
    }
}

/// Goes through a class. A stressor that differs ends a replay: those behind it run in another guest.
fn measure(stage: &Stage, names: &[&str]) -> Result<Row> {
    let mut row = Row::default();
    let cause = |name: &str| DIFFERING.iter().find(|(known, _)| *known == name);
    for (name, cause) in names.iter().filter_map(|name| cause(name)) {
        let outcome = stage.record_and_replay(&[name])?;
        match outcome.compared {
            Ok(compared) => row.note(&outcome.ran, &compared),
            Err((_, printed)) => {
                assert!(printed.contains(cause), "{name}: {printed}");
                row.differ.push((*name).to_owned());
            }
        }
    }
    let names = names.iter().copied().filter(|name| cause(name).is_none());
    let equal: Vec<&str> = names.collect();
    let mut left = &equal[..];
    while !left.is_empty() {
        let (mut group, _) = left.split_at(left.len().min(IN_ONE_GUEST));
        let outcome = stage.record_and_replay(group)?;
        // One may have ended the guest.
        assert!(!outcome.ran.is_empty(), "nothing ran of {group:?}");
        group = &group[..outcome.ran.len()];
        match outcome.compared {
            Ok(compared) => {
                eprintln!("equal: {group:?} {compared:?}");
                row.note(&outcome.ran, &compared);
            }
            Err((name, printed)) => {
                eprintln!("DIFFERS: {name}: {printed}");
                let at = group.iter().position(|known| *known == name).unwrap_or(0);
                row.count(&outcome.ran[..at]);
                row.unexplained.push(name);
                group = &group[..=at];
            }
        }
        left = &left[group.len()..];
    }
    Ok(row)
}

#[test]
fn stressors_are_replayed_without_a_difference() -> Result<()> {
    let testbed = Testbed::new("stressors")?;
    let Ok(wanted) = std::env::var("FTVM_STRESSORS") else {
        let stage = Stage::new(testbed)?;
        let shadow_pages = ShadowPages::watch(&stage.host)?;
        let outcome = stage.record_and_replay(&SHARE)?;
        match outcome.compared {
            Ok(compared) => assert!(compared.deltas > 0, "{compared:?}"),
            Err(differs) => panic!("{differs:?}"),
        }
        shadow_pages.were_enough()?;
        for ran in &outcome.ran {
            assert!(ran.end.starts_with("0 ") && ran.excuse.is_none(), "{ran:?}");
        }
        assert_eq!(outcome.ran.len(), SHARE.len());
        stage.testbed.succeed();
        return Ok(());
    };
    let stage = Stage::new(testbed.with_host_memory(HOST_MIB))?;
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/stressors.md");
    let classes = stage.classes()?;
    let order: Vec<&str> = classes.iter().map(|(class, _)| &class[..]).collect();
    let all = order.join(",");
    let wanted = if wanted == "all" { all } else { wanted };
    let mut unexplained = Vec::new();
    for name in wanted.split(',') {
        let Some((class, names)) = classes.iter().find(|(class, _)| class == name) else {
            let outcome = stage.record_and_replay(&[name])?;
            eprintln!("{:?}: {:?}", outcome.ran, outcome.compared);
            continue;
        };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let row = measure(&stage, &names)?;
        eprintln!("{class}: {row:?}");
        put_row(&table, "| class |", &order, class, &row.text(class));
        unexplained.extend(row.unexplained);
    }
    assert!(unexplained.is_empty(), "differ: {unexplained:?}");
    stage.testbed.succeed();
    Ok(())
}
