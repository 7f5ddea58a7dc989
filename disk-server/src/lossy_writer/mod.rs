//! Writing without waiting for whoever reads.
//!
//! What reads a program's log, its events or a console may take nothing for as long as it likes: a
//! pager, one press of Ctrl-S, a log daemon that hangs, a disk that is full. The threads that write them
//! are those that claim, acknowledge and release. So they leave what they have to say here, and another
//! thread writes it. What is not taken is kept up to a bound; what comes on top of that is lost, and the
//! reader is told how much, at the place.
//!
//! The programs of ftvm have one log each, on [standard error](stderr); what else they write in this way
//! has a [`LossyWriter`] of its own. At the end of the process, [`finish`] waits for all of them, and not
//! for long.
//!
//! (The crate `tracing-appender` does the same for lines of a log. It bounds their number and not their
//! size, keeps no room for what matters more, swallows errors, and at its end prints to standard
//! output, which may be what nobody reads.)

mod batch;
mod consumer;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use self::batch::Batch;
pub use self::batch::Lost;
pub use self::consumer::{AppendedFile, Consumer};

/// What waits to be written at most, in bytes: a guest's boot several times, or a minute of figures.
const ROOM: usize = 1 << 20;

/// Pause after a write that failed, before the next attempt.
const PAUSE: Duration = Duration::from_millis(200);

/// Every writer of this process, for its end.
static WRITERS: Mutex<Vec<LossyWriter>> = Mutex::new(Vec::new());

static STDERR: OnceLock<LossyWriter> = OnceLock::new();

/// Waits, for at most `limit`, until everything is written that was left to the writers of this process.
pub fn finish(limit: Duration) {
    let deadline = Instant::now() + limit;
    // The log is the first, and the others may have something to say in it.
    for writer in all_writers().iter().rev() {
        writer.drain(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Opens the files anew that writers of this process append to: somebody moved them away.
pub fn reopen_files() {
    for writer in all_writers() {
        writer.0.state.lock().reopen = true;
        writer.0.changed.notify_all();
    }
}

/// Says something on standard error, in order with the log.
pub fn say(text: &str) {
    stderr().put(Weight::Matters, text.as_bytes());
}

/// The process's standard error.
///
/// # Panics
/// The process has no descriptor or thread left, at the first call.
pub fn stderr() -> &'static LossyWriter {
    STDERR.get_or_init(|| {
        let gap = |lost: Lost| {
            let Lost { messages, bytes } = lost;
            format!(
                "{messages} lines of this log, {bytes} bytes, were dropped here: nobody read them\n"
            )
        };
        LossyWriter::start("standard error", gap, of_descriptor(io::stderr()))
    })
}

/// The file behind a standard stream, without the lock and the buffer that the process's end would
/// wait for.
///
/// # Panics
/// The process has no descriptor left.
pub fn of_descriptor(stream: impl AsFd) -> File {
    let own = stream.as_fd().try_clone_to_owned();
    File::from(own.expect("a descriptor can be duplicated"))
}

fn all_writers() -> Vec<LossyWriter> {
    WRITERS.lock().clone()
}

/// How much it matters that a message is not lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// The next one of its kind makes up for it: half of the room is not for these.
    Replaceable,
    /// Nothing makes up for it.
    Matters,
}

/// Somewhere to write without waiting. A handle.
#[derive(Debug, Clone)]
pub struct LossyWriter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// What is written to, for people.
    name: String,
    /// What the reader is told of a gap.
    gap: fn(Lost) -> String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Batch,
    /// What was lost behind that.
    lost: Lost,
    /// Something is being written.
    writing: bool,
    /// The last attempt to write failed.
    failing: bool,
    /// The consumer is to be opened again.
    reopen: bool,
    /// Nothing is written any more.
    closed: bool,
}

impl State {
    /// Whether there is something for the reader.
    fn is_idle(&self) -> bool {
        self.waiting.bytes.is_empty() && self.lost == Lost::default()
    }

    /// Puts what there is to say about a gap behind what waits.
    fn tell_gap(&mut self, text: &str) {
        self.waiting.push(text.as_bytes());
        self.lost = Lost::default();
    }
}

impl LossyWriter {
    /// Starts the thread that writes to `consumer`. `gap` makes the text for a place where something is
    /// missing.
    ///
    /// # Panics
    /// The process has no thread left.
    pub fn start(
        name: impl Into<String>,
        gap: fn(Lost) -> String,
        consumer: impl Consumer,
    ) -> Self {
        Self::try_start(name, gap, consumer).expect("a thread can be started")
    }

    /// The same, where the process can do without.
    ///
    /// # Errors
    /// The process has no thread left.
    pub fn try_start<C: Consumer>(
        name: impl Into<String>,
        gap: fn(Lost) -> String,
        consumer: C,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            name: name.into(),
            gap,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let writer = Self(shared.clone());
        let named = thread::Builder::new().name("writer".into());
        confinement::spawn(named, C::CALLS, move || shared.run(consumer))?;
        WRITERS.lock().push(writer.clone());
        Ok(writer)
    }

    /// Has a message written, soon and as a whole, or loses it.
    pub fn put(&self, weight: Weight, message: &[u8]) {
        let room = match weight {
            Weight::Replaceable => ROOM / 2,
            Weight::Matters => ROOM,
        };
        let mut state = self.0.state.lock();
        let gap = self.0.gap_text(&state);
        if state.closed {
            return;
        }
        if state.waiting.bytes.len() + gap.len() + message.len() > room {
            state.lost.messages += 1;
            state.lost.bytes += message.len() as u64;
            return;
        }
        state.tell_gap(&gap);
        state.waiting.push(message);
        drop(state);
        self.0.changed.notify_all();
    }

    /// Whether the other one is a handle to the same writer.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Writes nothing more: who read is gone. What waits is lost, and the consumer is given up as soon as it
    /// lets go of what is being written.
    pub fn close(&self) {
        self.0.state.lock().closed = true;
        self.0.changed.notify_all();
        WRITERS.lock().retain(|it| !it.is(self));
    }

    /// Waits until everything is written, for at most `limit`, and not for a consumer that fails.
    pub fn drain(&self, limit: Duration) {
        let busy = |state: &mut State| {
            (state.writing || !state.is_idle()) && !state.failing && !state.closed
        };
        let mut state = self.0.state.lock();
        self.0.changed.wait_while_for(&mut state, busy, limit);
    }
}

/// Every write is one message.
impl Write for LossyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(Weight::Matters, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn gap_text(&self, state: &State) -> String {
        match state.lost {
            Lost { messages: 0, .. } => String::new(),
            lost => (self.gap)(lost),
        }
    }

    fn run(&self, mut consumer: impl Consumer) {
        let mut batch = Batch::default();
        loop {
            let mut state = self.state.lock();
            let nothing = |state: &mut State| state.is_idle() && !state.reopen && !state.closed;
            self.changed.wait_while(&mut state, nothing);
            confinement::catch_up();
            if state.closed {
                return;
            }
            let gap = self.gap_text(&state);
            state.tell_gap(&gap);
            std::mem::swap(&mut batch, &mut state.waiting);
            state.writing = true;
            drop(state);
            self.write_out(&mut consumer, &mut batch);
            batch.clear();
            self.state.lock().writing = false;
            self.changed.notify_all();
        }
    }

    /// Writes `batch`, however long it takes: what fails is tried again where it stopped, but a new
    /// file does not begin with the end of a message.
    fn write_out(&self, consumer: &mut impl Consumer, batch: &mut Batch) {
        let mut written = 0;
        loop {
            if std::mem::take(&mut self.state.lock().reopen) {
                match consumer.reopen() {
                    Ok(true) => written = batch.give_up_half_message(written, self.gap),
                    Ok(false) => {}
                    Err(error) => log::warn!("{} cannot be opened again: {error}", self.name),
                }
            }
            if written == batch.bytes.len() || self.state.lock().closed {
                return;
            }
            match consumer.write(&batch.bytes[written..]) {
                Ok(0) => self.failed(&io::ErrorKind::WriteZero.into()),
                Ok(len) => {
                    written += len;
                    if std::mem::take(&mut self.state.lock().failing) {
                        log::info!("{} can be written again", self.name);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Tells of an error, once, and waits before the next attempt.
    fn failed(&self, error: &io::Error) {
        let mut state = self.state.lock();
        // Somebody else made it non-blocking, and it is full: that is no error.
        if error.kind() != io::ErrorKind::WouldBlock && !state.failing && !state.closed {
            state.failing = true;
            drop(state);
            self.changed.notify_all();
            log::warn!(
                "{} cannot be written: {error}; what does not fit into {ROOM} bytes until then is lost",
                self.name
            );
            state = self.state.lock();
        }
        self.changed
            .wait_while_for(&mut state, |state| !state.reopen && !state.closed, PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn gap(lost: Lost) -> String {
        format!("[{}]", lost.messages)
    }

    /// A writer into a pipe, and the end where nobody reads yet.
    fn pipe() -> (LossyWriter, io::PipeReader) {
        let (reader, writer) = io::pipe().expect("a pipe");
        let consumer = File::from(OwnedFd::from(writer));
        (LossyWriter::start("a pipe", gap, consumer), reader)
    }

    /// Reads until `end` comes.
    fn read_to(reader: &mut io::PipeReader, end: &[u8]) -> Vec<u8> {
        let mut read = Vec::new();
        let mut chunk = [0; 4096];
        while !read.ends_with(end) {
            match reader.read(&mut chunk).expect("a pipe") {
                0 => panic!("the writer ended after {} bytes", read.len()),
                len => read.extend_from_slice(&chunk[..len]),
            }
        }
        read
    }

    #[test]
    fn everything_is_written_in_order() {
        let (writer, mut reader) = pipe();
        for part in ["one ", "two ", "three"] {
            writer.put(Weight::Matters, part.as_bytes());
        }
        writer.drain(LONG);
        assert_eq!(read_to(&mut reader, b"three"), b"one two three");
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody_up_and_is_told_what_it_missed() {
        let (writer, mut reader) = pipe();
        let chunk = vec![b'x'; ROOM / 4 - 100];
        for _ in 0..20 {
            writer.put(Weight::Matters, &chunk);
        }
        writer.drain(Duration::from_millis(5));
        writer.put(Weight::Matters, b"end");
        let read = read_to(&mut reader, b"end");
        assert!(read.ends_with(b"]end"), "the gap is where it was");
        let text = String::from_utf8(read).expect("plain text");
        let kept = text.matches('x').count() / chunk.len();
        // What was being written, and what there was room for behind it.
        assert!((4..=8).contains(&kept), "{kept}");
        let gaps = text.split(['[', ']']).skip(1).step_by(2);
        let missed = gaps.map(|number| number.parse::<usize>().expect("a number"));
        assert_eq!(missed.sum::<usize>(), 20 - kept);
    }

    #[test]
    fn what_can_be_replaced_leaves_room_for_what_matters() {
        let (writer, mut reader) = pipe();
        let chunk = vec![b'x'; ROOM / 8];
        for _ in 0..20 {
            writer.put(Weight::Replaceable, &chunk);
        }
        for _ in 0..3 {
            writer.put(Weight::Matters, &[b'M'; ROOM / 8]);
        }
        writer.put(Weight::Matters, b"end");
        let read = read_to(&mut reader, b"end");
        let kept = read.iter().filter(|byte| **byte == b'M').count();
        assert_eq!(kept, 3 * ROOM / 8);
    }

    /// Fails a few times, and counts how often it is opened again.
    struct Unsteady {
        errors: Vec<io::ErrorKind>,
        written: Arc<Mutex<Vec<u8>>>,
        opened: Arc<AtomicUsize>,
    }

    impl Write for Unsteady {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(kind) = self.errors.pop() {
                return Err(kind.into());
            }
            let len = bytes.len().min(3);
            self.written.lock().extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Consumer for Unsteady {
        fn reopen(&mut self) -> io::Result<bool> {
            self.opened.fetch_add(1, Ordering::Relaxed);
            Ok(true)
        }
    }

    #[test]
    fn what_fails_is_written_when_it_can_be() {
        let (written, opened) = (Arc::default(), Arc::default());
        let writer = LossyWriter::start(
            "unsteady",
            gap,
            Unsteady {
                errors: vec![io::ErrorKind::StorageFull, io::ErrorKind::Interrupted],
                written: Arc::clone(&written),
                opened: Arc::clone(&opened),
            },
        );
        writer.put(Weight::Matters, b"0123456789");
        let begun = Instant::now();
        while written.lock().len() < 10 {
            writer.drain(LONG);
            assert!(begun.elapsed() < LONG);
        }
        assert_eq!(*written.lock(), b"0123456789");
        assert_eq!(opened.load(Ordering::Relaxed), 0);
    }

    /// Writes a few bytes, finds its disk full, and has room again once it was opened again.
    struct Rotated {
        room: usize,
        files: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Write for Rotated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let len = bytes.len().min(self.room);
            if len == 0 {
                reopen_files();
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= len;
            let mut files = self.files.lock();
            files.last_mut().unwrap().extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Consumer for Rotated {
        fn reopen(&mut self) -> io::Result<bool> {
            self.room = usize::MAX;
            self.files.lock().push(Vec::new());
            Ok(true)
        }
    }

    #[test]
    fn a_new_file_does_not_begin_with_the_end_of_a_message() {
        let files = Arc::new(Mutex::new(vec![Vec::new()]));
        let consumer = Rotated {
            room: 7,
            files: Arc::clone(&files),
        };
        let writer = LossyWriter::start("rotated", gap, consumer);
        for message in ["one\n", "two two\n", "three\n"] {
            writer.put(Weight::Matters, message.as_bytes());
        }
        let begun = Instant::now();
        while !files.lock().last().unwrap().ends_with(b"three\n") {
            writer.drain(LONG);
            assert!(begun.elapsed() < LONG);
        }
        let files = files.lock();
        assert_eq!(files[0], b"one\ntwo");
        assert_eq!(files[1], b"[1]three\n");
    }

    #[test]
    fn a_reader_that_went_away_is_not_waited_for() {
        let (writer, reader) = pipe();
        drop(reader);
        writer.put(Weight::Matters, b"lost");
        writer.drain(LONG);
    }

    #[test]
    fn what_is_closed_lets_go_of_its_consumer() {
        let (writer, mut reader) = pipe();
        writer.put(Weight::Matters, b"read");
        assert_eq!(read_to(&mut reader, b"read"), b"read");
        writer.close();
        writer.put(Weight::Matters, b"too late");
        writer.drain(LONG);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).expect("a pipe");
        assert_eq!(rest, b"");
        assert!(!all_writers().iter().any(|it| it.is(&writer)));
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        std::fs::write(&path, "before ").expect("a file");
        let file = AppendedFile::open(&path).expect("a file");
        let writer = LossyWriter::start("a log", gap, file);
        writer.put(Weight::Matters, b"first");
        writer.drain(LONG);
        std::fs::rename(&path, &moved).expect("a file");
        reopen_files();
        // Nothing has to be written for that: whoever moved it waits for its end.
        let begun = Instant::now();
        while !path.exists() {
            assert!(begun.elapsed() < LONG);
            thread::yield_now();
        }
        writer.put(Weight::Matters, b"second");
        writer.drain(LONG);
        assert_eq!(std::fs::read(&moved).expect("a file"), b"before first");
        assert_eq!(std::fs::read(&path).expect("a file"), b"second");
    }
}
