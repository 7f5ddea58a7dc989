//! A guest's side of the disk, and a log whose progress a test decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use ftvm_vmm::disk::followed::DiskNotice;
use ftvm_vmm::disk::link::LinkSettings;
use ftvm_vmm::disk::progress::{LogProgress, Reached};
use ftvm_vmm::disk::service::DiskService;
use ftvm_vmm::disk::serving::{DiskSettings, Serving};
use ftvm_vmm::disk::target::DiskTarget;
use ftvm_vmm::disk::{DiskCompletion, DiskError, DiskOp, DiskPort, DiskRequest};
use ftvm_vmm::events::Events;
use logging_channel::DiskIdentity;
use logging_channel::entry::Lsn;
use parking_lot::{Condvar, Mutex};
use transport::Endpoint;

use crate::fake_server::FakeServer;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Settings with which a test does not wait long.
pub(crate) fn quick() -> DiskSettings {
    DiskSettings {
        link: LinkSettings {
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(5),
            ..LinkSettings::default()
        },
        ..DiskSettings::default()
    }
}

/// A log.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<(Mutex<Reached>, Condvar)>);

impl Log {
    pub(crate) fn new() -> Self {
        let reached = Reached::Alone { epoch: None };
        let log = Self(Arc::new((Mutex::new(reached), Condvar::new())));
        log.up_to(0, 0);
        log
    }

    pub(crate) fn set(&self, reached: Reached) {
        *self.0.0.lock() = reached;
        self.0.1.notify_all();
    }

    pub(crate) fn up_to(&self, committed: u64, executed: u64) {
        self.in_session(0, committed, Some(executed));
    }

    /// In the session that began after so many entries. A backup that only keeps the log has not
    /// `executed` any.
    pub(crate) fn in_session(&self, session: u64, committed: u64, executed: Option<u64>) {
        self.set(Reached::UpTo {
            session: Lsn(session),
            committed: Lsn(committed),
            executed: executed.map(Lsn),
            epoch: None,
        });
    }
}

impl LogProgress for Log {
    fn now(&self) -> Reached {
        *self.0.0.lock()
    }

    fn wait(&self, timeout: Duration, arrived: &mut dyn FnMut(Lsn, Lsn) -> bool) {
        let mut guard = self.0.0.lock();
        let waiting = |reached: &mut Reached| match *reached {
            Reached::UpTo {
                committed,
                executed,
                ..
            } => !arrived(committed, executed.unwrap_or_default()),
            _ => false,
        };
        self.0.1.wait_while_for(&mut guard, waiting, timeout);
    }
}

/// A guest that remembers what its disk must look like.
pub(crate) struct Guest {
    pub(crate) service: DiskService,
    completions: Receiver<DiskCompletion>,
    /// What the disk holds when everything submitted is done, in order.
    pub(crate) model: Vec<u8>,
    /// Requests without a completion: what a read must find.
    pub(crate) open: BTreeMap<u64, Option<Vec<u8>>>,
    /// Reads that are held for a backup.
    pub(crate) held: Vec<u64>,
    next: u64,
}

impl Guest {
    pub(crate) fn new(server: &FakeServer, settings: DiskSettings, log: Option<&Log>) -> Self {
        let serving = Serving {
            log: log.map(|log| Arc::new(log.clone()) as Arc<dyn LogProgress>),
            ..Serving::default()
        };
        Self::served(server, settings, log.is_some(), serving)
    }

    /// A guest whose backup reads the disk itself.
    pub(crate) fn shared(server: &FakeServer, log: &Log) -> Self {
        let serving = Serving {
            log: Some(Arc::new(log.clone())),
            backup_reads: true,
            ..Serving::default()
        };
        Self::served(server, quick(), true, serving)
    }

    /// A guest of one of a pair (`replicated`), whose disk is served as `serving` says.
    pub(crate) fn served(
        server: &FakeServer,
        settings: DiskSettings,
        replicated: bool,
        serving: Serving,
    ) -> Self {
        Self::telling(server, settings, replicated, serving, &Events::default())
    }

    /// The same, with events.
    pub(crate) fn telling(
        server: &FakeServer,
        settings: DiskSettings,
        replicated: bool,
        serving: Serving,
        events: &Events,
    ) -> Self {
        let target = DiskTarget {
            server: server.address.clone(),
            export: "disk".into(),
            writer: None,
            client: None,
        };
        let target = match replicated {
            false => target,
            true => target.in_epoch("vm", serving.epoch.unwrap_or(1)),
        };
        let size = server.state().cached.len();
        let (complete, completions) = crossbeam_channel::unbounded();
        let service = DiskService::start(
            target,
            DiskIdentity {
                bytes: size as u64,
                name: "0000000000000001/disk".into(),
            },
            Endpoint::plain(),
            settings,
            serving,
            events.clone(),
            move |completion| complete.send(completion).unwrap_or(()),
        );
        Self {
            service,
            completions,
            model: vec![0; size],
            open: BTreeMap::new(),
            held: Vec::new(),
            next: 0,
        }
    }

    pub(crate) fn submit(&mut self, op: DiskOp, commit: Option<u64>) -> u64 {
        self.next += 1;
        let id = self.next;
        let span = |offset: u64, len: u64| offset as usize..(offset + len) as usize;
        let expected = match &op {
            DiskOp::Read { offset, len } => Some(self.model[span(*offset, (*len).into())].to_vec()),
            DiskOp::Write { offset, data } => {
                self.model[span(*offset, data.len() as u64)].copy_from_slice(data);
                None
            }
            DiskOp::Discard { offset, len } | DiskOp::WriteZeroes { offset, len, .. } => {
                self.model[span(*offset, *len)].fill(0);
                None
            }
            DiskOp::Flush => None,
        };
        self.open.insert(id, expected);
        let request = DiskRequest { id, op };
        self.service.submit(request, commit.map(Lsn));
        id
    }

    /// Waits for one completion; checks that it was open, and a read's data.
    pub(crate) fn complete(&mut self) -> (u64, Result<(), DiskError>) {
        loop {
            let completion = self.completions.recv_timeout(PATIENCE);
            let completion = completion.expect("a request is not completed");
            if is_of_request(&completion) {
                return self.check(completion);
            }
        }
    }

    pub(crate) fn try_complete(&mut self) -> Option<(u64, Result<(), DiskError>)> {
        let completion = self.completions.try_iter().find(is_of_request)?;
        Some(self.check(completion))
    }

    fn check(&mut self, completion: DiskCompletion) -> (u64, Result<(), DiskError>) {
        let DiskCompletion { id, result, held } = completion;
        self.held.extend(held.then_some(id));
        let expected = self.open.remove(&id).expect("completed once");
        let result = result.map(|data| {
            assert!(
                data == expected.unwrap_or_default(),
                "request {id} found something else"
            );
        });
        (id, result)
    }

    /// Completes everything, without an error.
    pub(crate) fn complete_all(&mut self) {
        while !self.open.is_empty() {
            let (id, result) = self.complete();
            assert_eq!(result, Ok(()), "request {id}");
        }
    }

    /// A request that completes before this returns.
    pub(crate) fn now(&mut self, op: DiskOp) {
        self.submit(op, None);
        self.complete_all();
    }
}

/// Whether it is not what the service tells the backup beside.
pub(crate) fn is_of_request(completion: &DiskCompletion) -> bool {
    DiskNotice::of(completion.id, completion.result.is_ok()).is_none()
}

/// Waits until something is so.
pub(crate) fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}
