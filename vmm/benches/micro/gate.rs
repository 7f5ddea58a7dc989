//! The gate of a primary, beside what the system takes for the frame that it lets out.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use criterion::{BatchSize, Criterion};
use ftvm_vmm::devices::Output;
use ftvm_vmm::engine::OutputGate as _;
use ftvm_vmm::gates::Committed;
use ftvm_vmm::gates::committed::{CommitWatch, Outlook};
use ftvm_vmm::io::{ConsoleSink, Outlet};
use ftvm_vmm::sources::Waits;
use logging_channel::entry::Lsn;
use logging_channel::sender::{Permit, Release};
use parking_lot::Mutex;

/// Of a frame as most are when they are large.
const FRAME: usize = 1448;

/// An iteration is a frame: submitted, held, and let out by its acknowledgement, to a network that is none.
pub(crate) fn gate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gate");
    let frame = vec![0xa5; FRAME];
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = receiver.local_addr().expect("bound");
    sender.connect(address).expect("connected");
    // Nobody reads: the system drops what does not fit.
    group.bench_function("UDP", |bencher| {
        bencher.iter(|| sender.send(&frame).expect("sent"));
    });
    let log = Log::default();
    let console = ConsoleSink::open(false, None).expect("it writes nowhere");
    let outlet = Outlet::new(None, console);
    let mut gate = Committed::new(outlet, None, log.clone(), Waits::default());
    let mut lsn = 0;
    group.bench_function("ftvm", |bencher| {
        let output = || Output::Frame(frame.clone().into());
        let through = |output| {
            lsn += 1;
            gate.submit(output, Some(Lsn(lsn)));
            log.commit(lsn);
        };
        bencher.iter_batched(output, through, BatchSize::SmallInput);
    });
    group.finish();
}

/// A log whose commits the benchmark makes. A handle.
#[derive(Clone, Default)]
struct Log(Arc<State>);

#[derive(Default)]
struct State {
    committed: AtomicU64,
    release: Mutex<Option<Release>>,
}

impl Log {
    fn commit(&self, lsn: u64) {
        self.0.committed.store(lsn, Ordering::Release);
        let release = self.0.release.lock();
        let left = release.as_ref().expect("a gate was made")(self.permit());
        assert_eq!(left, Some(Lsn(lsn)));
    }
}

impl CommitWatch for Log {
    fn on_commit(&mut self, release: Release) {
        *self.0.release.lock() = Some(release);
    }

    fn permit(&self) -> Permit {
        Permit {
            up_to: Lsn(self.0.committed.load(Ordering::Acquire)),
            until: None,
        }
    }

    fn latest(&self) -> Lsn {
        Lsn::default()
    }

    fn released(&self, _: Lsn) {}

    /// It is always the same.
    fn outlook(&self, _: Outlook, _: Duration) -> Outlook {
        loop {
            thread::park();
        }
    }
}
