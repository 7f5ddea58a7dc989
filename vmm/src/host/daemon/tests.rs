//! With a service that answers as it is told, and a program that only waits.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Instant;

use disk_server::fleet::{Definition, Image, LagBounds, NamedHosts, Order};
use disk_server::views::{Paging, Tended, Text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use transport::{Opening, Patience};

use super::super::process;
use super::*;

/// For what will never happen.
const LIMIT: Duration = Duration::from_secs(60);

/// What the service is to answer, and what it heard.
#[derive(Default)]
struct Service {
    order: Option<Order>,
    definition: Option<Definition>,
    heard: Vec<Tended>,
}

/// A host, its service, and what its network was asked for.
struct Scene {
    folder: TempDir,
    config: Config,
    service: Arc<Mutex<Service>>,
    taps: Arc<Mutex<BTreeSet<String>>>,
}

struct Taps(Arc<Mutex<BTreeSet<String>>>);

impl Network for Taps {
    fn add(&self, tap: &str) -> Result<(), BridgeError> {
        self.0.lock().insert(tap.to_owned());
        Ok(())
    }

    fn remove(&self, tap: &str) -> Result<(), BridgeError> {
        self.0.lock().remove(tap);
        Ok(())
    }
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let service = Arc::new(Mutex::new(Service::default()));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let disk_server = listener.local_addr().expect("it has one").into();
        let answering = service.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let service = answering.clone();
                thread::spawn(move || serve(stream, &service));
            }
        });
        let console = TcpListener::bind("127.0.0.1:0").expect("a port");
        let config = Config {
            name: "a".parse().expect("a name"),
            disk_server,
            bridge: "br0".to_owned(),
            logging_address: [127, 0, 0, 1].into(),
            ports: 7430,
            console: console.local_addr().expect("it has one"),
            metrics: None,
            memory_mib: Some(1000),
            allow_nested_paging: false,
            state: folder.path().join("state"),
            run: folder.path().join("run"),
            keys: None,
        };
        Self {
            folder,
            config,
            service,
            taps: Arc::default(),
        }
    }

    /// A daemon whose guests are this script.
    fn daemon(&self, script: &str) -> Daemon {
        let program = self.folder.path().join("script");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a file");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let host = Capabilities {
            memory_mib: 0,
            processor: Text::cut("a processor"),
            instructions: 1,
            paging: Paging::Shadow,
            exports: BTreeSet::new(),
        };
        let surroundings = Surroundings {
            host,
            network: Box::new(Taps(self.taps.clone())),
            program,
            endpoint: Endpoint::plain(),
        };
        Daemon::start(&self.config, surroundings).expect("it is the only one")
    }

    /// Defines `db`, and has it started.
    fn start(&self, epoch: u64) {
        let kernel = self.folder.path().join("vmlinux");
        fs::write(&kernel, "").expect("a file");
        let mut service = self.service.lock();
        service.definition = Some(Definition {
            vm: db(),
            memory_mib: 300,
            kernel: Image {
                path: kernel.display().to_string(),
                // Of the empty file.
                sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
                    .parse()
                    .expect("a digest"),
            },
            initrd: None,
            append: String::new(),
            mac: "52:54:00:f7:00:02".to_owned(),
            clock: "jiffies".to_owned(),
            disk: None,
            export: None,
            heartbeat_timeout_ms: None,
            lag: LagBounds::default(),
            hosts: NamedHosts::default(),
        });
        service.order = Some(Order::Start { vm: db(), epoch });
    }

    /// Waits until a ping tells this, and gives what it told.
    fn told(&self, what: &str, mut found: impl FnMut(&Tended) -> bool) -> Tended {
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut told = self.service.lock();
            if let Some(told) = told.heard.drain(..).find(&mut found) {
                return told;
            }
            drop(told);
            assert!(Instant::now() < deadline, "{what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.config.state.join("guests/db/log")).unwrap_or_default()
    }
}

fn db() -> VmName {
    "db".parse().expect("a name")
}

fn serve(socket: TcpStream, service: &Mutex<Service>) {
    let opening = Opening::Preface(transport::Service::DiskServer);
    let answered = Endpoint::plain().answer(socket, opening, &[], Patience::of(LIMIT));
    let Ok(mut stream) = answered else { return };
    let mut lines = BufReader::new(stream.clone()).lines();
    let mut answers = |answer: Value| writeln!(stream, "{answer}").is_ok();
    answers(json!({"ftvm": "arbiter", "version": 4, "server": "5f21c07d9be3a846"}));
    lines.next();
    while let Some(Ok(line)) = lines.next() {
        let mut request: Value = serde_json::from_str(&line).expect("a request");
        let mut service = service.lock();
        let answer = match request["op"].as_str() {
            Some("ping") => {
                let told = serde_json::from_value(request["role"]["host"].take());
                service.heard.push(told.expect("a daemon's ping"));
                json!({"answer": "pinged", "record": null, "order": service.order})
            }
            Some("list_exports") => json!({"answer": "exports", "exports": [], "more": false}),
            Some("operate") => {
                json!({"answer": "operated", "outcome": {"definition": service.definition}})
            }
            _ => json!({"answer": "error", "code": "malformed", "message": "unexpected"}),
        };
        drop(service);
        if !answers(answer) {
            return;
        }
    }
}

#[test]
fn who_watches_the_host_is_told_of_its_guests_where_the_configuration_says() {
    let mut scene = Scene::new();
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("it has one");
    scene.config.metrics = Some(address);
    drop(free);
    let _daemon = scene.daemon("sleep 60");
    let get = |path: &str| {
        let mut stream = TcpStream::connect(address).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    assert!(get("/metrics").contains("ftvm_host_info{host=\"a\""));
    assert!(get("/healthz").ends_with("ok\n"));
    assert!(get("/healthz/vm/db/primary").starts_with("HTTP/1.1 404 "));
    scene.start(3);
    let deadline = Instant::now() + LIMIT;
    // The script says nothing of itself.
    while !get("/metrics").contains("ftvm_vm_up{vm=\"db\"} 0.0\n") {
        assert!(Instant::now() < deadline, "{}", get("/metrics"));
        thread::sleep(Duration::from_millis(10));
    }
    assert!(get("/healthz/vm/db/primary").starts_with("HTTP/1.1 503 "));
}

#[test]
fn an_order_becomes_a_process_and_its_end_is_told() {
    let scene = Scene::new();
    let daemon = scene.daemon("echo \"ftvm: $*\" >&2; echo $$ >$0.pid; while :; do sleep 1; done");
    scene.told("a ping", |told| told.processes.is_empty());
    scene.start(3);
    scene.told("that it is here", |told| told.processes.contains_key(&db()));
    let pid = scene.config.run.join("ftvm.pid");
    let deadline = Instant::now() + LIMIT;
    let pid = loop {
        let number = fs::read_to_string(&pid).unwrap_or_default();
        if let Ok(number) = number.trim().parse() {
            break Pid::from_raw(number);
        }
        assert!(Instant::now() < deadline, "it is started: {}", scene.log());
        thread::sleep(Duration::from_millis(10));
    };
    let told = scene.log();
    for words in [
        "primary --config",
        "--host a",
        "--tap ftvm-db",
        "--force=3",
        "--tended",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert_eq!(*scene.taps.lock(), BTreeSet::from(["ftvm-db".to_owned()]));
    assert_eq!(daemon.guests(), [db()]);
    let left = daemon.shared.memory_left_mib();
    assert!(left <= 700, "{left} MiB beside a guest of 300");

    scene.service.lock().order = None;
    nix::sys::signal::killpg(pid, Signal::SIGKILL).expect("it lives");
    let told = scene.told("its end", |told| !told.ended.is_empty());
    assert!(!told.processes.contains_key(&db()));
    let killed = Some(128 + 9);
    assert_eq!((&told.ended[0].vm, told.ended[0].status), (&db(), killed));
    let reason = told.ended[0].reason.as_str();
    assert!(reason.starts_with("ended by SIGKILL"), "{reason}");
    assert!(scene.taps.lock().is_empty());
    scene.told("that it was heard", |told| told.ended.is_empty());
    assert!(!scene.config.run.join("guests/db").exists());
}

#[test]
fn a_start_that_fails_is_told_and_tried_again_when_it_is_ordered_again() {
    let scene = Scene::new();
    let _daemon = scene.daemon("exit 2");
    scene.start(3);
    let ended = |told: &Tended| told.ended.first().map(|ended| (ended.number, ended.status));
    let first = scene.told("its end", |told| ended(told).is_some());
    let (first, status) = ended(&first).expect("it was found");
    assert_eq!(status, Some(2));
    scene.told("another end", |told| {
        ended(told).is_some_and(|(number, _)| number > first)
    });
    let other = scene.folder.path().join("vmlinux");
    fs::write(other, "another kernel").expect("a file");
    scene.told("that it is another image", |told| {
        let reason = told.ended.first().map(|ended| ended.reason.as_str());
        reason.is_some_and(|reason| reason.starts_with("not started: the image "))
    });
}

/// A guest of an earlier daemon that lives, one whose process ended meanwhile, and an end that was perhaps
/// not told.
#[test]
fn guests_of_an_earlier_daemon_are_found() {
    let scene = Scene::new();
    let folders = Folders::make(&scene.config.run, &scene.config.state).expect("they can be made");
    let mut children = Vec::new();
    let number = now_ms() + 1_000_000;
    for name in ["db", "dead", "told"] {
        let vm: VmName = name.parse().expect("a name");
        let guest = folders.guest(&vm).expect("a plain name");
        guest.make().expect("it can be made");
        let mut earlier = Tending::new(number);
        let ended =
            (name == "told").then(|| earlier.ended(&vm, Some(0), (Cause::Other, "powered off")));
        let record = Record {
            role: "primary".to_owned(),
            tap: format!("ftvm-{name}"),
            listen: "127.0.0.1:7430".parse().expect("an address"),
            memory_mib: 100,
            pid: None,
            ended,
        };
        record.write(&guest.record()).expect("it can be written");
        scene.taps.lock().insert(record.tap);
        let lock = Lock::take(&guest.lock())
            .expect("it can be")
            .expect("it is free");
        if name == "db" {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do sleep 1; done"]);
            children.push(process::start(command, lock).expect("there is a shell"));
        }
    }
    let daemon = scene.daemon("exit 1");
    assert_eq!(daemon.guests(), [db()]);
    let told = scene.told("both ends", |told| told.ended.len() == 2);
    assert_eq!(told.processes.keys().collect::<Vec<_>>(), [&db()]);
    let [first, second] = &told.ended[..] else {
        panic!("two were found");
    };
    assert!(
        first
            .reason
            .as_str()
            .starts_with("the daemon was started anew")
    );
    assert_eq!((second.number, second.status), (number, Some(0)));
    assert!(!scene.taps.lock().contains("ftvm-dead") && scene.taps.lock().contains("ftvm-db"));

    let another = Daemon::start(
        &scene.config,
        Surroundings {
            host: daemon.shared.host.clone(),
            network: Box::new(Taps(scene.taps.clone())),
            program: PathBuf::from("/bin/false"),
            endpoint: Endpoint::plain(),
        },
    );
    assert!(matches!(another.err(), Some(DaemonError::Another { .. })));

    for child in &mut children {
        let group = Pid::from_raw(-child.id().cast_signed());
        kill(group, Signal::SIGKILL).expect("it lives");
        child.wait().expect("it is ours");
    }
    scene.told("the end of the guest that was found", |told| {
        told.ended.iter().any(|ended| ended.vm == db())
    });
}
