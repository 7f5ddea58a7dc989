use tempfile::TempDir;

use super::*;
use crate::codec::Batch;
use crate::entry::{Entry, ExecutionPoint, Payload};

/// Batches that wait, and what the primary is told of them.
#[derive(Default)]
struct Waiting {
    queue: Queue,
    told: Mutex<Vec<(Lsn, bool)>>,
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
        panic!("{reason}");
    }
}

/// A disk that is slow for a while, as while the state comes anew, leaves many batches waiting. The primary would
/// take the backup for one that makes no step.
#[test]
fn what_is_kept_of_much_is_said_by_and_by() {
    for durable in [false, true] {
        let directory = TempDir::new().expect("a directory");
        let keep = Keep {
            directory: directory.path().to_owned(),
            durable,
            most_replay: Duration::from_secs(600),
            most_log: 1 << 30,
            read_block: |_, _| Ok(()),
        };
        let (keeping, link) = (Keeping::open(&keep).expect("empty"), Waiting::default());
        const BATCHES: u64 = 40;
        for n in 1..=BATCHES {
            let entries = vec![Entry {
                point: ExecutionPoint::at_exit(n),
                check: None,
                payload: Payload::Progress,
            }];
            let first = Lsn(n);
            let record = vec![0; AT_ONCE / 10];
            link.queue
                .put(Queued::new(Batch { first, entries }, 0, record));
        }
        link.queue.end();
        keeping.keep_loop(&link);
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
