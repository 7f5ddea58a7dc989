//! What is asked at a control socket, and answered.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::atomic::AtomicBool;

use disk_server::views::Condition;
use tempfile::TempDir;

use super::*;
use crate::io::ConsoleSink;
use crate::sources::Lanes;

const LONG: Duration = Duration::from_secs(60);

struct Run {
    has_console: bool,
}

fn status() -> Status {
    Status {
        claimant: "hosta/1".parse().unwrap(),
        role: Role::Backup {
            vm: "db".parse().unwrap(),
            epoch: 7,
            condition: Condition::default(),
        },
    }
}

impl Asked for Run {
    fn status(&self) -> Option<Status> {
        Some(status())
    }

    fn hand_over(&self) -> Result<(), String> {
        Err("the backup is cold".into())
    }

    fn has_console(&self) -> Result<(), String> {
        self.has_console
            .then_some(())
            .ok_or("it is elsewhere".into())
    }
}

/// A socket at which a run answers: its path, the console's output, and what is typed.
fn scene(has_console: bool) -> (TempDir, PathBuf, ConsoleSink, Lanes) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let (sink, lanes) = (ConsoleSink::default(), Lanes::default());
    let live = Arc::new(AtomicBool::new(true));
    let console = Console::new(sink.clone(), lanes.typed.clone(), live);
    let socket = ControlSocket::bind(&path).unwrap();
    socket.serve(Run { has_console }, console).unwrap();
    (folder, path, sink, lanes)
}

fn ask(path: &Path, question: &str) -> (String, BufReader<UnixStream>) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(question.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut answer = String::new();
    reader.read_line(&mut answer).unwrap();
    (answer, reader)
}

#[test]
fn a_question_is_answered_in_a_line() {
    let (_folder, path, ..) = scene(false);
    let (answer, mut rest) = ask(&path, "{\"ask\":\"status\"}\n");
    assert_eq!(serde_json::from_str::<Status>(&answer).unwrap(), status());
    assert_eq!(rest.read_line(&mut String::new()).unwrap(), 0);
    for (question, told) in [
        ("{\"ask\":\"hand_over\"}\n", "the backup is cold"),
        ("{\"ask\":\"console\"}\n", "it is elsewhere"),
        ("{\"ask\":\"tea\"}\n", "not a question"),
        ("tea\n", "not a question"),
    ] {
        let (answer, _) = ask(&path, question);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let error = answer["error"].as_str().expect("an error");
        assert!(error.contains(told), "{error}");
    }
    let long = "x".repeat(2 * MAX_QUESTION);
    let (answer, _) = ask(&path, &long);
    assert!(answer.contains("not a question"), "{answer}");
}

#[test]
fn a_socket_is_the_owners_and_replaces_only_one_that_was_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let socket = ControlSocket::bind(&path).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = ControlSocket::bind(&path);
    assert!(
        matches!(again, Err(ControlError::InUse { .. })),
        "{again:?}"
    );
    drop(socket);
    assert!(path.exists(), "as a process leaves it that was killed");
    drop(ControlSocket::bind(&path).unwrap());
    fs::remove_file(&path).unwrap();
    fs::write(&path, "a file").unwrap();
    let error = ControlSocket::bind(&path).unwrap_err();
    assert!(matches!(error, ControlError::NoSocket { .. }), "{error}");
    let nowhere = folder.path().join("no/control");
    let error = ControlSocket::bind(&nowhere).unwrap_err();
    assert!(matches!(error, ControlError::Bind { .. }), "{error}");
}

fn read_until(reader: &mut impl Read, end: &str) -> String {
    let mut read = Vec::new();
    let mut byte = [0];
    while !read.ends_with(end.as_bytes()) {
        reader.read_exact(&mut byte).unwrap();
        read.push(byte[0]);
    }
    String::from_utf8(read).unwrap()
}

fn typed(lanes: &Lanes) -> Vec<u8> {
    let begun = Instant::now();
    loop {
        if let Some(typed) = lanes.typed.take(None) {
            return typed;
        }
        assert!(begun.elapsed() < LONG, "nothing is typed");
        std::thread::yield_now();
    }
}

#[test]
fn all_consoles_get_the_output_and_the_first_one_types() {
    let (_folder, path, sink, lanes) = scene(true);
    let console = "{\"ask\":\"console\"}\n";
    let (ok, mut first) = ask(&path, &format!("{console}with it"));
    assert_eq!(ok, "{\"ok\":true}\n");
    assert_eq!(typed(&lanes), b"with it");
    let (_, mut second) = ask(&path, console);
    read_until(&mut second, "is closed]\r\n");
    second.get_mut().write_all(b"unheard").unwrap();
    sink.write(b"login: ");
    for reader in [&mut first, &mut second] {
        assert_eq!(read_until(reader, "login: "), "login: ");
    }
    first.get_mut().write_all(b"root").unwrap();
    assert_eq!(typed(&lanes), b"root");
    drop(first);
    let begun = Instant::now();
    let heard = loop {
        second.get_mut().write_all(b"now").unwrap();
        if let Some(typed) = lanes.typed.take(None) {
            break typed;
        }
        assert!(begun.elapsed() < LONG, "it does not take over");
        std::thread::yield_now();
    };
    assert!(heard.ends_with(b"now"), "{heard:?}");
}

#[test]
fn consoles_keep_nobody_from_asking() {
    let (_folder, path, ..) = scene(true);
    let console = "{\"ask\":\"console\"}\n";
    let open: Vec<_> = (0..MOST).map(|_| ask(&path, console)).collect();
    assert!(open.iter().all(|(answer, _)| answer == "{\"ok\":true}\n"));
    let (answer, _) = ask(&path, console);
    assert!(answer.contains("too many consoles"), "{answer}");
    let (answer, _) = ask(&path, "{\"ask\":\"status\"}\n");
    assert_eq!(serde_json::from_str::<Status>(&answer).unwrap(), status());
}

#[test]
fn what_is_pasted_into_a_guest_that_does_not_read_is_lost_and_told() {
    let (_folder, path, _sink, lanes) = scene(true);
    let console = "{\"ask\":\"console\"}\n";
    let (_, mut first) = ask(&path, console);
    // More than the guest's lane and the socket have room for.
    first.get_mut().write_all(&[b'x'; 1 << 20]).unwrap();
    read_until(&mut first, "is lost until it does]\r\n");
    drop(first);
    // Its end is seen, and the keyboard is free.
    let (_, mut second) = ask(&path, console);
    let begun = Instant::now();
    loop {
        second.get_mut().write_all(b"now").unwrap();
        if lanes
            .typed
            .take(None)
            .is_some_and(|typed| typed.ends_with(b"now"))
        {
            break;
        }
        assert!(begun.elapsed() < LONG, "the first one keeps the keyboard");
    }
}

#[test]
fn a_console_that_reads_nothing_holds_nobody_up() {
    let (_folder, path, sink, _lanes) = scene(true);
    let (_, mut reader) = ask(&path, "{\"ask\":\"console\"}\n");
    sink.write(b"begins");
    read_until(&mut reader, "begins");
    // More than is kept for it.
    for _ in 0..64 {
        sink.write(&[b'x'; 64 << 10]);
    }
    sink.write(b"end");
    // It may still read what there is: that has room now for what is lost, and what comes.
    read_until(&mut reader, "bytes are lost here]\r\n");
}
