//! `ftvm` when nobody takes what it says.

use std::fs::{self, File};
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};

const LIMIT: Duration = Duration::from_secs(60);

/// A pipe that takes nothing more, and the end that nobody reads.
fn full_pipe() -> (io::PipeReader, io::PipeWriter) {
    const PAGE: usize = 4096;
    let (reader, mut writer) = io::pipe().expect("a pipe");
    let room = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PAGE as i32));
    assert_eq!(room, Ok(PAGE as i32));
    writer.write_all(&[0; PAGE]).expect("there is room");
    (reader, writer)
}

#[test]
fn ftvm_ends_although_nobody_reads_its_log_or_its_events() {
    let (_unread, full) = full_pipe();
    let mut ftvm = Command::new(env!("CARGO_BIN_EXE_ftvm"))
        .args(["primary", "--kernel", "/does/not/exist", "--events", "-"])
        .args(["--listen", "127.0.0.1:0", "--disk-server", "127.0.0.1:1"])
        .stdin(Stdio::null())
        .stdout(full.try_clone().expect("a descriptor"))
        .stderr(full)
        .spawn()
        .expect("ftvm starts");
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = ftvm.try_wait().expect("a child") {
            break Some(status);
        }
        if begun.elapsed() > LIMIT {
            break None;
        }
        thread::sleep(Duration::from_millis(20));
    };
    if status.is_none() {
        ftvm.kill().expect("a child");
        ftvm.wait().expect("a child");
    }
    let code = status.map(|status| status.code());
    assert_eq!(code, Some(Some(1)), "the missing kernel is the reason");
}

#[test]
fn a_log_that_reaches_the_limit_of_file_sizes_ends_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, kernel) = (folder.path().join("log"), folder.path().join("no-kernel"));
    let status = Command::new("sh")
        .args(["-c", "ulimit -f 0 && exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_ftvm"))
        .args(["primary", "--listen", "127.0.0.1:0"])
        .args(["--disk-server", "127.0.0.1:1", "--kernel"])
        .arg(kernel)
        .stdin(Stdio::null())
        .stderr(File::create(&log).expect("a file"))
        .status()
        .expect("a shell");
    assert_eq!(
        status.code(),
        Some(1),
        "the missing kernel is the reason: {status}"
    );
    assert_eq!(fs::read(log).expect("a file"), b"", "there was no room");
}
