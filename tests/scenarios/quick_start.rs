//! A newcomer's hour: the page `quick-start.md` is right. Its commands, word by word, on machines with a fresh Debian;
//! then a reboot by systemd, and the end of the packages. Debian's own Prometheus watches.
//!
//! A fenced block of the page names where it is typed in, behind its language: `sh a b` is for the machines `a` and
//! `b`, `sh other` for the host that outlived the one whose plug was pulled. Each machine has one shell all the time, as
//! somebody at a terminal has, which ends at the first command that fails: so the page has no `A && B`, of which a shell
//! forgives A. In place of `OF-…` comes what the command before it said, as the page asks for.

mod page;
mod prometheus;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Instant;

use testbed::{Host, HostKind, HostProcess, LIMIT, Layout, Result, Testbed, wait_until};

use page::Block;
use prometheus::{Prometheus, Sample};

/// What the shell says when it has come to the end of a block.
const DONE: &str = "quick-start: done";
/// How a fingerprint begins.
const FINGERPRINT: &str = "SHA256:";

/// The machines of the page, as it calls them, with the last number of their addresses.
const MACHINES: [(&str, u8); 3] = [("a", 1), ("b", 2), ("disk", 9)];
/// Which of them are hosts, and which is not.
const HOSTS: [usize; 2] = [0, 1];
const DISK: usize = 2;
/// The page's guest, and a client.
const VM: &str = "db";
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const REDIS_PORT: u16 = 6379;
const CLIENT: &str = "192.0.2.1/24";

/// How the page's guest is described, and what is added: a machine that stands still for half a second is lost, but
/// not an emulated one.
const DESCRIBED: &str = "printf 'name=\"db\"\\n";
const PATIENT: &str = "heartbeat_timeout_ms=3000\\n";

/// What the daemon keeps of the guest's process there.
const PROCESS: &str = "/run/ftvm/guests/db/process.json";

/// Another one after each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[test]
fn the_commands_of_the_page_make_a_guest_that_outlives_its_hosts() -> Result<()> {
    // None of the testbed's keys: the page has each machine make its own.
    let testbed = Testbed::with_hosts("quick-start", HostKind::Debian)?.plain();
    let mut machines = Machines::start(&testbed)?;
    let prometheus = Prometheus::start(&testbed)?;
    let client = testbed.client();
    let address = format!("address add {CLIENT} dev eth0\n");
    client.namespace().ip(&address)?;

    let blocks = page::blocks(&page::read("quick-start.md"));
    let (back, steps) = blocks.split_last().expect("the page's blocks");
    assert_eq!(back.places, ["other"]);
    let mut described = 0;
    for block in steps {
        described += block.commands.matches(DESCRIBED).count();
        machines.carry_out(block)?;
    }
    assert_eq!(described, 1, "where the page describes its guest");
    // One connection outlives the host.
    let mut redis = client.connect_once_it_listens(GUEST, REDIS_PORT, LIMIT)?;
    assert_eq!(count(&mut redis), ":1");
    prometheus.sees("up", |all| all.len() == 3 && all.iter().all(is_one))?;
    prometheus.sees("ftvm_vm_protected", |all| all.iter().any(is_one))?;
    machines.are_confined()?;

    let lost = machines.primary(HOSTS[0])?;
    let other = HOSTS[1] - lost;
    prometheus.sees("ftvm_fleet_failovers_total", |all| {
        !all.is_empty() && all.iter().all(|it| it.value < 1.0)
    })?;
    // A new version of the package stops no guest.
    let process = machines.hosts[lost].check(&["cat", PROCESS])?;
    machines.type_in(
        &[lost],
        "apt-get install -y --reinstall ./debs/ftvm_*.deb\n",
    )?;
    assert_eq!(machines.hosts[lost].check(&["cat", PROCESS])?, process);
    machines.type_in(&[lost], &back.commands)?;
    assert_eq!(machines.primary(HOSTS[0])?, lost);

    machines.hosts[lost].kill();
    machines.says(format_args!("{} has lost its power", MACHINES[lost].0));
    assert_eq!(count(&mut redis), ":2");
    prometheus.sees("up", |all| all.iter().filter(|up| is_one(up)).count() == 2)?;
    prometheus.raises("FtvmFailover")?;
    machines.boot_again(&testbed, lost)?;
    machines.type_in(&[other], &back.commands)?;

    // A reboot hands the guest over to the one that is back, and this one is its backup afterwards.
    machines.reboot(other)?;
    assert_eq!(count(&mut redis), ":3");
    assert_eq!(machines.primary(lost)?, lost);
    machines.type_in(&[lost], &back.commands)?;
    prometheus.sees("ftvm_vm_protected", |all| all.iter().any(is_one))?;

    machines.tells_what_it_knows(lost)?;
    machines.type_in(&[HOSTS[0]], &format!("ftvm vm stop {VM}\n"))?;
    machines.purge(&[other, DISK])?;
    testbed.succeed();
    Ok(())
}

/// Tells of each thread of a program's confined processes how its system calls are filtered (2: by a list), and what it
/// may have of capabilities. The daemon has the same program, and is not one of them.
fn confined_threads(program: &str) -> String {
    let told = "$1 == \"CapPrm:\" { permitted = $2 } $1 == \"Seccomp:\" { print $2, permitted }";
    format!(
        "for process in $(pidof {program}); do \
           if tr '\\0' ' ' < /proc/$process/cmdline | grep -Eq ' (primary|backup|--state) '; then \
             cat /proc/$process/task/*/status 2>/dev/null | awk '{told}'; \
           fi; \
         done"
    )
}

fn is_one(sample: &Sample) -> bool {
    (sample.value - 1.0).abs() < f64::EPSILON
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

/// The page's machines, with somebody at each.
struct Machines {
    hosts: [Host; MACHINES.len()],
    shells: [HostProcess; MACHINES.len()],
    /// What stands for fingerprints in the page, and the fingerprints.
    fingerprints: Vec<(String, String)>,
    /// The files that were there before the packages.
    before: Vec<String>,
    begin: Instant,
}

impl Machines {
    fn start(testbed: &Testbed) -> Result<Self> {
        let begin = Instant::now();
        let hosts = testbed.start_hosts(MACHINES.map(|(name, _)| name))?;
        for (host, (_, number)) in hosts.iter().zip(MACHINES) {
            prepare(host, number)?;
        }
        let [a, b, disk] = &hosts;
        let shells = [shell(a)?, shell(b)?, shell(disk)?];
        let before = files(a)?;
        let machines = Self {
            hosts,
            shells,
            fingerprints: Vec::new(),
            before,
            begin,
        };
        machines.says(format_args!("the machines are up"));
        Ok(machines)
    }

    fn says(&self, what: std::fmt::Arguments<'_>) {
        eprintln!("{:.1?}: {what}", self.begin.elapsed());
    }

    fn carry_out(&mut self, block: &Block) -> Result<()> {
        let find = |place: &String| {
            let machine = MACHINES.iter().position(|(name, _)| name == place);
            machine.unwrap_or_else(|| panic!("no machine is called {place}"))
        };
        let machines: Vec<usize> = block.places.iter().map(find).collect();
        self.type_in(&machines, &block.commands)
    }

    /// Types commands in at some machines, and waits until they are done on all.
    fn type_in(&mut self, machines: &[usize], commands: &str) -> Result<()> {
        let mut commands = commands.replace(DESCRIBED, &format!("{DESCRIBED}{PATIENT}"));
        for (word, fingerprint) in &self.fingerprints {
            commands = commands.replace(&format!("\"{word}\""), &format!("\"{fingerprint}\""));
        }
        for machine in machines {
            self.shells[*machine].write(format!("{commands}echo '{DONE}'\n").as_bytes())?;
        }
        for machine in machines {
            self.wait_for(*machine)?;
            let (place, _) = MACHINES[*machine];
            let last = commands.lines().last().unwrap_or_default();
            self.says(format_args!("{place} has done `{last}`"));
        }
        Ok(())
    }

    /// Waits until what was typed in at a machine is done.
    fn wait_for(&mut self, machine: usize) -> Result<()> {
        let (place, _) = MACHINES[machine];
        loop {
            // A fingerprint, or the end.
            let line = self.shells[machine].wait_for_line(":", LIMIT);
            let line = line.inspect_err(|_| show_logs(&self.hosts))?.text;
            if line.starts_with(FINGERPRINT) {
                // The first one is the machine's, and then comes somebody's who works there.
                let word = format!("OF-{}", place.to_uppercase());
                let is_known = self.fingerprints.iter().any(|(known, _)| *known == word);
                let word = if is_known { "OF-YOU".to_owned() } else { word };
                self.fingerprints.push((word, line.clone()));
            }
            if line == DONE {
                return Ok(());
            }
        }
    }

    /// The units bound what their programs may do, and the programs' threads all have a filter of system calls.
    fn are_confined(&self) -> Result<()> {
        let units = [
            (HOSTS[0], "ftvm-host", "ftvm"),
            (HOSTS[0], "ftvm-drain", ""),
            (DISK, "ftvm-disk-server", "disk-server"),
        ];
        for (machine, unit, program) in units {
            let host = &self.hosts[machine];
            // At most 2.0.
            host.check(&[
                "systemd-analyze",
                "security",
                "--no-pager",
                "--threshold=20",
                unit,
            ])?;
            if program.is_empty() {
                continue;
            }
            let threads = host.check(&["sh", "-c", &confined_threads(program)])?;
            let mut lines = threads.lines().peekable();
            assert!(lines.peek().is_some(), "{program}: no process is confined");
            // All but the one by which Debian's kernel lets count, which the unit lets no process give up.
            const PERFMON: u64 = 1 << 38;
            for line in lines {
                let (seccomp, permitted) = line.split_once(' ').expect("two values");
                let permitted = u64::from_str_radix(permitted, 16).expect("a number");
                assert_eq!(
                    (seccomp, permitted & !PERFMON),
                    ("2", 0),
                    "{program}: {threads}"
                );
            }
        }
        Ok(())
    }

    /// Without the disk server a host tells what it knows of the guest that it runs, and that nobody else was asked.
    fn tells_what_it_knows(&self, machine: usize) -> Result<()> {
        let disk_server = |verb| {
            let unit = ["systemctl", verb, "ftvm-disk-server"];
            self.hosts[DISK].check(&unit).map(drop)
        };
        disk_server("stop")?;
        let (name, _) = MACHINES[machine];
        let told = self.hosts[machine].run(&["ftvm", "vm", "status", VM])?;
        assert!(told.exit.success(), "{told:?}");
        let state = "Not protected: service unreachable";
        assert!(told.stdout.contains(state), "{told:?}");
        let whose = format!("this is what {name} knows");
        assert!(told.stderr.contains(&whose), "{told:?}");
        let status = self.status(machine)?;
        assert_eq!(status["service_reachable"], false, "{status}");
        assert_eq!(status["known_by"], name, "{status}");
        assert_eq!(status["words"], state, "{status}");
        assert_eq!(status["primary"]["host"], name, "{status}");
        disk_server("start")?;
        wait_until("that the disk server answers", LIMIT, || {
            Ok(self.status(machine)?["service_reachable"] == true)
        })
    }

    /// How the guest is, as a host tells it to programs.
    fn status(&self, asked: usize) -> Result<serde_json::Value> {
        let status = ["ftvm", "vm", "status", VM, "--json"];
        let status = self.hosts[asked].check(&status)?;
        Ok(serde_json::from_str(&status).expect("JSON"))
    }

    /// The host that the guest runs on, as one of them knows.
    fn primary(&self, asked: usize) -> Result<usize> {
        let status = self.status(asked)?;
        let name = &status["primary"]["host"];
        let machine = HOSTS.into_iter().find(|host| name == MACHINES[*host].0);
        Ok(machine.unwrap_or_else(|| panic!("{VM} runs on no host: {status}")))
    }

    fn boot_again(&mut self, testbed: &Testbed, machine: usize) -> Result<()> {
        testbed.boot_again(&mut self.hosts[machine])?;
        self.has_booted(machine)
    }

    fn reboot(&mut self, machine: usize) -> Result<()> {
        let host = &self.hosts[machine];
        let boot = host.check(&["cat", BOOT_ID])?;
        // What answers here may be stopped before it does.
        match host.check(&["systemctl", "reboot", "--no-block"]) {
            Ok(_) | Err(testbed::Error::Agent { .. }) => {}
            Err(error) => return Err(error),
        }
        wait_until("the host's reboot", LIMIT, || {
            // Nobody answers meanwhile.
            let now = host.run(&["cat", BOOT_ID]);
            Ok(now.is_ok_and(|now| now.exit.success() && now.stdout != boot))
        })
        .inspect_err(|_| show_logs(&self.hosts))?;
        self.has_booted(machine)
    }

    /// Sits down at a machine that has booted.
    fn has_booted(&mut self, machine: usize) -> Result<()> {
        let host = &self.hosts[machine];
        is_in_order(host)?;
        self.shells[machine] = shell(host)?;
        self.says(format_args!("{} has booted", host.name()));
        Ok(())
    }

    /// Takes the packages from machines, and sees what is left.
    fn purge(&mut self, machines: &[usize]) -> Result<()> {
        let packages = "ftvm ftvm-disk-server";
        self.type_in(machines, &format!("apt-get remove -y {packages}\n"))?;
        for machine in machines {
            let processes = self.hosts[*machine].run(&["pgrep", "-a", "-u", "ftvm"])?;
            assert_eq!(processes.stdout, "", "they run without a package");
        }
        self.type_in(machines, &format!("apt-get purge -y {packages}\n"))?;
        for machine in machines {
            let host = &self.hosts[*machine];
            is_in_order(host)?;
            let left: Vec<String> = files(host)?
                .into_iter()
                .filter(|file| !self.before.contains(file) && !may_stay(file))
                .collect();
            assert_eq!(left, [""; 0], "what is left on {}", host.name());
        }
        Ok(())
    }
}

/// Whether a file that was not there before a package may be there when it is purged.
fn may_stay(file: &str) -> bool {
    // What was written by hand, keys, and what the disk server knows of who may run what.
    const OURS: [&str; 5] = [
        "/etc/default/ftvm-disk-server",
        "/etc/ftvm",
        "/root/.config/ftvm",
        "/root/debs/",
        "/var/lib/ftvm-disk-server",
    ];
    // Of the system's, or of somebody's who works there.
    const OTHERS: [&str; 11] = [
        "/etc/group-",
        "/etc/gshadow-",
        "/etc/passwd-",
        "/etc/shadow-",
        "/root/",
        "/var/cache/",
        "/var/lib/apt/",
        "/var/lib/dpkg/",
        "/var/lib/systemd/",
        "/var/log/",
        "/var/tmp/",
    ];
    let list: &[&str] = match file.contains("ftvm") || file.contains("disk-server") {
        true => &OURS,
        false => &OTHERS,
    };
    list.iter().any(|begin| file.starts_with(begin))
}

/// All files of the root.
fn files(host: &Host) -> Result<Vec<String>> {
    let found = host.check(&["find", "/", "-xdev", "-not", "-path", "/tmp/*"])?;
    Ok(found.lines().map(str::to_owned).collect())
}

/// A shell on a machine.
fn shell(host: &Host) -> Result<HostProcess> {
    host.spawn(&["/usr/bin/bash", "-e"])
}

/// Waits until a machine has booted, and nothing of it has failed.
fn is_in_order(host: &Host) -> Result<()> {
    let state = host.run(&["systemctl", "is-system-running", "--wait"])?;
    if state.stdout.trim() != "running" {
        let failed = host.check(&["systemctl", "--failed"])?;
        panic!("{} is {}: {failed}", host.name(), state.stdout.trim());
    }
    Ok(())
}

/// Shows what machines' journals and guests' logs end with.
fn show_logs(hosts: &[Host]) {
    for host in hosts.iter().filter(|host| host.is_alive()) {
        let logs = host.run(&[
            "sh",
            "-c",
            "journalctl -n 60 --no-pager; tail -n 30 /var/lib/ftvm/guests/*/log",
        ]);
        if let Ok(logs) = logs {
            eprintln!("{}:\n{}{}", host.name(), logs.stdout, logs.stderr);
        }
    }
}

/// Makes a machine what the page begins with: a Debian with its networks, and with what was copied to it.
fn prepare(host: &Host, number: u8) -> Result<()> {
    is_in_order(host)?;
    let mut networks = String::new();
    for (interface, subnet) in [("eth1", 1), ("eth2", 2), ("eth3", 3)] {
        networks += &format!(
            "auto {interface}\niface {interface} inet static\n  address 10.0.{subnet}.{number}/24\n"
        );
    }
    let layout = Layout::find();
    let is_host = number <= 2;
    let mut lasting = vec![("/etc/network/interfaces.d/page", networks)];
    if is_host {
        for image in ["vmlinux", "redis.cpio"] {
            host.put(&layout.images().join(image), &format!("/srv/{image}"))?;
        }
        let bridge = page::file(&page::read("two-machines.md"), "auto br0");
        lasting.push(("/etc/network/interfaces.d/br0", bridge));
        let paging = "options kvm_amd npt=0\n".to_owned();
        lasting.push(("/etc/modprobe.d/ftvm.conf", paging));
    }
    for (path, text) in lasting {
        let script = format!("cat > {path} << 'END'\n{text}END\n");
        host.check(&["sh", "-c", &script])?;
    }
    let commands = match is_host {
        true => "ifup eth1 eth2 eth3 br0; modprobe -r kvm_amd; modprobe kvm_amd",
        false => "ifup eth1 eth2 eth3",
    };
    host.check(&["bash", "-ec", commands])?;
    let debs = std::fs::read_dir(layout.debs()).expect("set-up makes the packages");
    for deb in debs {
        let deb = deb.expect("an entry").path();
        let name = deb.file_name().expect("a name").to_string_lossy();
        if name.ends_with(".deb") {
            host.put(&deb, &format!("/root/debs/{name}"))?;
        }
    }
    Ok(())
}
