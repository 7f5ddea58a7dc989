//! With processes of guests that say what a test has them say. And what is written about metrics, and Prometheus' own
//! word on them.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use disk_server::arbiter::{Arbiter, Next, Settings};
use disk_server::export::ExportSpec;
use disk_server::server::{Config, Limits, NbdConfig, Server};
use disk_server::views::Cause;
use guest_images::PackageStore;
use tempfile::TempDir;
use transport::Endpoint;

use super::*;
use crate::control::Status;
use crate::host::tending;
use crate::lines::{MAX_QUESTION, read_line, write_line};

const SECOND: Duration = Duration::from_secs(1);

/// For what takes no time.
const LIMIT: Duration = Duration::from_secs(60);

/// A host with the guest `db`.
struct Scene {
    _folder: TempDir,
    metrics: Metrics,
    events: PathBuf,
    /// What the guest's process says it is.
    role: Arc<Mutex<Role>>,
}

impl Scene {
    fn new(role: Role) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path();
        let folders = Folders::make(&path.join("run"), &path.join("state")).expect("it can be");
        let guest = folders.guest(&vm("db")).expect("a plain name");
        guest.make().expect("it can be made");
        let control = UnixListener::bind(guest.control().expect("short")).expect("it is free");
        let role = Arc::new(Mutex::new(role));
        let said = role.clone();
        thread::spawn(move || {
            for stream in control.incoming().flatten() {
                let status = Status {
                    claimant: "a/1".parse().expect("a claimant"),
                    role: said.lock().clone(),
                };
                let asked = read_line(&stream, MAX_QUESTION, Instant::now() + LIMIT);
                // Who asked may have left.
                let _ = asked.and_then(|_| write_line(&stream, &status));
            }
        });
        let events = guest.events();
        let mut tending = Tending::new(0);
        tending.is_here(&vm("db"), tending::Guest::default());
        let guests = (folders, Arc::new(Mutex::new(tending)));
        let host = "a".parse().expect("a name");
        Self {
            metrics: Metrics::new(host, Some(1000), guests, Arc::default(), 100),
            _folder: folder,
            events,
            role,
        }
    }

    /// The guest's process tells this.
    fn tell(&self, lines: &[&str]) {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.events);
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .expect("it is written");
    }

    fn value(&self, name: &str) -> Option<f64> {
        let text = self.metrics.metrics();
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(value)
    }

    /// All counters, and counts of histograms.
    fn counters(&self) -> BTreeMap<String, f64> {
        let text = self.metrics.metrics();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.filter_map(|line| line.rsplit_once(' '));
        let counts = samples.filter(|(name, _)| {
            let family = name.split('{').next().unwrap_or_default();
            ["_total", "_count", "_bucket", "_sum"]
                .iter()
                .any(|end| family.ends_with(end))
        });
        counts
            .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
            .collect()
    }
}

fn vm(name: &str) -> VmName {
    name.parse().expect("a name")
}

fn primary(phase: Phase) -> Role {
    Role::Primary {
        vm: vm("db"),
        epoch: 3,
        wants: None,
        condition: Condition {
            phase,
            lag_ms: 1500,
            ..Condition::default()
        },
    }
}

fn backup() -> Role {
    Role::Backup {
        vm: vm("db"),
        epoch: 3,
        condition: Condition::default(),
    }
}

#[test]
fn a_guest_is_told_as_its_process_tells_it() {
    let scene = Scene::new(primary(Phase::Alone));
    scene.metrics.look(2 * SECOND);
    *scene.role.lock() = primary(Phase::Protected);
    scene.tell(&[
        "{\"unix_ms\":100,\"event\":\"role\",\"role\":\"primary\",\"epoch\":3}",
        "{\"unix_ms\":101,\"event\":\"stats\",\"log_bytes\":5}",
        "{\"unix_ms\":102,\"event\":\"protected\",\"epoch\":3}",
        "{\"unix_ms\":103,\"event\":\"stats\",\"log_bytes\":25,\"output_holds_us\":[[300,2],[2000000,1]]}",
    ]);
    scene.metrics.look(2 * SECOND);
    for (name, value) in [
        ("ftvm_host_disk_server_up", 1.0),
        ("ftvm_vm_up{vm=\"db\"}", 1.0),
        ("ftvm_vm_role{vm=\"db\",role=\"primary\"}", 1.0),
        ("ftvm_vm_role{vm=\"db\",role=\"backup\"}", 0.0),
        ("ftvm_vm_epoch{vm=\"db\"}", 3.0),
        ("ftvm_vm_protected{vm=\"db\"}", 1.0),
        ("ftvm_vm_lag_seconds{vm=\"db\"}", 1.5),
        ("ftvm_log_bytes_total{vm=\"db\",direction=\"sent\"}", 20.0),
        (
            "ftvm_output_hold_seconds_bucket{vm=\"db\",le=\"0.00025\"}",
            0.0,
        ),
        (
            "ftvm_output_hold_seconds_bucket{vm=\"db\",le=\"0.0005\"}",
            2.0,
        ),
        ("ftvm_output_hold_seconds_count{vm=\"db\"}", 3.0),
        ("ftvm_vm_joins_total{vm=\"db\"}", 1.0),
        ("ftvm_vm_unprotected_seconds_total{vm=\"db\"}", 2.0),
    ] {
        assert_eq!(scene.value(name), Some(value), "{name}");
    }
}

#[test]
fn no_counter_goes_back_when_a_guests_process_ends_and_another_one_starts() {
    let scene = Scene::new(primary(Phase::Alone));
    let run = [
        "{\"unix_ms\":100,\"event\":\"role\",\"role\":\"backup\",\"epoch\":3}",
        "{\"unix_ms\":101,\"event\":\"stats\",\"log_bytes\":5}",
        "{\"unix_ms\":102,\"event\":\"stats\",\"log_bytes\":25,\"output_holds_us\":[[300,2]]}",
        "{\"unix_ms\":103,\"event\":\"diverged\",\"lsn\":1}",
        "{\"unix_ms\":104,\"event\":\"live\",\"epoch\":4}",
        "{\"unix_ms\":105,\"event\":\"stats\",\"log_bytes\":9}",
        "{\"unix_ms\":106,\"event\":\"protected\",\"epoch\":5}",
    ];
    let mut before = scene.counters();
    let mut grows = || {
        let now = scene.counters();
        let lower = before
            .iter()
            .find(|(name, value)| now.get(*name).is_none_or(|now| now < value));
        assert_eq!(lower, None, "in {now:?}");
        before = now;
    };
    for _ in 0..3 {
        scene.tell(&run);
        scene.metrics.look(SECOND);
        grows();
        let ended = (Cause::Other, "killed");
        scene.metrics.tending.lock().ended(&vm("db"), None, ended);
        scene.metrics.look(SECOND);
        grows();
        assert_eq!(scene.value("ftvm_vm_up{vm=\"db\"}"), None, "it is not here");
        assert_eq!(scene.value("ftvm_vm_protected{vm=\"db\"}"), None);
        // The next process of the guest.
        fs::rename(&scene.events, scene.events.with_extension("1")).expect("it is there");
        let guest = tending::Guest::default();
        scene.metrics.tending.lock().is_here(&vm("db"), guest);
        scene.metrics.look(SECOND);
        grows();
    }
    for (name, value) in [
        ("ftvm_vm_failovers_total{vm=\"db\"}", 3.0),
        ("ftvm_vm_divergences_total{vm=\"db\"}", 3.0),
        ("ftvm_vm_joins_total{vm=\"db\"}", 3.0),
        ("ftvm_output_hold_seconds_count{vm=\"db\"}", 6.0),
        ("ftvm_vm_unprotected_seconds_total{vm=\"db\"}", 6.0),
    ] {
        assert_eq!(scene.value(name), Some(value), "{name}");
    }
}

#[test]
fn a_guest_is_well_in_its_role_alone() {
    let scene = Scene::new(primary(Phase::Protected));
    let health = |path: &str| scene.metrics.health(path);
    let unwell = |words: &str| Health::Unwell(words.to_owned());
    assert_eq!(health(""), Health::Well);
    assert_eq!(health("/vm/db/primary"), Health::Well);
    let told = health("/vm/db/backup");
    assert_eq!(told, unwell("db is not backup here, but primary"));
    *scene.role.lock() = backup();
    assert_eq!(health("/vm/db/backup"), Health::Well);
    let told = health("/vm/db/primary");
    assert_eq!(told, unwell("db is not primary here, but backup"));
    for path in [
        "/",
        "/vm",
        "/vm/db",
        "/vm/db/king",
        "/vm/web/primary",
        "/vm//primary",
    ] {
        assert_eq!(health(path), Health::Unknown, "{path}");
    }
    let web = tending::Guest::default();
    scene.metrics.tending.lock().is_here(&vm("web"), web);
    let told = health("/vm/web/primary");
    assert_eq!(told, unwell("the process of web does not say what it is"));
}

/// What the disk server tells: of a guest with a disk.
fn told_by_disk_server() -> String {
    let folder = tempfile::tempdir().expect("a directory");
    let image = folder.path().join("db.img");
    fs::write(&image, [0; 4096]).expect("a file");
    let spec: ExportSpec = format!("disk={},vm=db", image.display())
        .parse()
        .expect("a disk");
    let anywhere = "127.0.0.1:0".parse().expect("an address");
    let server = Server::bind(Config {
        listen: anywhere,
        state: folder.path().join("state"),
        endpoint: Endpoint::plain(),
        nbd: Some(NbdConfig {
            listen: anywhere,
            exports: vec![spec.open().expect("it is free")],
        }),
        metrics: Some(anywhere),
        limits: Limits::default(),
    })
    .expect("it can be");
    let (address, watched) = (server.local_addr(), server.metrics_addr());
    let stop = server.stop_handle();
    let running = thread::spawn(move || server.run());
    let arbiter = Arbiter::new(address.into(), Endpoint::plain(), Settings::default());
    let claimant = "a/1".parse().expect("a claimant");
    let start = (&claimant, Next::Start);
    let claimed = arbiter.claim(&vm("db"), 0, start, &AtomicBool::new(false), |_| {});
    claimed.expect("it is free");
    let mut stream = TcpStream::connect(watched.expect("it has one")).expect("it listens");
    (stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n")).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    stop.stop();
    running
        .join()
        .expect("it does not panic")
        .expect("it ends in order");
    let (_, text) = answer.split_once("\r\n\r\n").expect("a head");
    text.to_owned()
}

/// What this host's daemon tells, of a guest.
fn told_by_daemon() -> String {
    let scene = Scene::new(primary(Phase::Protected));
    scene.metrics.look(SECOND);
    scene.metrics.metrics()
}

/// Names of metrics, with the kind of each.
fn exported() -> BTreeMap<String, String> {
    let text = told_by_disk_server() + &told_by_daemon();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let types = types.filter_map(|it| it.split_once(' '));
    types
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

/// Names of metrics in a text, without what the samples of a histogram have behind it.
fn named(text: &str, exported: &BTreeMap<String, String>) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text
        .split(|c| !word(c))
        .filter(|word| word.starts_with("ftvm_"));
    words
        .map(|name| {
            let mut ends = ["_bucket", "_sum", "_count"].into_iter();
            let family = ends.find_map(|end| name.strip_suffix(end));
            let of_histogram =
                |name: &&str| exported.get(*name).is_some_and(|it| it == "histogram");
            family.filter(of_histogram).unwrap_or(name).to_owned()
        })
        .collect()
}

fn vmm() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(vmm().join(path)).expect("a file of the repository")
}

#[test]
fn rules_dashboard_and_page_name_what_there_is_and_the_page_names_all() {
    let exported = exported();
    let there: BTreeSet<String> = exported.keys().cloned().collect();
    for path in [
        "monitoring/ftvm.rules.yml",
        "monitoring/ftvm.rules.test.yml",
        "monitoring/ftvm.dashboard.json",
    ] {
        let named = named(&read(path), &exported);
        let unknown: Vec<_> = named.difference(&there).collect();
        assert!(
            !named.is_empty() && unknown.is_empty(),
            "{path}: {unknown:?}"
        );
    }
    let page = read("../docs/monitoring.md");
    let rows = page.lines().filter(|line| line.starts_with("| `ftvm_"));
    let table: BTreeSet<String> = rows.flat_map(|row| named(row, &exported)).collect();
    assert_eq!(table, there);
    let board: serde_json::Value =
        serde_json::from_str(&read("monitoring/ftvm.dashboard.json")).expect("JSON");
    assert!(
        board["panels"]
            .as_array()
            .is_some_and(|panels| !panels.is_empty())
    );
}

#[test]
fn the_page_says_what_to_do_about_each_alert_and_each_has_a_test() {
    let rules = read("monitoring/ftvm.rules.yml");
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let (page, tests) = (
        read("../docs/monitoring.md"),
        read("monitoring/ftvm.rules.test.yml"),
    );
    let mut count = 0;
    for alert in alerts {
        assert!(page.contains(&format!("`{alert}`")), "{alert}");
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert}");
        count += 1;
    }
    assert!(count > 0);
}

/// Has Prometheus' own tool look at something: it has no complaint. Where it is not set up, people are told.
fn promtool(arguments: &[&str], input: &str) {
    let store = PackageStore::new(vmm().join("../.ftvm/packages"));
    let Some(package) = store.at_hand("prometheus").expect("it is pinned") else {
        // Not eprintln!, whose output nobody sees when the test passes.
        let line = b"SKIPPED: `cargo xtask setup` was not run, which unpacks promtool\n";
        std::io::stderr().write_all(line).expect("standard error");
        return;
    };
    let mut child = Command::new(package.file("usr/bin/promtool").expect("it has it"))
        .args(arguments)
        .current_dir(vmm().join("monitoring"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it can be started");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{arguments:?}: {said}");
}

#[test]
fn prometheus_has_no_complaint() {
    promtool(&["check", "metrics"], &told_by_disk_server());
    promtool(&["check", "metrics"], &told_by_daemon());
    promtool(&["check", "rules", "ftvm.rules.yml"], "");
    promtool(&["test", "rules", "ftvm.rules.test.yml"], "");
}
