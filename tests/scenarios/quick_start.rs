//! The page `quick-start.md` is right: its commands, word by word, on machines that are as it says.
//!
//! A fenced block of the page names where it is typed in, behind its language: `sh a b` is for the hosts `a`
//! and `b`. Each machine has one shell all the time, as somebody at a terminal has, which ends at the first
//! command that fails: so the page has no `A && B`, of which a shell forgives A.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use testbed::{Host, HostKind, HostProcess, Layout, Network, Result, Testbed, wait_until};

const LIMIT: Duration = Duration::from_secs(180);
/// What the shell says when it has come to the end of a block.
const DONE: &str = "quick-start: done";

/// Logs of what the page leaves in the background, and what it says there when it has begun: whoever goes to the next
/// machine takes longer than that.
const BEGUN: [(&str, &str); 2] = [
    ("/var/log/disk-server.log", "listening on"),
    ("/var/log/ftvm-host.log", "looks after guests"),
];

/// The machines of the page, as it calls them, with the last number of their addresses.
const MACHINES: [(&str, u8); 3] = [("a", 1), ("b", 2), ("disk", 9)];
/// The page's guest, and a client.
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const REDIS_PORT: u16 = 6379;
const CLIENT: &str = "192.0.2.1/24";

#[test]
fn the_commands_of_the_page_make_a_guest_that_outlives_its_host() -> Result<()> {
    // Each machine has files of its own.
    let testbed = Testbed::with_hosts("quick-start", HostKind::Qemu)?.plain();
    let hosts = testbed.start_hosts(MACHINES.map(|(name, _)| name))?;
    for (host, (_, number)) in hosts.iter().zip(MACHINES) {
        prepare(host, number)?;
    }
    let client = testbed.client().namespace();
    client.ip(&format!("address add {CLIENT} dev eth0\n"))?;

    let mut terminals: Vec<Terminal> = hosts.iter().map(Terminal::open).collect::<Result<_>>()?;
    let page = Layout::find().root().join("docs/quick-start.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let blocks = blocks(&page);
    let (failover, steps) = blocks.split_last().expect("the page's blocks");
    let begin = Instant::now();
    let mut carry_out = |block: &Block| -> Result<()> {
        for place in &block.places {
            let mut terminals = terminals.iter_mut();
            let terminal = terminals.find(|terminal| terminal.host.name() == place);
            let terminal = terminal.unwrap_or_else(|| panic!("no machine is called {place}"));
            terminal
                .type_in(&block.commands)
                .inspect_err(|_| show_logs(&hosts))?;
            eprintln!("{:?}: {place} has done", begin.elapsed());
        }
        Ok(())
    };
    steps.iter().try_for_each(&mut carry_out)?;
    // One connection outlives the host.
    let client = testbed.client();
    let mut redis = client.connect_once_it_listens(GUEST, REDIS_PORT, LIMIT)?;
    assert_eq!(count(&mut redis), ":1");
    carry_out(failover)?;
    assert_eq!(count(&mut redis), ":2");
    testbed.succeed();
    Ok(())
}

/// Counts in the guest, and gives Redis' answer.
fn count(redis: &mut TcpStream) -> String {
    redis.write_all(b"INCR n\r\n").expect("a request");
    let mut answer = String::new();
    BufReader::new(redis)
        .read_line(&mut answer)
        .expect("an answer");
    answer.trim_end().to_owned()
}

/// Shows what is in the machines' logs.
fn show_logs(hosts: &[Host]) {
    for host in hosts.iter().filter(|host| host.is_alive()) {
        let logs = host.run(&[
            "sh",
            "-c",
            "tail -n 30 /var/log/* /var/lib/ftvm/guests/*/log",
        ]);
        eprintln!("{}: {logs:#?}", host.name());
    }
}

/// Makes a host what the page begins with: its programs and images are there, and its networks, with nothing
/// of the testbed's in the client network.
fn prepare(host: &Host, number: u8) -> Result<()> {
    for program in ["/usr/bin/bash", "/usr/bin/nohup"] {
        host.install(Path::new(program))?;
    }
    let images = ["vmlinux", "redis.cpio"]
        .map(|name| host.image(name))
        .join(" ");
    let script = format!(
        "set -e
        mkdir -p /etc/ftvm /var/log
        ln -s {images} /etc/ftvm/
        /usr/sbin/ip -batch - << BATCH
        link del tap0
        link del br0
        link set {client} down
        link set {client} name eth0
        link set eth0 up
        address add 10.0.1.{number}/24 dev {logging}
        address add 10.0.2.{number}/24 dev {storage}
BATCH",
        client = Network::Client,
        logging = Network::Logging,
        storage = Network::Storage,
    );
    host.check(&["sh", "-c", &script]).map(drop)
}

/// A shell on a machine.
struct Terminal<'a> {
    host: &'a Host,
    shell: HostProcess,
}

impl<'a> Terminal<'a> {
    fn open(host: &'a Host) -> Result<Self> {
        let shell = host.spawn(&["/usr/bin/bash", "-e"])?;
        Ok(Self { host, shell })
    }

    /// Types commands in, and waits until they are done.
    fn type_in(&mut self, commands: &str) -> Result<()> {
        let line = format!("{commands}echo '{DONE}'\n");
        self.shell.write(line.as_bytes())?;
        self.shell.wait_for_line(DONE, LIMIT)?;
        for (log, text) in BEGUN.iter().filter(|(log, _)| commands.contains(log)) {
            wait_until(&format!("`{text}` in {log}"), LIMIT, || {
                let found = self.host.run(&["grep", "-q", text, log])?;
                Ok(found.exit.success())
            })?;
        }
        Ok(())
    }
}

/// A fenced block that is to be typed in.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    places: Vec<String>,
    commands: String,
}

/// The blocks of a page, in its order.
fn blocks(page: &str) -> Vec<Block> {
    let mut lines = page.lines();
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            continue;
        };
        let places = language.strip_prefix("sh ");
        let places = places.unwrap_or_else(|| panic!("{line}: a block says where it is typed in"));
        let commands = lines.by_ref().take_while(|line| *line != "```");
        blocks.push(Block {
            places: places.split(' ').map(str::to_owned).collect(),
            commands: commands.map(|line| format!("{line}\n")).collect(),
        });
    }
    blocks
}

#[test]
fn blocks_name_their_places() {
    let page = "a\n```sh a b\none\n  two\n```\nand\n```sh c\nthree\n```\n";
    let block = |places: &[&str], commands: &str| Block {
        places: places.iter().map(|place| (*place).to_owned()).collect(),
        commands: commands.to_owned(),
    };
    let expected = [block(&["a", "b"], "one\n  two\n"), block(&["c"], "three\n")];
    assert_eq!(blocks(page), expected);
}
