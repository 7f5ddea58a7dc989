//! `ftvm network-test`: two processes over loopback, and those that have no business there.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use logging_channel::entry::{Entry, ExecutionPoint, Payload};
use logging_channel::handshake::Title;
use logging_channel::session::{AcceptError, Admission, Listener};
use logging_channel::{HostReport, Identity, Settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use transport::{Endpoint, KeySet, Role, key_set};

/// With which keys a side speaks.
#[derive(Clone, Copy)]
enum Keys<'a> {
    Plain,
    Of(&'a KeySet, &'a str),
}

fn ftvm(keys: Keys<'_>, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftvm"));
    command
        .arg("network-test")
        .args(args)
        .env_remove("RUST_LOG");
    match keys {
        Keys::Plain => command.arg("--plain"),
        Keys::Of(set, name) => {
            let (key, trust) = (set.key(name), set.trust());
            command.arg("--key").arg(key).arg("--trust").arg(trust)
        }
    };
    command.stdin(Stdio::null());
    command
}

/// The side that listens.
struct Listening {
    child: Child,
    said: BufReader<ChildStderr>,
    address: String,
}

impl Listening {
    fn start(keys: Keys<'_>, seconds: &str) -> Self {
        Self::start_at("127.0.0.1:0", keys, seconds)
    }

    fn start_at(address: &str, keys: Keys<'_>, seconds: &str) -> Self {
        let args = ["--listen", address, "--seconds", seconds];
        let child = ftvm(keys, &args).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("ftvm starts");
        let said = BufReader::new(child.stderr.take().expect("piped"));
        let mut it = Self {
            child,
            said,
            address: String::new(),
        };
        let line = it.hear("waits for network tests");
        let (_, told) = line.split_once("--connect ").expect("it says how");
        it.address = told.split('`').next().expect("an address").to_owned();
        it
    }

    /// Waits for a line that has this in it.
    fn hear(&mut self, what: &str) -> String {
        let mut before = String::new();
        loop {
            let mut line = String::new();
            let read = self.said.read_line(&mut line).expect("it can be read");
            assert!(read > 0, "it ended before it said {what:?}, after {before}");
            if line.contains(what) {
                return line;
            }
            before.push_str(&line);
        }
    }

    fn connect(&self, keys: Keys<'_>, more: &[&str]) -> Child {
        let args = [&["--connect", &self.address], more].concat();
        let mut command = ftvm(keys, &args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("ftvm starts")
    }

    /// It ends in order when it is told to.
    fn end(mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        kill(pid, Signal::SIGINT).expect("it runs");
        assert!(self.child.wait().expect("a child").success());
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keys(folder: &Path) -> KeySet {
    let members = [
        (Role::Host, "a"),
        (Role::Host, "b"),
        (Role::Operator, "anna"),
    ];
    key_set(folder, &members).expect("keys")
}

fn done(child: Child) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().expect("a child");
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(status.success(), "{said}");
    String::from_utf8(stdout).expect("text")
}

/// What it says of why it has no result.
fn failed(child: Child) -> String {
    let output = child.wait_with_output().expect("a child");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty());
    said
}

#[test]
fn hosts_with_keys_test_their_network_one_after_the_other() {
    let folder = tempfile::tempdir().expect("a directory");
    let set = keys(folder.path());
    let mut listening = Listening::start(Keys::Of(&set, "a"), "1");
    let text = done(listening.connect(Keys::Of(&set, "b"), &["--json"]));
    let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(found["peer"], "host a");
    for answered in ["acknowledgement", "bare_answer"] {
        let it = &found[answered];
        let [p50, p99, max] = ["p50_us", "p99_us", "max_us"].map(|key| it[key].as_u64());
        assert!(p50 > Some(0) && p50 <= p99 && p99 <= max, "{it}");
        assert!(it["count"].as_u64() > Some(0), "{it}");
    }
    let throughput = found["throughput"].as_array().expect("stages");
    let stages: Vec<_> = throughput.iter().map(|it| it["stage"].as_str()).collect();
    let expected = ["bare-stream", "large-frames", "frames", "small"];
    assert_eq!(stages, expected.map(Some));
    for it in throughput {
        assert!(it["gbit_per_s"].as_f64() > Some(0.0), "{it}");
    }
    for way in ["heartbeats_there", "heartbeats_here"] {
        assert!(found[way]["heard"].as_u64() > Some(0), "{found}");
    }
    assert!(found["guests"][0]["guests"].as_u64() > Some(0));
    let through = listening.hear("is through");
    assert!(through.contains("host b"), "{through}");

    let text = done(listening.connect(Keys::Of(&set, "b"), &[]));
    assert!(text.contains("(host a)"), "{text}");
    listening.end();
}

#[test]
fn without_keys_it_is_asked_for_on_both_sides_and_noise_ends_nothing() {
    let mut listening = Listening::start(Keys::Plain, "1");
    let mut noise = TcpStream::connect(&listening.address).expect("it listens");
    noise.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    listening.hear("does not speak as ftvm does");
    let text = done(listening.connect(Keys::Plain, &[]));
    assert!(text.contains("(plain)"), "{text}");
    listening.hear("is through");
    listening.end();
}

#[test]
fn who_may_not_is_told_so() {
    let folder = tempfile::tempdir().expect("a directory");
    let set = keys(folder.path());
    let elsewhere = tempfile::tempdir().expect("a directory");
    let stranger = keys(elsewhere.path());
    let listening = Listening::start(Keys::Of(&set, "a"), "1");
    let refused = [
        (Keys::Of(&stranger, "b"), "not listed"),
        (Keys::Of(&set, "anna"), "only a host may be there"),
        (Keys::Plain, "asks for keys"),
    ];
    // At a time: each tries for as long as a list may still be changed.
    let refused = refused.map(|(keys, why)| (listening.connect(keys, &[]), why));
    for (child, why) in refused {
        let said = failed(child);
        assert!(said.contains(why), "{why:?} is missing in {said}");
    }
}

#[test]
fn a_side_that_is_killed_ends_the_test_and_the_next_one_is_served() {
    let mut listening = Listening::start(Keys::Plain, "20");
    let mut connecting = listening.connect(Keys::Plain, &[]);
    listening.hear("tests the network");
    connecting.kill().expect("it runs");
    connecting.wait().expect("a child");
    listening.hear("broke off");

    let connecting = listening.connect(Keys::Plain, &[]);
    listening.hear("tests the network");
    listening.child.kill().expect("it runs");
    let said = failed(connecting);
    assert!(said.contains("the network test broke off"), "{said}");
}

#[test]
fn a_side_that_is_told_to_end_does_so_in_the_middle_of_a_test() {
    let mut listening = Listening::start(Keys::Plain, "3600");
    let connecting = listening.connect(Keys::Plain, &[]);
    listening.hear("tests the network");
    listening.end();
    let said = failed(connecting);
    assert!(said.contains("the network test broke off"), "{said}");
}

#[test]
fn who_listens_everywhere_leaves_open_by_which_address_it_is_reached() {
    let listening = Listening::start_at("0.0.0.0:0", Keys::Plain, "1");
    let (address, port) = listening.address.split_once(':').expect("a port");
    assert_eq!(address, "ADDRESS");
    assert!(port.parse::<u16>().expect("a port") > 0);
}

#[test]
fn what_the_other_side_decides_is_refused() {
    for args in [
        ["--connect", "127.0.0.1:1", "--seconds=3"],
        ["--listen", "127.0.0.1:0", "--json"],
    ] {
        let status = ftvm(Keys::Plain, &args).stderr(Stdio::null()).status();
        assert_eq!(status.expect("ftvm starts").code(), Some(2), "{args:?}");
    }
}

/// What the side that connects says of this one.
fn said_of(address: SocketAddr) -> String {
    let address = address.to_string();
    let mut command = ftvm(Keys::Plain, &["--connect", &address]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    failed(command.spawn().expect("ftvm starts"))
}

#[test]
fn another_program_is_found_out() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    // Until this process ends: it is tried again.
    thread::spawn(move || {
        for socket in listener.incoming() {
            let _ = socket
                .expect("a connection")
                .write_all(b"220 mail\r\n ready");
        }
    });
    let said = said_of(address);
    assert!(said.contains("does not speak as ftvm does"), "{said}");
}

/// What it says of one that has a session for the virtual machine `vm`, and this at its console.
fn said_of_session(vm: &str, typed: &[u8]) -> String {
    let mut listener =
        Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), &Endpoint::plain()).expect("a free port");
    let address = listener.local_addr();
    let identity = Identity {
        vm: vm.into(),
        ..ftvm_vmm::network_test::identity()
    };
    let title = |_: Option<&_>| {
        Ok(Title {
            epoch: 1,
            holder: "hosta/1f0c".into(),
        })
    };
    let admit = |_: &str, _: Option<&_>| Admission::Admitted(2);
    let (is_over, host) = (AtomicBool::new(false), HostReport::default());
    let settings = Settings {
        memory_streams: 1,
        ..Settings::default()
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let cancel = Some(&is_over);
            let accepted =
                listener.accept_backup(&identity, &host, title, &settings, cancel, admit);
            match accepted {
                Ok(sender) => {
                    sender.append_and_flush(Entry {
                        point: ExecutionPoint::at_exit(1),
                        check: None,
                        payload: Payload::ConsoleInput(typed.to_vec()),
                    });
                    sender.wait_over();
                }
                Err(error) => assert!(matches!(error, AcceptError::Cancelled), "{error}"),
            }
        });
        let said = said_of(address);
        is_over.store(true, Ordering::Relaxed);
        said
    })
}

#[test]
fn the_primary_of_a_guest_is_not_taken_for_a_test() {
    let said = said_of_session("db", b"");
    assert!(said.contains("the primary of a guest listens"), "{said}");
}

#[test]
fn words_that_make_no_sense_end_the_test() {
    for typed in [
        &b"reboot"[..],
        br#"{"begins":"teatime"}"#,
        br#"{"over":{"heard":1,"lost":0,"jitter_us":null}}"#,
    ] {
        let said = said_of_session("network test", typed);
        assert!(said.contains("run the same ftvm on both"), "{said}");
    }
}
