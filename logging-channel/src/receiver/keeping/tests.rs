use tempfile::TempDir;

use super::*;
use crate::codec::Batch;
use crate::entry::{Entry, ExecutionPoint, Payload, StatePart};
use crate::memory::TakeBlocks as _;
use crate::receiver::memory::MemoryKeeper;

/// Batches that wait, and what the primary is told of them.
#[derive(Default)]
struct Waiting {
    queue: Queue,
    told: Mutex<Vec<(Lsn, bool)>>,
    lost: Mutex<Option<LossReason>>,
}

impl Link for Waiting {
    fn queue(&self) -> &Queue {
        &self.queue
    }

    fn consumed(&self, bytes: usize) {
        self.queue.consumed(bytes, usize::MAX);
    }

    fn note_executed(&self, lsn: Lsn, nothing_left: bool) {
        self.told.lock().push((lsn, nothing_left));
    }

    fn lose(&self, reason: LossReason) {
        self.lost.lock().get_or_insert(reason);
    }
}

fn keep(directory: &TempDir, durable: bool) -> Keep {
    Keep {
        directory: directory.path().to_owned(),
        durable,
        most_replay: Duration::from_secs(600),
        most_log: 1 << 30,
        read_block: |_, _| Ok(()),
    }
}

fn entry(n: u64, payload: Payload) -> Entry {
    Entry {
        point: ExecutionPoint::at_exit(n),
        check: None,
        payload,
    }
}

/// Otherwise it would say that it has the state, and protect a guest that it has not.
#[test]
fn a_backup_whose_memory_does_not_come_ends_its_session() {
    let directory = TempDir::new().expect("a directory");
    let keep = keep(&directory, false);
    let (keeping, link) = (Keeping::open(&keep).expect("empty"), Waiting::default());
    let parts = [
        StatePart::Begin(2),
        StatePart::Memory(1),
        StatePart::Commit(Vec::new()),
    ];
    for (n, part) in (1..).zip(parts) {
        let entries = vec![entry(n, Payload::State(part))];
        let batch = Batch {
            first: Lsn(n),
            entries,
        };
        link.queue.put(Queued::new(batch, 0, vec![0; 100]));
    }
    link.queue.end();
    let keeper = MemoryKeeper {
        memory: Arc::clone(&keeping.memory),
        fail: Box::new(ToString::to_string),
    };
    keeper.ended("the connection was cut".into());
    keeping.keep_loop(&link);
    let lost = link.lost.into_inner();
    assert!(matches!(lost, Some(LossReason::Memory(_))), "{lost:?}");
    let told = link.told.into_inner();
    assert!(told.iter().all(|(lsn, _)| *lsn < Lsn(3)), "{told:?}");
}

/// A disk that is slow for a while, as while the state comes anew, leaves many batches waiting. The primary would
/// take the backup for one that makes no step.
#[test]
fn what_is_kept_of_much_is_said_by_and_by() {
    for durable in [false, true] {
        let directory = TempDir::new().expect("a directory");
        let keep = keep(&directory, durable);
        let (keeping, link) = (Keeping::open(&keep).expect("empty"), Waiting::default());
        const BATCHES: u64 = 40;
        for n in 1..=BATCHES {
            let entries = vec![entry(n, Payload::Progress)];
            let first = Lsn(n);
            // The last turn ends with the last batch.
            let record = vec![0; AT_ONCE.div_ceil(10)];
            link.queue
                .put(Queued::new(Batch { first, entries }, 0, record));
        }
        link.queue.end();
        keeping.keep_loop(&link);
        assert_eq!(link.lost.into_inner(), None);
        let told = link.told.into_inner();
        assert!(told.len() >= 4 && told.is_sorted(), "{told:?}");
        let (last, before) = told.split_last().expect("some");
        assert_eq!(*last, (Lsn(BATCHES), true));
        assert!(
            before.iter().all(|(_, nothing_left)| !nothing_left),
            "{told:?}"
        );
        assert_eq!(keeping.acknowledgeable(Lsn(BATCHES)), Lsn(BATCHES));
    }
}
