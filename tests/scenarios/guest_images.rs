//! The guest images, on an emulated machine without ftvm: what they do there,
//! they are to do under ftvm.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use guest_images::disk::{self, DiskLine};
use guest_images::{DebianKernel, GuestImages, PackageStore};
use testbed::{LIMIT, Layout, LocalProcess, Result, Testbed, wait_until};

/// A guest on QEMU's own processor, in the clients' namespace.
struct Guest {
    qemu: LocalProcess,
    console: PathBuf,
}

impl Guest {
    fn boot(testbed: &Testbed, image: &str, words: &str) -> Result<Self> {
        Self::boot_with(testbed, image, words, &[])
    }

    fn boot_with_disk(testbed: &Testbed, image: &str, words: &str, disk: &Path) -> Result<Self> {
        let drive = format!(
            "if=virtio,format=raw,discard=unmap,file={}",
            disk.to_string_lossy()
        );
        Self::boot_with(testbed, image, words, &["-drive", &drive])
    }

    fn boot_with(testbed: &Testbed, image: &str, words: &str, more: &[&str]) -> Result<Self> {
        let layout = Layout::find();
        let kernel = kernel(&layout);
        let console = testbed.logs().join("guest.log");
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut command = testbed.client().command("qemu-system-x86_64")?;
        command
            .args([
                "-machine", "q35", "-accel", "tcg", "-cpu", "qemu64", "-m", "256",
            ])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-serial", "stdio"])
            .args([
                "-kernel",
                &path(&kernel),
                "-initrd",
                &path(&layout.images().join(image)),
            ])
            .args([
                "-append",
                &format!("console=ttyS0 quiet mitigations=off no_timer_check panic=-1 {words}"),
            ])
            .args(more)
            .args(["-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:6379-:6379"])
            .args(["-device", "virtio-net-pci,netdev=net,romfile="])
            .stdin(Stdio::null())
            .stdout(fs::File::create(&console).expect("the console's log"));
        Ok(Self {
            qemu: LocalProcess::start(command)?,
            console,
        })
    }

    fn wait_for(&self, text: &str) -> Result<String> {
        let mut seen = String::new();
        wait_until(&format!("`{text}` on the guest's console"), LIMIT, || {
            seen = String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into();
            Ok(seen.contains(text))
        })?;
        Ok(seen)
    }

    fn wait_for_end(&mut self) -> Result<()> {
        wait_until("the guest's end", LIMIT, || {
            Ok(self
                .qemu
                .child()
                .try_wait()
                .expect("a child of ours")
                .is_some())
        })
    }
}

/// The compressed kernel, as QEMU boots it.
fn kernel(layout: &Layout) -> PathBuf {
    let kernel = DebianKernel::unpack(&PackageStore::new(layout.packages()));
    let path = kernel.and_then(|kernel| kernel.bzimage());
    path.expect("cargo xtask setup has unpacked it")
}

#[test]
fn the_tiny_guest_works_and_reboots() -> Result<()> {
    let testbed = Testbed::new("tiny-guest")?;
    let mut guest = Guest::boot(&testbed, GuestImages::TINY, "ftvm.do=reboot ftvm.work=3")?;
    // The work is the same everywhere, and so is its digest.
    let console = guest.wait_for("ftvm-guest: work done")?;
    assert!(console.contains("ftvm-guest: up"), "{console}");
    guest.wait_for("e0735f7f90b342f4")?;
    guest.wait_for_end()?;
    testbed.succeed();
    Ok(())
}

#[test]
fn the_redis_guest_answers() -> Result<()> {
    let testbed = Testbed::new("redis-guest")?;
    let guest = Guest::boot(
        &testbed,
        GuestImages::REDIS,
        "ftvm.ip=10.0.2.15/24 ftvm.gw=10.0.2.2",
    )?;
    guest.wait_for("ftvm-guest: redis ready")?;
    let mut redis = testbed
        .client()
        .connect(Ipv4Addr::LOCALHOST, 6379, LIMIT)
        .expect("a connection to the guest");
    redis
        .write_all(b"INCR n\r\nINCR n\r\nQUIT\r\n")
        .expect("commands");
    let mut answers = String::new();
    redis.read_to_string(&mut answers).expect("answers");
    assert_eq!(answers, ":1\r\n:2\r\n+OK\r\n");
    testbed.succeed();
    Ok(())
}

#[test]
fn the_tiny_guest_writes_to_a_disk_what_is_looked_for() -> Result<()> {
    let testbed = Testbed::new("tiny-guest-disk")?;
    let path = testbed.logs().join("disk.raw");
    let image = fs::File::create_new(&path).expect("an image");
    image.set_len(disk::MIN_BYTES).expect("its size");
    let words = "ftvm.do=disk ftvm.laps=3";
    let mut guest = Guest::boot_with_disk(&testbed, GuestImages::TINY, words, &path)?;
    let console = guest.wait_for("ftvm-guest: disk done")?;
    guest.wait_for_end()?;
    let laps: Vec<_> = console.lines().filter_map(DiskLine::parse).collect();
    assert_eq!(laps.len() as u64, 3 * disk::WORKERS, "{console}");
    let image = fs::File::open(&path).expect("the image");
    for worker in 0..disk::WORKERS {
        assert_eq!(disk::check(&image, worker, 3).expect("all there"), 3);
    }
    testbed.succeed();
    Ok(())
}
