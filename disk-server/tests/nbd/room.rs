//! Images for which there is no room.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command as Program;

use disk_server::nbd::protocol::{Command, CommandFlags, ErrorCode};
use nix::sys::signal::Signal;

use crate::client::Client;
use crate::support::{Process, SmallDisk, command, has_own_mounts};

const MIB: usize = 1 << 20;
const SIZE: u64 = 8 << 20;

/// A server of a sparse image, that logs errors.
fn server(image: &Path, state: &Path, log: &Path) -> Program {
    File::create(image).unwrap().set_len(SIZE).unwrap();
    let mut program = command("127.0.0.1:0", state);
    program
        .args(["--nbd-listen", "127.0.0.1:0", "--export"])
        .arg(format!("disk={}", image.display()))
        .stderr(File::create(log).unwrap());
    program
}

/// Writes where there may be no room for it, and tells how much there was room for.
fn fill(client: &mut Client) -> usize {
    let pieces = (0..SIZE).step_by(MIB);
    let full = pieces.map(|at| client.write(at, &[7; MIB]));
    let results: Vec<_> = full.collect();
    let room = results.iter().take_while(|result| result.is_ok()).count();
    assert!((1..results.len()).contains(&room), "{results:?}");
    let without = &results[room..];
    let told = without.iter().all(|r| *r == Err(ErrorCode::NoSpace));
    assert!(told, "{results:?}");
    room * MIB
}

#[test]
fn a_full_file_system_is_told_as_one_and_does_no_other_harm() {
    if !has_own_mounts("room::a_full_file_system_is_told_as_one_and_does_no_other_harm") {
        return;
    }
    let disk = SmallDisk::new("5m");
    let others = tempfile::tempdir().unwrap();
    let (state, log) = (others.path().join("state"), others.path().join("log"));
    let mut program = server(&disk.path().join("disk.img"), &state, &log);
    let server = Process::start_with(&mut program);
    let mut client = Client::open(server.nbd.unwrap(), "disk");
    let room = fill(&mut client);
    for (command, flags) in [
        (Command::WriteZeroes, CommandFlags::NO_HOLE),
        (Command::Write, CommandFlags::FUA),
    ] {
        let data = vec![
            7;
            if command == Command::Write {
                2 * MIB
            } else {
                0
            }
        ];
        let end = SIZE - 2 * MIB as u64;
        let result = client.call((command, flags), end, 2 << 20, &data).unwrap();
        assert_eq!(result.unwrap_err(), ErrorCode::NoSpace, "{command:?}");
    }
    // What is there is there, and can be written anew.
    assert!(client.read(0, room as u32).unwrap() == vec![7; room]);
    client.write(0, &[8; MIB]).unwrap();
    client.flush().unwrap();
    client.plain(Command::Trim, 0, 2 << 20).unwrap();
    client.write(SIZE - MIB as u64, &[9; MIB]).unwrap();
    assert!(server.end_with(Signal::SIGTERM));
    let log = fs::read_to_string(log).unwrap();
    let told = "export disk: Write of 1048576 bytes at ";
    let told = log.lines().find(|line| line.contains(told));
    assert!(
        told.is_some_and(|line| line.contains("No space left")),
        "{log}"
    );
}

#[test]
fn an_image_beyond_the_limit_of_file_sizes_stops_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let unlimited = server(&path("disk.img"), &path("state"), &path("log"));
    let mut program = Program::new("sh");
    program
        // In blocks of 512 bytes, or of 1024: a part of the image.
        .args(["-c", "ulimit -f 6144 && exec \"$0\" \"$@\""])
        .arg(unlimited.get_program())
        .args(unlimited.get_args())
        .env("RUST_LOG", "error");
    let server = Process::start_with(&mut program);
    let mut client = Client::open(server.nbd.unwrap(), "disk");
    let room = fill(&mut client);
    assert!(client.read(0, room as u32).unwrap() == vec![7; room]);
    client.flush().unwrap();
    assert!(server.end_with(Signal::SIGTERM));
}
