//! The Output Rule (Scales et al. 2010, section 2.2): an output leaves the primary only after the
//! backup has acknowledged the log entry of that output. Only the output waits; the guest goes on.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use logging_channel::entry::Lsn;

use crate::devices::Output;
use crate::disk::DiskPort;
use crate::engine::OutputGate;
use crate::io::Outlet;
use crate::sources::Waits;

/// How far the log is committed.
pub trait CommitWatch: Send + 'static {
    /// Waits until `lsn` is committed, for at most `timeout`.
    fn wait(&mut self, lsn: Lsn, timeout: Duration) -> Commit;

    /// The output with this LSN has left.
    fn released(&mut self, lsn: Lsn);
}

/// What a [`CommitWatch`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// The entry is acknowledged, or no acknowledgement is needed any more because this host won
    /// the right to run alone.
    Committed,
    /// Not yet.
    Waiting,
    /// It never will be: this host lost that right.
    Never,
}

/// Outputs that may wait for their commit. Beyond this the guest waits.
const WAITING_OUTPUTS: usize = 4096;

/// An output that waits.
struct Held {
    output: Output,
    lsn: Lsn,
    since: Instant,
}

/// The gate's end in the guest's thread.
pub struct Committed {
    outputs: Sender<Held>,
    outlet: Outlet,
    disk: Option<Box<dyn DiskPort>>,
}

impl Committed {
    /// Starts the releasing thread. Requests to the disk go to `disk`, at once and with the entry
    /// that they have to wait for: reads wait for nothing, and writes not for frames. How long the
    /// others are held is noted in `holds`.
    #[must_use]
    pub fn start(
        outlet: Outlet,
        disk: Option<Box<dyn DiskPort>>,
        watch: impl CommitWatch,
        holds: Waits,
    ) -> Self {
        let (outputs, waiting) = crossbeam_channel::bounded(WAITING_OUTPUTS);
        let releasing = outlet.clone();
        thread::Builder::new()
            .name("output-gate".into())
            .spawn(move || release_loop(&waiting, &releasing, watch, &holds))
            .expect("a thread can be started");
        Self {
            outputs,
            outlet,
            disk,
        }
    }
}

impl OutputGate for Committed {
    fn submit(&mut self, output: Output, lsn: Option<Lsn>) {
        match output {
            Output::Disk(request) => super::to_disk(&mut self.disk, request, lsn),
            // Nobody sees it.
            Output::Offloads(_) => self.outlet.perform(&output),
            output => {
                // What has no entry waits for what was sent before it.
                let lsn = lsn.unwrap_or_default();
                // Fails only after this host lost its right to run: then nothing may leave.
                let since = Instant::now();
                let _ = self.outputs.send(Held { output, lsn, since });
            }
        }
    }
}

fn release_loop(
    waiting: &Receiver<Held>,
    outlet: &Outlet,
    mut watch: impl CommitWatch,
    holds: &Waits,
) {
    for Held { output, lsn, since } in waiting {
        loop {
            match watch.wait(lsn, Duration::from_millis(100)) {
                Commit::Committed => break,
                Commit::Waiting => {}
                Commit::Never => return,
            }
        }
        outlet.perform(&output);
        watch.released(lsn);
        holds.note(since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::io::ConsoleSink;

    /// Commits up to a limit; remembers what was asked and released.
    struct Scripted {
        committed: Receiver<Commit>,
        released: Arc<Mutex<Vec<Lsn>>>,
    }

    impl CommitWatch for Scripted {
        fn wait(&mut self, _: Lsn, _: Duration) -> Commit {
            self.committed.recv().unwrap_or(Commit::Never)
        }

        fn released(&mut self, lsn: Lsn) {
            self.released.lock().unwrap().push(lsn);
        }
    }

    #[test]
    fn nothing_leaves_before_its_commit() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let outlet = Outlet::new(None, ConsoleSink::open(false, Some(file.path())).unwrap());
        let holds = Waits::default();
        let (answer, committed) = crossbeam_channel::bounded(0);
        let released = Arc::new(Mutex::new(Vec::new()));
        let mut gate = Committed::start(
            outlet,
            None,
            Scripted {
                committed,
                released: released.clone(),
            },
            holds.clone(),
        );
        let output = |text: &str| Output::Console(text.as_bytes().to_vec());
        gate.submit(output("first "), Some(Lsn(1)));
        gate.submit(output("second"), Some(Lsn(2)));
        let shown = || std::fs::read_to_string(file.path()).unwrap();

        // A rendezvous channel: when `send` returns, the gate has taken the answer, and when the
        // next one returns, it has acted on the one before.
        answer.send(Commit::Waiting).unwrap();
        answer.send(Commit::Waiting).unwrap();
        assert_eq!(shown(), "");
        answer.send(Commit::Committed).unwrap();
        answer.send(Commit::Waiting).unwrap();
        answer.send(Commit::Waiting).unwrap();
        assert_eq!(shown(), "first ");
        assert_eq!(*released.lock().unwrap(), [Lsn(1)]);
        answer.send(Commit::Never).unwrap();
        drop(gate);
        assert_eq!(shown(), "first ");
        let held: u64 = holds.take_recent().iter().map(|(_, count)| count).sum();
        assert_eq!(held, 1);
    }
}
