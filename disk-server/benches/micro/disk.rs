//! Disks over NBD.

use std::fs;
use std::time::Instant;

use criterion::{Criterion, Throughput};

use crate::load::{Kind, Load};
use crate::servers::Program;

/// Of the disk, which is in the system's page cache: what is measured is not the disk below.
const SIZE: u64 = 64 << 20;

const LOADS: [(&str, Load); 6] = [
    ("disk, read 4 KiB", load(Kind::Read, 4 << 10, 1)),
    (
        "disk, read 4 KiB, 16 at a time",
        load(Kind::Read, 4 << 10, 16),
    ),
    (
        "disk, write 4 KiB, 16 at a time",
        load(Kind::Write, 4 << 10, 16),
    ),
    (
        "disk, read 1 MiB, 4 at a time",
        load(Kind::Read, 1 << 20, 4),
    ),
    (
        "disk, write 1 MiB, 4 at a time",
        load(Kind::Write, 1 << 20, 4),
    ),
    (
        "disk, write 4 KiB and flush",
        load(Kind::WriteDurably, 4 << 10, 1),
    ),
];

const fn load(kind: Kind, len: u32, depth: u64) -> Load {
    Load { kind, len, depth }
}

/// An iteration is a request.
pub(crate) fn disk(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("room for a directory");
    let image = directory.path().join("disk.img");
    fs::write(&image, vec![0x5a; SIZE as usize]).expect("room for an image");
    for (name, load) in LOADS {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(load.len.into()));
        for program in Program::ALL {
            let server = program.serve(&image, &directory.path().join("state"));
            let mut connection = server.connect();
            group.bench_function(program.name(), |bencher| {
                bencher.iter_custom(|requests| {
                    let since = Instant::now();
                    load.run(&mut connection, SIZE, requests);
                    since.elapsed()
                });
            });
        }
        group.finish();
    }
}
