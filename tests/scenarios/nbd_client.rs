//! The disk server with a client that is not ours, in a host: the kernel's own NBD client. Without keys: that one has
//! TLS only with a daemon (tlshd) that Debian 12 has not. Others that have it are in `disk-server/tests/nbd/foreign.rs`.

use std::fs::File;
use std::path::Path;

use testbed::pair::{DiskServer, Export};
use testbed::{Host, HostKind, LIMIT, Result, Testbed, wait_until};

const SIZE: u64 = 64 << 20;
const NBD_CLIENT: &str = "/usr/sbin/nbd-client";

/// Reads the disk anew and gives the digest of its first eight MiB.
fn digest(host: &Host) -> Result<String> {
    let script = "echo 3 > /proc/sys/vm/drop_caches; head -c 8388608 /dev/nbd0 | sha256sum";
    host.check(&["sh", "-c", script])
}

/// Connects, and waits until the disk has its size.
fn connect(host: &Host, disk_server: &DiskServer) -> Result<()> {
    host.check(&[NBD_CLIENT, "-N", "data", disk_server.host(), "/dev/nbd0"])?;
    let size = (SIZE / 512).to_string();
    wait_until("the disk", LIMIT, || {
        Ok(host.check(&["cat", "/sys/block/nbd0/size"])?.trim() == size)
    })
}

/// What the kernel wrote and flushed is there after the server was killed; what it discarded takes
/// no space any more.
#[test]
fn the_kernels_client_works_with_the_disk_server() -> Result<()> {
    // No guest runs: namespaces, which share a kernel that may have no NBD, would save no time.
    // A host's files are half of its memory at most, and what each has takes nearly all of that.
    let testbed = Testbed::with_hosts("nbd-client", HostKind::Qemu)?
        .plain()
        .with_host_memory(1280);
    let image = testbed.logs().join("data.raw");
    File::create(&image)
        .and_then(|file| file.set_len(SIZE))
        .expect("an image");
    let export = Export {
        name: "data".to_owned(),
        image: image.clone(),
        guest: None,
    };
    let mut disk_server = DiskServer::start_with(&testbed, vec![export])?;
    let host = testbed.start_host("a")?;
    host.install(Path::new(NBD_CLIENT))?;

    connect(&host, &disk_server)?;
    let write = "head -c 8388608 /dev/urandom > /tmp/data && \
        dd if=/tmp/data of=/dev/nbd0 bs=64k conv=fsync && sha256sum < /tmp/data";
    let written = host.check(&["sh", "-c", write])?;
    assert_eq!(digest(&host)?, written);

    disk_server.kill();
    // It says that the server cannot be told, and disconnects all the same.
    host.run(&[NBD_CLIENT, "-d", "/dev/nbd0"])?;
    disk_server.restart(&testbed)?;
    connect(&host, &disk_server)?;
    assert_eq!(digest(&host)?, written, "what was flushed is there");

    let blocks = || {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(&image).expect("the image").blocks()
    };
    assert!(blocks() >= (8 << 20) / 512);
    host.check(&["blkdiscard", "-o", "0", "-l", "8388608", "/dev/nbd0"])?;
    assert_eq!(blocks(), 0, "nothing is written any more");

    testbed.succeed();
    Ok(())
}
