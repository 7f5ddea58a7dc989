//! A block device as an export: a loop device, which the kernel makes of a file.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::process::Command as Program;

use disk_server::nbd::protocol::{Command, CommandFlags, ErrorCode, ExtentFlags};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::client::Client;
use crate::support::{Process, command, is_root};

const SIZE: u64 = 16 << 20;
const MIB: u64 = 1 << 20;

/// A loop device, which goes away when dropped.
struct Loop {
    device: PathBuf,
    backing: PathBuf,
    directory: TempDir,
}

impl Loop {
    fn new() -> Loop {
        let directory = tempfile::tempdir().unwrap();
        let backing = directory.path().join("backing.img");
        File::create(&backing).unwrap().set_len(SIZE).unwrap();
        let output = Program::new("losetup")
            .args(["--find", "--show"])
            .arg(&backing)
            .output()
            .expect("losetup is needed, of the package mount");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "no block device to be had; has the kernel the module loop? {errors}"
        );
        let device = String::from_utf8(output.stdout).unwrap();
        Loop {
            device: device.trim().into(),
            backing,
            directory,
        }
    }

    fn server_command(&self, state: &str) -> Program {
        let mut program = command("127.0.0.1:0", &self.directory.path().join(state));
        program
            .args(["--nbd-listen", "127.0.0.1:0"])
            .args(["--export", &format!("disk={}", self.device.display())]);
        program
    }

    fn start_server(&self) -> Process {
        Process::start_with(&mut self.server_command("state"))
    }

    /// Bytes of the backing file that take room.
    fn allocated(&self) -> u64 {
        fs::metadata(&self.backing).unwrap().blocks() * 512
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Fails only if it is gone already.
        let _ = Program::new("losetup")
            .arg("--detach")
            .arg(&self.device)
            .status();
    }
}

fn open(server: &Process) -> Client {
    Client::open(server.nbd.unwrap(), "disk")
}

#[test]
fn a_block_device_is_read_and_written_and_keeps_what_was_flushed() {
    if !is_root("a_block_device_is_read_and_written") {
        return;
    }
    let device = Loop::new();
    let mut server = device.start_server();
    let mut client = open(&server);
    // A device has no length in its metadata.
    assert_eq!(client.info.size, SIZE);
    // Also what is no whole sector, and the last bytes.
    client.write(1000, &[7; 5000]).unwrap();
    client.write(SIZE - 100, &[8; 100]).unwrap();
    assert_eq!(client.read(1000, 5000).unwrap(), [7; 5000]);
    assert_eq!(client.read(999, 2).unwrap(), [0, 7]);
    let beyond = client.write(SIZE - 100, &[9; 101]);
    assert_eq!(beyond, Err(ErrorCode::NoSpace));
    assert_eq!(client.read(SIZE, 1), Err(ErrorCode::Invalid));
    client.flush().unwrap();
    // Behind the device's own cache.
    let backing = File::open(&device.backing).unwrap();
    let mut found = [0; 100];
    backing.read_exact_at(&mut found, SIZE - 100).unwrap();
    assert_eq!(found, [8; 100]);
    server.kill();
    let server = device.start_server();
    let mut client = open(&server);
    assert_eq!(client.read(1000, 5000).unwrap(), [7; 5000]);
    assert_eq!(client.read(SIZE - 100, 100).unwrap(), [8; 100]);
    assert!(server.end_with(Signal::SIGTERM));
}

#[test]
fn a_block_device_zeroes_and_discards() {
    if !is_root("a_block_device_zeroes_and_discards") {
        return;
    }
    let device = Loop::new();
    let server = device.start_server();
    let mut client = open(&server);
    let fill = |client: &mut Client| {
        for at in (0..SIZE).step_by(MIB as usize) {
            client.write(at, &[0xAA; MIB as usize]).unwrap();
        }
        client.flush().unwrap();
    };
    fill(&mut client);
    let full = device.allocated();
    assert!(full >= SIZE, "{full}");

    let no_hole = (Command::WriteZeroes, CommandFlags::NO_HOLE);
    let mib = u32::try_from(MIB).unwrap();
    client.call(no_hole, 0, mib, &[]).unwrap().unwrap();
    client.flush().unwrap();
    assert_eq!(client.read(0, mib).unwrap(), [0; MIB as usize]);
    assert!(device.allocated() >= SIZE, "NO_HOLE keeps the room");

    client.plain(Command::WriteZeroes, 2 * MIB, mib).unwrap();
    assert_eq!(client.read(2 * MIB, mib).unwrap(), [0; MIB as usize]);
    // Not of whole sectors: the device cannot, and the server writes them.
    client
        .plain(Command::WriteZeroes, 4 * MIB + 1, 3000)
        .unwrap();
    let around = client.read(4 * MIB, 3002).unwrap();
    assert_eq!((around[0], around[3001]), (0xAA, 0xAA));
    assert_eq!(around[1..3001], [0; 3000]);

    // What is read there afterwards is not defined, but what is around it is.
    client.plain(Command::Trim, 8 * MIB, 4 * mib).unwrap();
    client.plain(Command::Trim, 13 * MIB + 1, 100).unwrap();
    client.flush().unwrap();
    assert!(
        device.allocated() <= full - 4 * MIB,
        "nothing was given back"
    );
    for at in [8 * MIB - 1, 12 * MIB, 13 * MIB] {
        assert_eq!(client.read(at, 1).unwrap(), [0xAA], "{at}");
    }

    // The kernel does not tell what of a device is allocated: data is never wrong.
    let status = client.plain(Command::BlockStatus, 0, mib).unwrap();
    assert!(
        status
            .extents
            .iter()
            .all(|e| e.flags == ExtentFlags::empty())
    );
    client.flush().unwrap();
}

#[test]
fn a_block_device_that_is_in_use_is_refused() {
    if !is_root("a_block_device_that_is_in_use_is_refused") {
        return;
    }
    let device = Loop::new();
    let server = device.start_server();
    let refused = |what: &str| {
        let output = device.server_command("other").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{what}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("mounted, or in use"), "{what}: {message}");
        assert!(
            message.contains(device.device.to_str().unwrap()),
            "{message}"
        );
    };
    refused("by another server");
    assert!(server.end_with(Signal::SIGTERM));
    // As a mount claims it (open(2), O_EXCL without O_CREAT).
    use std::os::unix::fs::OpenOptionsExt as _;
    let claimed = File::options()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_EXCL.bits())
        .open(&device.device)
        .unwrap();
    refused("by a mount");
    drop(claimed);
    assert!(device.start_server().end_with(Signal::SIGTERM));
}
