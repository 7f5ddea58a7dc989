//! A disk server with keys: who is let in, who may do what, and who is not any more.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use disk_server::arbiter::{Arbiter, CallError, Claim, ClaimError, Next, Settings, VmName};
use disk_server::fleet::{Answer, FLEET_FILE, Operation, Verb, What};
use disk_server::nbd::client::{self, ConnectError};
use disk_server::views::{Cause, Ended, Ping, Role, Tended, Text};
use transport::{ConnectionError, Endpoint, Key, KeySet, Peer, Role as KeyRole, key_set, sign};

use crate::fleet::definition;
use crate::support::{GENEROUS, Process, until};
use crate::views::capabilities;

/// A disk server with the disk of `db`, and everybody's keys.
struct Scene {
    server: Process,
    keys: KeySet,
    /// The certificate of who has signed the server's.
    authority: String,
    directory: tempfile::TempDir,
}

impl Scene {
    fn start() -> Scene {
        Self::start_with(&[])
    }

    fn start_with(options: &[&str]) -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let members = [
            (KeyRole::DiskServer, "ds"),
            (KeyRole::DiskServer, "other"),
            (KeyRole::Host, "a"),
            (KeyRole::Host, "b"),
            (KeyRole::Host, "c"),
            (KeyRole::Operator, "anna"),
            (KeyRole::Monitor, "prometheus"),
        ];
        let keys = key_set(directory.path(), &members).unwrap();
        Self::serve(directory, keys, ("ds", "127.0.0.1:0"), options)
    }

    /// With the key of `server`, at an address.
    fn serve(
        directory: tempfile::TempDir,
        keys: KeySet,
        (server, listen): (&str, &str),
        options: &[&str],
    ) -> Scene {
        let authority = signed_as_localhost(&keys.key("ds"));
        let image = directory.path().join("disk.img");
        fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_disk-server"));
        command
            .args(["--listen", listen, "--nbd-listen", "127.0.0.1:0"])
            .arg("--key")
            .arg(keys.key(server))
            .arg("--trust")
            .arg(keys.trust())
            .arg("--state")
            .arg(directory.path().join("state"))
            .arg(format!("--export=disk={},vm=db", image.display()))
            .args(options)
            .stdin(std::process::Stdio::null())
            .stderr(fs::File::create(directory.path().join("log")).unwrap());
        let server = Process::start_with(&mut command);
        Scene {
            server,
            keys,
            authority,
            directory,
        }
    }

    /// The server is killed. Another one with the key of `server` is started on its state, at its address.
    fn again(self, server: &str, change: impl FnOnce(&Path)) -> Scene {
        let listen = self.server.address.to_string();
        drop(self.server);
        change(&self.directory.path().join("state"));
        Self::serve(self.directory, self.keys, (server, &listen), &[])
    }

    fn endpoint(&self, name: &str) -> Endpoint {
        Endpoint::read(&self.keys.key(name), &self.keys.trust()).unwrap()
    }

    fn arbiter_as(&self, endpoint: Endpoint) -> Arbiter {
        Arbiter::new(self.server.address.into(), endpoint, Settings::default())
    }

    fn arbiter(&self, name: &str) -> Arbiter {
        self.arbiter_as(self.endpoint(name))
    }

    /// A directory as libnbd wants it.
    fn pki(&self, name: &str, directory: &Path) {
        fs::create_dir_all(directory).unwrap();
        let key = Key::read(&self.keys.key(name)).unwrap();
        fs::copy(self.keys.key(name), directory.join("client-key.pem")).unwrap();
        fs::write(directory.join("client-cert.pem"), key.certificates()).unwrap();
        fs::write(directory.join("ca-cert.pem"), &self.authority).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Opens an export as this one.
    fn open(&self, name: &str, export: &str) -> Result<client::Connection, ConnectError> {
        let address = self.server.nbd.unwrap().into();
        client::connect(&address, export, &self.endpoint(name), GENEROUS)
    }
}

/// Has an authority sign a key, for programs that go by an address. The authority's certificate.
fn signed_as_localhost(key: &Path) -> String {
    let own = Key::read(key).unwrap().certificates();
    let peer = Peer {
        name: "localhost".into(),
        role: KeyRole::DiskServer,
    };
    let signed = sign(&Key::generate().unwrap(), &peer, &own).unwrap();
    fs::write(key.with_extension("crt"), &signed).unwrap();
    let end = "-----END CERTIFICATE-----\n";
    signed.split_inclusive(end).nth(1).unwrap().to_owned()
}

fn vm() -> VmName {
    "db".parse().unwrap()
}

/// One attempt: who waits for better times does so no longer.
fn claim(arbiter: &Arbiter, claimant: &str, epoch: u64, next: Next) -> Result<Claim, String> {
    let cancel = AtomicBool::new(false);
    let mut reason = String::new();
    let claimant = claimant.parse().unwrap();
    let claimed = arbiter.claim(&vm(), epoch, (&claimant, next), &cancel, |why| {
        reason = why.to_string();
        cancel.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    claimed.map_err(|error| match error {
        ClaimError::Cancelled => reason,
        other => other.to_string(),
    })
}

fn define(scene: &Scene, hosts: &[&str]) {
    (scene.arbiter("anna").operate(definition_for(hosts))).unwrap();
}

fn definition_for(hosts: &[&str]) -> Operation {
    let mut definition = definition();
    definition.hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    Operation::Define {
        definition: Box::new(definition),
        by: Text::cut("root@nowhere"),
    }
}

#[test]
fn a_host_claims_only_under_its_own_name_and_only_what_names_it() {
    let scene = Scene::start();
    define(&scene, &["a", "b"]);
    let told = claim(&scene.arbiter("b"), "a/1", 0, Next::Start).unwrap_err();
    assert!(told.contains("the host b cannot speak for a/1"), "{told}");
    let told = claim(&scene.arbiter("c"), "c/1", 0, Next::Start).unwrap_err();
    assert!(
        told.contains("c is not among the hosts that may run db"),
        "{told}"
    );
    let a = scene.arbiter("a");
    assert_eq!(
        claim(&a, "a/1", 0, Next::Start),
        Ok(Claim::Won { epoch: 1 })
    );
    let told = claim(&a, "a/1", 1, Next::With("c/1".parse().unwrap())).unwrap_err();
    assert!(told.contains("c is not among the hosts"), "{told}");
    let with = Next::With("b/1".parse().unwrap());
    assert_eq!(claim(&a, "a/1", 1, with), Ok(Claim::Won { epoch: 2 }));
    let told = scene
        .arbiter("b")
        .acknowledge(&vm(), 2, &"a/1".parse().unwrap());
    assert!(matches!(told, Err(CallError::Denied { .. })), "{told:?}");
    // All of it is told.
    let log = scene.log();
    assert!(
        log.contains("(host b): the host b cannot speak for a/1"),
        "{log}"
    );
    assert!(log.contains("(number 4)"), "{log}");
}

#[test]
fn an_operator_commands_in_its_own_name_and_a_monitor_looks() {
    let scene = Scene::start();
    define(&scene, &["a"]);
    let start = || Operation::Guest {
        vm: vm(),
        verb: Verb::Start { force: false },
        by: Text::cut("somebody else"),
    };
    for name in ["prometheus", "a"] {
        let arbiter = scene.arbiter(name);
        let denied = arbiter.operate(start());
        assert!(
            matches!(denied, Err(CallError::Denied { .. })),
            "{denied:?}"
        );
        let status = arbiter.operate(Operation::Status { vm: vm() });
        assert!(matches!(status, Ok(Answer::Status(_))), "{status:?}");
        arbiter.list_hosts().unwrap();
    }
    let anna = scene.arbiter("anna");
    anna.operate(start()).unwrap();
    let all = Operation::History {
        vm: None,
        before: None,
    };
    let Answer::History { entries, .. } = anna.operate(all).unwrap() else {
        panic!("another answer");
    };
    let orderers = entries.iter().filter_map(|entry| match &entry.what {
        What::Ordered { by, .. } => Some(by.as_str()),
        _ => None,
    });
    assert_eq!(orderers.collect::<Vec<_>>(), ["anna", "anna"]);
}

#[test]
fn what_was_denied_is_told_to_those_who_watch_without_names() {
    let scene = Scene::start_with(&["--metrics", "127.0.0.1:0"]);
    let denials = |action: &str| {
        let name = format!("ftvm_denials_total{{action=\"{action}\"}}");
        scene.server.metric(&name)
    };
    define(&scene, &["a"]);
    claim(&scene.arbiter("b"), "b/1", 0, Next::Start).unwrap_err();
    scene.open("prometheus", "disk").unwrap_err();
    for (action, count) in [
        ("run", 1.0),
        ("open_disk", 1.0),
        ("command", 0.0),
        ("connect", 0.0),
    ] {
        assert_eq!(denials(action), count, "{action}");
    }
    (scene.arbiter_as(Endpoint::plain()).read(&vm())).unwrap_err();
    until("it is counted", || denials("connect") == 1.0);
    let metrics = scene.server.watched("/metrics");
    assert!(!metrics.contains("prometheus"), "{metrics}");
}

#[test]
fn who_is_not_listed_any_more_loses_its_connections_at_once() {
    let scene = Scene::start();
    define(&scene, &["a"]);
    let a = scene.arbiter("a");
    assert_eq!(
        claim(&a, "a/1", 0, Next::Start),
        Ok(Claim::Won { epoch: 1 })
    );
    let mut disk = scene.open("a", "disk@db:1").unwrap();
    let trust = fs::read_to_string(scene.keys.trust()).unwrap();
    let without: String = trust
        .lines()
        .filter(|line| !line.starts_with("\"a\""))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(trust, without);
    // Nobody reads half of it.
    let new = scene.directory.path().join("new");
    fs::write(&new, without).unwrap();
    fs::rename(new, scene.keys.trust()).unwrap();
    assert!(
        disk.replies.next_reply().is_err(),
        "the disk's connection ends"
    );
    until("it is not let in", || {
        let read = scene.arbiter("a").read(&vm());
        let unopened = |error: &ConnectionError| matches!(error, ConnectionError::NotListed(_));
        matches!(&read, Err(CallError::Unopened { source, .. }) if unopened(source))
    });
    assert!(a.read(&vm()).is_err(), "nor on a connection of before");
    scene.arbiter("b").read(&vm()).unwrap();
}

#[test]
fn plain_and_secure_tell_each_other_what_they_are() {
    let scene = Scene::start();
    let plain = scene.arbiter_as(Endpoint::plain()).read(&vm());
    let Err(CallError::Unopened { source, .. }) = plain else {
        panic!("{plain:?}");
    };
    assert!(matches!(source, ConnectionError::PeerIsSecure), "{source}");
    let disk = client::connect(
        &scene.server.nbd.unwrap().into(),
        "disk",
        &Endpoint::plain(),
        GENEROUS,
    );
    let told = disk.unwrap_err().to_string();
    assert!(told.contains("asks for TLS"), "{told}");
    until("the log has it", || {
        scene.log().contains("is not let in: it is plain")
    });

    let directory = tempfile::tempdir().unwrap();
    let server = Process::start("127.0.0.1:0", directory.path());
    let settings = Settings::default();
    let secure = Arbiter::new(server.address.into(), scene.endpoint("a"), settings).read(&vm());
    let Err(CallError::Unopened { source, .. }) = secure else {
        panic!("{secure:?}");
    };
    assert!(matches!(source, ConnectionError::PeerIsPlain), "{source}");
}

#[test]
fn a_disk_is_written_by_the_host_that_runs_its_guest_and_read_by_those_that_may() {
    let scene = Scene::start();
    define(&scene, &["a", "b"]);
    let a = scene.arbiter("a");
    assert_eq!(
        claim(&a, "a/1", 0, Next::Start),
        Ok(Claim::Won { epoch: 1 })
    );
    let refused = |name: &str, export: &str| scene.open(name, export).unwrap_err().to_string();
    // In the very epoch, but another host's.
    let told = refused("b", "disk@db:1");
    assert!(told.contains("a/1 runs db, and not b"), "{told}");
    let told = refused("c", "disk");
    assert!(told.contains("c is not among the hosts"), "{told}");
    let told = refused("prometheus", "disk");
    assert!(
        told.contains("the monitor prometheus may not open disks"),
        "{told}"
    );
    for (name, export) in [("a", "disk@db:1"), ("b", "disk"), ("anna", "disk")] {
        let mut disk = scene.open(name, export).unwrap();
        disk.requests.read(1, 0, 4096).unwrap();
        disk.requests.flush_buffer().unwrap();
        disk.replies.next_reply().unwrap();
        disk.requests.disconnect();
    }
}

/// As in a pair that is run by hand, of which the server was told nothing.
#[test]
fn a_guest_that_is_not_defined_is_run_by_nobody_until_it_is() {
    let scene = Scene::start();
    let c = scene.arbiter("c");
    let told = claim(&c, "c/1", 0, Next::Start).unwrap_err();
    assert!(told.contains("db is not defined"), "{told}");
    assert!(told.contains("ftvm vm define FILE"), "{told}");
    let told = scene.open("c", "disk").unwrap_err().to_string();
    assert!(told.contains("db is not defined"), "{told}");
    define(&scene, &["a", "b"]);
    let told = claim(&c, "c/1", 0, Next::Start).unwrap_err();
    assert!(told.contains("c is not among the hosts"), "{told}");
    let a = scene.arbiter("a");
    assert_eq!(
        claim(&a, "a/1", 0, Next::Start),
        Ok(Claim::Won { epoch: 1 })
    );
    assert_eq!(
        claim(&a, "a/1", 1, Next::Stopped),
        Ok(Claim::Won { epoch: 2 })
    );
    // Nor any more when it is none again.
    let undefine = Operation::Undefine {
        vm: vm(),
        by: Text::cut("root@nowhere"),
    };
    until("it has stopped", || {
        scene.arbiter("anna").operate(undefine.clone()).is_ok()
    });
    let told = claim(&a, "a/1", 2, Next::Start).unwrap_err();
    assert!(told.contains("db is not defined"), "{told}");
}

#[test]
fn another_definition_ends_what_hosts_that_it_does_not_name_have_open() {
    let scene = Scene::start();
    define(&scene, &["a", "c"]);
    let read = |disk: &mut client::Connection, cookie| {
        let asked = disk.requests.read(cookie, 0, 4096);
        asked.and_then(|()| disk.requests.flush_buffer()).is_ok()
            && disk.replies.next_reply().is_ok()
    };
    let [mut a, mut c, mut anna] = ["a", "c", "anna"].map(|name| scene.open(name, "disk").unwrap());
    assert!(read(&mut a, 1) && read(&mut c, 1) && read(&mut anna, 1));
    define(&scene, &["a", "b"]);
    assert!(!read(&mut c, 2), "c is not among them any more");
    assert!(read(&mut a, 2) && read(&mut anna, 2));
}

#[test]
fn a_definition_leaves_out_nobody_who_runs_the_guest() {
    let scene = Scene::start();
    define(&scene, &["a", "b"]);
    assert_eq!(
        claim(&scene.arbiter("a"), "a/1", 0, Next::Start),
        Ok(Claim::Won { epoch: 1 })
    );
    // What the server was told is lost, but for the epochs.
    let scene = scene.again("ds", |state| {
        fs::remove_file(state.join(FLEET_FILE)).unwrap();
    });
    let refused = scene.arbiter("anna").operate(definition_for(&["b", "c"]));
    let Err(CallError::Refused { message, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(message.contains("a runs db"), "{message}");
    define(&scene, &["a", "c"]);
}

/// A host has nothing to say about guests that do not name it, in a ping that is heard for the others.
#[test]
fn a_daemon_is_heard_only_of_guests_that_name_its_host() {
    let scene = Scene::start();
    define(&scene, &["a", "b"]);
    let ended = Ended {
        vm: vm(),
        number: 1,
        status: Some(1),
        cause: Cause::Other,
        reason: Text::cut("made up"),
    };
    let ping = |number, host: &str| Ping {
        host: host.parse().unwrap(),
        number,
        carries: capabilities(1024),
        role: Role::Host(Tended {
            processes: [(vm(), None)].into(),
            ended: vec![ended.clone()],
            machine: Text::cut("a machine"),
            console: "0.0.0.0:1".parse().unwrap(),
        }),
    };
    let [a, c] = ["a", "c"].map(|name| scene.arbiter(name));
    let history = || {
        let all = Operation::History {
            vm: Some(vm()),
            before: None,
        };
        let Answer::History { entries, .. } = a.operate(all).unwrap() else {
            panic!("another answer");
        };
        let ends = entries.iter().filter_map(|entry| match &entry.what {
            What::Ended { host, .. } => Some(host.to_string()),
            _ => None,
        });
        ends.collect::<Vec<_>>()
    };
    c.ping(&ping(1, "c/d")).unwrap();
    assert!(history().is_empty());
    let hosts = a.list_hosts().unwrap();
    let of_c = hosts
        .iter()
        .find(|it| it.host.host().as_str() == "c")
        .unwrap();
    assert!(
        matches!(&of_c.role, Role::Host(tended) if tended.processes.is_empty() && of_c.live),
        "{of_c:?}"
    );
    a.ping(&ping(1, "a/d")).unwrap();
    assert_eq!(history(), ["a"]);
}

/// Somebody without a key who opens more connections than there are places.
#[test]
fn strangers_take_no_places_of_those_that_are_known() {
    let scene = Scene::start_with(&["--max-connections", "4"]);
    define(&scene, &["a"]);
    let [arbiter, nbd] = [scene.server.address, scene.server.nbd.unwrap()];
    let flood: Vec<_> = (0..200)
        .map(|n| TcpStream::connect(if n % 2 == 0 { arbiter } else { nbd }))
        .collect();
    // At the first attempt. This is the latest of that address; what came before goes.
    scene.arbiter("a").read(&vm()).unwrap();
    let disk = scene.open("a", "disk").unwrap();
    drop((flood, disk));
}

/// Its number is no secret: who is listed as another disk server may know it.
#[test]
fn another_disk_server_does_not_pass_for_the_one_that_answered_before() {
    let scene = Scene::start();
    let a = scene.arbiter("a");
    a.read(&vm()).unwrap();
    let scene = scene.again("other", |_| {});
    let told = a.read(&vm());
    assert!(
        matches!(told, Err(CallError::OtherServer { .. })),
        "{told:?}"
    );
    let _back = scene.again("ds", |_| {});
    a.read(&vm()).unwrap();
}

/// With another program's TLS, which looks at the server's certificate, too.
#[test]
fn nbdinfo_with_a_listed_key_sees_the_exports() {
    let scene = Scene::start();
    let port = scene.server.nbd.unwrap().port();
    let info = |name: &str, options: &[&str]| {
        let certificates = scene.directory.path().join(format!("pki-{name}"));
        scene.pki(name, &certificates);
        let directory = certificates.display();
        let uri = format!("nbds://localhost:{port}/disk?tls-certificates={directory}");
        let output = std::process::Command::new("nbdinfo")
            .args(options)
            .arg(&uri)
            .output()
            .unwrap();
        let [out, err] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
        (output.status.success(), format!("{out}{err}"))
    };
    let (is_well, told) = info("anna", &[]);
    assert!(is_well && told.contains("export-size: 1048576"), "{told}");
    let (is_well, told) = info("prometheus", &["--list"]);
    assert!(is_well && told.contains("export=\"disk\""), "{told}");
}

/// Somebody who asks for TLS and goes on in clear behind it.
#[test]
fn what_comes_in_clear_behind_the_wish_for_tls_is_not_taken() {
    use std::io::{Read as _, Write as _};
    let scene = Scene::start();
    let mut socket = std::net::TcpStream::connect(scene.server.nbd.unwrap()).unwrap();
    socket.set_read_timeout(Some(GENEROUS)).unwrap();
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting).unwrap();
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    // STARTTLS, and LIST at once.
    for option in [5_u32, 3] {
        bytes.extend(b"IHAVEOPT");
        bytes.extend(option.to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
    }
    socket.write_all(&bytes).unwrap();
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{rest:?}");
    until("the log has it", || {
        scene.log().contains("went on in clear")
    });
}
