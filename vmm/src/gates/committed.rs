//! The Output Rule (Scales et al. 2010, section 2.2): an output leaves the primary only after the
//! backup has acknowledged the log entry of that output. Only the output waits; the guest goes on.
//!
//! And it leaves only while it is certain that the backup has not gone live ([`Permit`]): a primary
//! that did not run for a while finds acknowledgements that came long ago.
//!
//! Outputs leave on the thread that reads the acknowledgement. Handing each to another thread
//! would be two more switches for every frame, on hosts that may have one processor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use logging_channel::entry::Lsn;
use logging_channel::sender::{Permit, Release};
use parking_lot::{Condvar, Mutex};

use crate::devices::Output;
use crate::disk::DiskPort;
use crate::engine::OutputGate;
use crate::io::Outlet;
use crate::protocol::outputs::HeldOutputs;
use crate::sources::Waits;
use crate::threads;

/// How far the log is committed.
pub trait CommitWatch: Send + 'static {
    /// Has `release` called with every commit that comes, and told with its answer which outputs
    /// have left.
    fn on_commit(&mut self, release: Release);

    /// What may leave now: what is acknowledged, or everything *until now* when this host has the right
    /// to run alone: a backup may come, and what is submitted then waits for that.
    fn permit(&self) -> Permit;

    /// The last entry of the log: what has none of its own waits for that.
    fn latest(&self) -> Lsn;

    /// Outputs up to `lsn` have left.
    fn released(&self, lsn: Lsn);

    /// Waits for another outlook than `seen`, for at most `timeout`.
    fn outlook(&self, seen: Outlook, timeout: Duration) -> Outlook;
}

/// What a [`CommitWatch`] knows of the right to run alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// The backup is there, or the right is being asked for.
    Open,
    /// There is no backup: nothing waits for one.
    Alone,
    /// What is not acknowledged never will be.
    Never,
}

/// Outputs that may wait for their commit. Beyond this the guest waits.
const WAITING_OUTPUTS: usize = 4096;

/// How often the verdict is looked for that no commit announces.
const VERDICT_INTERVAL: Duration = Duration::from_millis(500);

/// The gate's end in the guest's thread.
pub struct Committed<W> {
    outputs: Arc<Outputs>,
    watch: Arc<W>,
    disk: Option<Box<dyn DiskPort>>,
}

/// Outputs that wait, in order.
struct Outputs {
    /// Each since when.
    waiting: Mutex<HeldOutputs<(Output, Instant)>>,
    room: Condvar,
    /// Who holds it lets outputs out, so that they leave in order. Taken before `waiting`.
    leaving: Mutex<()>,
    outlet: Outlet,
    holds: Waits,
}

impl<W: CommitWatch + Sync> Committed<W> {
    /// A gate to `outlet` that opens as `watch` says. Requests to the disk go to `disk`, at once
    /// and with the entry that they have to wait for: reads wait for nothing, and writes not for
    /// frames. How long the others are held is noted in `holds`.
    #[must_use]
    pub fn new(
        outlet: Outlet,
        disk: Option<Box<dyn DiskPort>>,
        mut watch: W,
        holds: Waits,
    ) -> Self {
        let outputs = Arc::new(Outputs {
            waiting: Mutex::default(),
            room: Condvar::new(),
            leaving: Mutex::new(()),
            outlet,
            holds,
        });
        let releasing = outputs.clone();
        watch.on_commit(Box::new(move |permit| releasing.release(permit)));
        let watch = Arc::new(watch);
        let (left, judge) = (outputs.clone(), watch.clone());
        threads::insist("output-gate", &[], move || await_verdict(&left, &*judge));
        Self {
            outputs,
            watch,
            disk,
        }
    }
}

impl<W: CommitWatch> OutputGate for Committed<W> {
    fn submit(&mut self, output: Output, lsn: Option<Lsn>) {
        match output {
            Output::Disk(request) => {
                let lsn = match request.op.modifies() {
                    true => lsn.or_else(|| Some(self.watch.latest())),
                    false => lsn,
                };
                super::to_disk(&mut self.disk, request, lsn);
            }
            // Nobody sees it.
            Output::Offloads(_) => self.outputs.outlet.perform(&output),
            output => {
                // What has no entry waits for what was sent before it.
                let lsn = lsn.unwrap_or_else(|| self.watch.latest());
                self.outputs.hold(output, lsn);
                // Its commit may have come before it was held: nobody else will look again.
                let permit = self.watch.permit();
                if lsn <= permit.up_to {
                    self.outputs.release_and_tell(permit, &*self.watch);
                }
            }
        }
    }
}

impl Outputs {
    /// Takes an output; waits while there are too many.
    fn hold(&self, output: Output, lsn: Lsn) {
        let since = Instant::now();
        let full = |w: &mut HeldOutputs<_>| w.len() >= WAITING_OUTPUTS && !w.is_closed();
        let mut waiting = self.waiting.lock();
        self.room.wait_while(&mut waiting, full);
        waiting.hold(lsn, (output, since));
    }

    /// Lets out what may leave. Returns the last entry whose output has left, if any has.
    fn release(&self, permit: Permit) -> Option<Lsn> {
        let _in_order = self.leaving.lock();
        let mut last = None;
        let mut now = Instant::now();
        while let Some((lsn, (output, since))) = self.next(permit, now) {
            self.outlet.perform(&output);
            now = Instant::now();
            self.holds.note(now.saturating_duration_since(since));
            last = last.max(Some(lsn));
        }
        last
    }

    /// The same, where `watch` is not told of it by the answer.
    fn release_and_tell(&self, permit: Permit, watch: &impl CommitWatch) {
        if let Some(lsn) = self.release(permit) {
            watch.released(lsn);
        }
    }

    fn next(&self, permit: Permit, now: Instant) -> Option<(Lsn, (Output, Instant))> {
        let mut waiting = self.waiting.lock();
        let full = waiting.len() == WAITING_OUTPUTS;
        let next = waiting.next(permit, now)?;
        if full {
            self.room.notify_one();
        }
        Some(next)
    }

    /// Nothing may leave any more.
    fn close(&self) {
        self.waiting.lock().close();
        self.room.notify_one();
    }
}

/// Deals with what waits when the backup is gone.
fn await_verdict(outputs: &Outputs, watch: &impl CommitWatch) {
    let mut outlook = Outlook::Open;
    loop {
        outlook = watch.outlook(outlook, VERDICT_INTERVAL);
        match outlook {
            // What found its permit expired leaves with the next acknowledgement, if there is one.
            // What is submitted to a host that is alone leaves at once.
            Outlook::Open | Outlook::Alone => outputs.release_and_tell(watch.permit(), watch),
            Outlook::Never => return outputs.close(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use crossbeam_channel::{Receiver, Sender};

    use super::*;
    use crate::io::ConsoleSink;

    /// A log whose commits the test makes.
    #[derive(Clone, Default)]
    struct Log(Arc<LogState>);

    #[derive(Default)]
    struct LogState {
        latest: AtomicU64,
        committed: AtomicU64,
        release: Mutex<Option<Release>>,
        released: Mutex<Vec<Lsn>>,
        /// When what is acknowledged may not leave any more.
        expired: Mutex<Option<Instant>>,
        verdicts: Mutex<Option<Receiver<Outlook>>>,
    }

    impl Log {
        fn commit(&self, lsn: u64) {
            self.0.committed.store(lsn, Ordering::SeqCst);
            let release = self.0.release.lock();
            let left = release.as_ref().expect("a gate was made")(self.permit());
            self.0.released.lock().extend(left);
        }

        fn verdicts(&self) -> Sender<Outlook> {
            let (send, verdicts) = crossbeam_channel::bounded(0);
            *self.0.verdicts.lock() = Some(verdicts);
            send
        }
    }

    impl CommitWatch for Log {
        fn on_commit(&mut self, release: Release) {
            *self.0.release.lock() = Some(release);
        }

        fn permit(&self) -> Permit {
            Permit {
                up_to: Lsn(self.0.committed.load(Ordering::SeqCst)),
                until: *self.0.expired.lock(),
            }
        }

        fn latest(&self) -> Lsn {
            Lsn(self.0.latest.load(Ordering::SeqCst))
        }

        fn released(&self, lsn: Lsn) {
            self.0.released.lock().push(lsn);
        }

        fn outlook(&self, _: Outlook, _: Duration) -> Outlook {
            let verdicts = self.0.verdicts.lock().clone();
            let verdict = verdicts.map(|verdicts| verdicts.recv());
            match verdict {
                Some(Ok(Outlook::Alone)) => {
                    self.0.committed.store(u64::MAX, Ordering::SeqCst);
                    Outlook::Alone
                }
                Some(Ok(verdict)) => verdict,
                _ => Outlook::Never,
            }
        }
    }

    struct Setup {
        file: tempfile::NamedTempFile,
        log: Log,
        verdicts: Sender<Outlook>,
        holds: Waits,
        gate: Committed<Log>,
    }

    fn setup() -> Setup {
        let file = tempfile::NamedTempFile::new().unwrap();
        let console = ConsoleSink::open(false, Some(file.path())).unwrap();
        let outlet = Outlet::new(None, console).patient();
        let (log, holds) = (Log::default(), Waits::default());
        let verdicts = log.verdicts();
        let gate = Committed::new(outlet, None, log.clone(), holds.clone());
        Setup {
            file,
            log,
            verdicts,
            holds,
            gate,
        }
    }

    impl Setup {
        fn submit(&mut self, text: &str, lsn: u64) {
            let output = Output::Console(text.as_bytes().to_vec());
            self.gate.submit(output, Some(Lsn(lsn)));
        }

        fn shown(&self) -> String {
            std::fs::read_to_string(self.file.path()).unwrap()
        }

        /// A verdict is taken when the one before has been dealt with.
        fn judge(&self, verdict: Outlook) {
            self.verdicts.send(verdict).unwrap();
        }
    }

    #[test]
    fn nothing_leaves_before_its_commit() {
        let mut it = setup();
        it.submit("first ", 1);
        it.submit("second ", 5);
        it.submit("third", 6);
        it.judge(Outlook::Open);
        it.judge(Outlook::Open);
        assert_eq!(it.shown(), "");
        it.log.commit(4);
        assert_eq!(it.shown(), "first ");
        it.log.commit(5);
        assert_eq!(it.shown(), "first second ");
        assert_eq!(*it.log.0.released.lock(), [Lsn(1), Lsn(5)]);
        it.judge(Outlook::Never);
        // Closed, or about to be: the rest stays where it is.
        assert_eq!(it.shown(), "first second ");
        let held: u64 = it.holds.take_recent().iter().map(|(_, count)| count).sum();
        assert_eq!(held, 2);
    }

    #[test]
    fn an_output_whose_commit_came_first_does_not_wait_for_another() {
        let mut it = setup();
        it.log.commit(7);
        it.submit("late", 7);
        assert_eq!(it.shown(), "late");
        assert_eq!(*it.log.0.released.lock(), [Lsn(7)]);
    }

    #[test]
    fn what_is_acknowledged_too_late_waits_for_a_sign_that_is_newer_or_for_the_verdict() {
        let mut it = setup();
        let long_ago = Instant::now();
        thread::sleep(Duration::from_millis(1));
        it.submit("thawed ", 1);
        *it.log.0.expired.lock() = Some(long_ago);
        it.log.commit(2);
        it.submit("as well", 2);
        assert_eq!(it.shown(), "");
        assert_eq!(*it.log.0.released.lock(), []);
        *it.log.0.expired.lock() = None;
        it.judge(Outlook::Open);
        it.judge(Outlook::Open);
        assert_eq!(it.shown(), "thawed as well");
    }

    #[test]
    fn what_has_no_entry_does_not_overtake() {
        let mut it = setup();
        it.submit("first ", 3);
        it.gate.submit(Output::Console(b"second ".into()), None);
        assert_eq!(it.shown(), "");
        it.log.0.latest.store(4, Ordering::SeqCst);
        it.gate.submit(Output::Console(b"third".into()), None);
        it.log.commit(3);
        assert_eq!(it.shown(), "first second ");
        it.log.commit(4);
        assert_eq!(it.shown(), "first second third");
    }

    #[test]
    fn the_right_to_run_alone_lets_everything_out() {
        let mut it = setup();
        it.submit("before ", 3);
        it.judge(Outlook::Alone);
        let deadline = Instant::now() + Duration::from_secs(60);
        while it.shown() != "before " {
            assert!(Instant::now() < deadline, "shown: {:?}", it.shown());
            thread::yield_now();
        }
        it.submit("after", 9);
        assert_eq!(it.shown(), "before after");
    }

    #[test]
    fn a_guest_that_waits_for_room_goes_on_when_nothing_may_leave_any_more() {
        let mut it = setup();
        for n in 0..WAITING_OUTPUTS as u64 {
            it.submit("x", n + 1);
        }
        let judging = it.verdicts.clone();
        let judge = thread::spawn(move || judging.send(Outlook::Never));
        it.submit("one more", WAITING_OUTPUTS as u64 + 1);
        judge.join().unwrap().unwrap();
        it.log.commit(u64::MAX);
        assert_eq!(it.shown(), "");
    }
}
