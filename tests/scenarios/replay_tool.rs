//! A replay as a tool: it stops where it is told, shows the registers and memory that the
//! recording had there, and lets a real debugger look at the guest without changing it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use logging_channel::entry::{Payload, Registers, page_hash};
use logging_channel::record::RecordReader;
use testbed::{Exit, Host, LIMIT, Network, Output, Result, Testbed};

use crate::recording::{self, quick_power_off};

const LOG: &str = "/tmp/tool.log";
/// The exit to stop at: the kernel is up, and has its console still before it.
const STOP: u64 = 1000;
const PORT: u16 = 1234;
const PAGE: usize = 4096;
/// All of it is taken out of the host, and looked at.
const MEMORY_MIB: &str = "80";

fn command(host: &Host, name: &str, rest: &[&str]) -> Vec<String> {
    let rest = [&["--memory", MEMORY_MIB], rest].concat();
    recording::command(host, name, "tiny.cpio", &quick_power_off(), &rest)
}

fn run(host: &Host, name: &str, rest: &[&str]) -> Result<Output> {
    recording::run(host, &command(host, name, rest))
}

/// What a verified recording says about its guest.
struct Recorded {
    /// Registers by exit.
    registers: HashMap<u64, Registers>,
    /// Exits that made an output, in their order.
    outputs: Vec<u64>,
    /// Hashes of the pages of memory at the end.
    pages: Vec<u64>,
    last_exit: u64,
}

impl Recorded {
    fn read(path: &Path) -> Self {
        let (_, reader) = RecordReader::open(path).expect("a log");
        let mut recorded = Self {
            registers: HashMap::new(),
            outputs: Vec::new(),
            pages: Vec::new(),
            last_exit: 0,
        };
        for entry in reader {
            let (_, entry) = entry.expect("an entry");
            let exit = entry.point.exits;
            recorded.last_exit = exit;
            match entry.payload {
                Payload::Registers(registers) => {
                    recorded.registers.insert(exit, *registers);
                }
                Payload::Output(_) => recorded.outputs.push(exit),
                Payload::MemoryHashes { hashes, .. } => recorded.pages.extend(hashes),
                _ => {}
            }
        }
        recorded
    }

    /// An instruction that makes an output after exit [`STOP`], and the first two exits after
    /// [`STOP`] that it makes.
    fn output_instruction(&self) -> (u64, [u64; 2]) {
        let output = self.outputs.iter().find(|exit| **exit > STOP + 1);
        let output = output.expect("the guest writes to its console before it ends");
        let rip = self.registers[output].rip;
        let mut exits = (STOP + 2..=self.last_exit).filter(|exit| {
            let registers = self.registers.get(exit);
            registers.is_some_and(|registers| registers.rip == rip)
        });
        let mut next = || exits.next().expect("a console gets more than one byte");
        (rip, [next(), next()])
    }
}

fn record(testbed: &Testbed, host: &Host) -> Result<Recorded> {
    let recorded = run(host, "record", &["--verify", "--log", LOG])?;
    assert!(recorded.exit.success(), "{recorded:?}");
    let copy = testbed.logs().join("log");
    host.get(LOG, &copy)?;
    Ok(Recorded::read(&copy))
}

#[test]
fn a_recording_can_be_looked_into() -> Result<()> {
    let testbed = Testbed::new("replay-tool")?;
    let host = testbed.start_host("a")?;
    let recorded = record(&testbed, &host)?;
    a_replay_stops_where_it_is_told_and_shows_the_guest(&testbed, &host, &recorded)?;
    a_debugger_sees_the_recorded_run_and_does_not_disturb_it(&testbed, &host, &recorded)?;
    testbed.succeed();
    Ok(())
}

fn a_replay_stops_where_it_is_told_and_shows_the_guest(
    testbed: &Testbed,
    host: &Host,
    recorded: &Recorded,
) -> Result<()> {
    let until = STOP.to_string();
    let options = ["--until", &until, "--dump", "regs", "--json", LOG];
    let output = run(host, "replay", &options)?;
    assert!(output.exit.success(), "{output:?}");
    let shown: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(shown["exit"], STOP);
    let logged = recorded.registers[&STOP];
    for (name, value) in Registers::NAMES.into_iter().zip(logged.fields()) {
        assert_eq!(shown["general"][name], format!("{value:#x}"), "{name}");
    }

    let options = ["--until", "end", "--dump", "mem=/tmp/memory", LOG];
    let output = run(host, "replay", &options)?;
    assert!(output.exit.success(), "{output:?}");
    assert!(output.stdout.contains("no difference"), "{output:?}");
    let copy = testbed.logs().join("memory");
    host.get("/tmp/memory", &copy)?;
    let memory = fs::read(&copy).expect("the file that was copied");
    fs::remove_file(&copy).expect("large, and of no use in a kept run");
    assert_eq!(memory.len(), recorded.pages.len() * PAGE);
    let mut pages = memory.chunks_exact(PAGE).zip(&recorded.pages);
    assert_eq!(
        pages.position(|(page, logged)| page_hash(page) != *logged),
        None
    );

    let beyond = (recorded.last_exit + 1).to_string();
    let output = run(host, "replay", &["--until", &beyond, LOG])?;
    assert_eq!(output.exit, Exit::Code(1), "{output:?}");
    let end = format!("its last exit is {}", recorded.last_exit);
    assert!(output.stderr.contains(&end), "{output:?}");
    Ok(())
}

/// The value of a register in what `info registers` printed for it, by its name in the output.
fn shown(output: &str, register: &str) -> Vec<u64> {
    let lines = output.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(register)).then(|| words.next())?
    });
    lines
        .map(|word| {
            let digits = word.strip_prefix("0x").expect("hexadecimal");
            u64::from_str_radix(digits, 16).expect("a number")
        })
        .collect()
}

/// A debugger stops the guest at breakpoints and steps it, sees what the recording has there, can
/// change nothing, and leaves a replay that is still the recorded run.
fn a_debugger_sees_the_recorded_run_and_does_not_disturb_it(
    testbed: &Testbed,
    host: &Host,
    recorded: &Recorded,
) -> Result<()> {
    let (rip, exits) = recorded.output_instruction();

    let address = host.address(Network::Client);
    let listen = format!("{address}:{PORT}");
    let until = STOP.to_string();
    let argv = command(host, "replay", &["--until", &until, "--gdb", &listen, LOG]);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let mut replay = host.spawn(&argv)?;
    replay.wait_for_line("waiting for a debugger", LIMIT)?;

    let script = [
        "set confirm off".to_owned(),
        "set architecture i386:x86-64".to_owned(),
        format!("target remote {listen}"),
        "x/4i $pc".to_owned(),
        "set $rax = 12345".to_owned(),
        "set *(char *)$rsp = 1".to_owned(),
        "stepi".to_owned(),
        "stepi".to_owned(),
        "stepi".to_owned(),
        format!("break *{rip:#x}"),
        "continue".to_owned(),
        "info registers rip rax rsp rdx".to_owned(),
        "stepi".to_owned(),
        "stepi".to_owned(),
        "continue".to_owned(),
        "info registers rip rax rsp rdx".to_owned(),
        "delete".to_owned(),
        "detach".to_owned(),
    ];
    let mut gdb = testbed.client().command("timeout")?;
    gdb.args(["120", "gdb", "-nx", "-batch"]);
    for line in &script {
        gdb.args(["-ex", line]);
    }
    let output = gdb.output().expect("gdb starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let context = format!("{text}\n{errors}");
    assert!(text.contains("=> "), "the code at RIP is shown: {context}");
    assert!(errors.contains("Could not write registers"), "{context}");
    assert!(errors.contains("Cannot access memory"), "{context}");
    // Both stops are at the instruction, before it makes the exit that was recorded.
    for (name, value) in [("rip", 16), ("rax", 0), ("rsp", 6), ("rdx", 3)] {
        let logged = exits.map(|exit| recorded.registers[&exit].fields()[value]);
        assert_eq!(shown(&text, name), logged, "{name} at {exits:?}: {context}");
    }

    replay.wait_for_line("no difference: ", LIMIT)?;
    assert_eq!(replay.wait(LIMIT)?, Exit::Code(0));
    Ok(())
}
