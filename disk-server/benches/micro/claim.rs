//! A claim of the next epoch.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicBool;

use criterion::Criterion;
use disk_server::arbiter::{Arbiter, Claim, Claimant, Next, Settings, VmName};
use transport::Endpoint;

use crate::servers::arbiter;

/// About what the state of a small installation has.
const STATE: usize = 512;

/// An iteration is a claim, or as many bytes that are written again and brought to stable storage.
pub(crate) fn claim(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("room for a directory");
    let mut group = criterion.benchmark_group("claim");
    let file = File::create(directory.path().join("bare")).expect("room for a file");
    group.bench_function("fdatasync", |bencher| {
        bencher.iter(|| {
            file.write_all_at(&[0; STATE], 0).expect("room for it");
            file.sync_data().expect("a disk");
        });
    });
    let server = arbiter(&directory.path().join("state"));
    let arbiter = Arbiter::new(
        server.address.into(),
        Endpoint::plain(),
        Settings::default(),
    );
    let vm: VmName = "db".parse().expect("a valid name");
    let claimant: Claimant = "hosta/1f0c".parse().expect("a valid name");
    let never = AtomicBool::new(false);
    let mut epoch = 0;
    group.bench_function("ftvm", |bencher| {
        bencher.iter(|| {
            let next = if epoch == 0 { Next::Start } else { Next::Alone };
            // Also waits until the server has started.
            let won = arbiter.claim(&vm, epoch, (&claimant, next), &never, |_| ());
            epoch += 1;
            assert_eq!(won.expect("it is ours"), Claim::Won { epoch });
        });
    });
    group.finish();
}
