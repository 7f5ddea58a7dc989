//! Standard output, where the guest's console is shown.
//!
//! A terminal may take nothing for as long as it likes: one press of Ctrl-S, or a pager at the other end
//! of a pipe. Whoever shows something does not wait for that, because it is the thread on which the
//! guest's outputs leave. So another thread writes, and what it cannot write in time is lost, as on a
//! serial line that nobody reads.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

/// What waits to be written at most, in bytes: a guest's boot, several times.
const ROOM: usize = 1 << 20;

static SCREEN: OnceLock<Screen> = OnceLock::new();

/// The process's standard output.
pub(super) fn screen() -> &'static Screen {
    SCREEN.get_or_init(|| Screen::start(io::stdout()))
}

/// Waits, for at most `limit`, until everything is shown that a guest wrote, if one did.
pub(super) fn finish(limit: Duration) {
    if let Some(screen) = SCREEN.get() {
        screen.drain(limit);
    }
}

/// Somewhere to show bytes without waiting.
#[derive(Debug)]
pub(super) struct Screen(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Bytes that there was no room for since something was written.
    lost: usize,
    /// Something is being written.
    writing: bool,
}

impl Screen {
    /// Starts the thread that writes.
    fn start(out: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let written = shared.clone();
        thread::Builder::new()
            .name("screen".into())
            .spawn(move || written.write_all(out))
            .expect("a thread can be started");
        Self(shared)
    }

    /// Shows bytes, soon.
    pub(super) fn show(&self, bytes: &[u8]) {
        let mut state = self.0.lock();
        if state.waiting.len() + bytes.len() > ROOM {
            state.lost += bytes.len();
            return;
        }
        state.waiting.extend_from_slice(bytes);
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits until everything is shown, for at most `limit`.
    fn drain(&self, limit: Duration) {
        let busy = |state: &mut State| state.writing || !state.waiting.is_empty();
        let waited = self
            .0
            .changed
            .wait_timeout_while(self.0.lock(), limit, busy);
        drop(waited);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of it is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut out: impl Write) {
        let mut bytes = Vec::new();
        loop {
            let nothing = |state: &mut State| state.waiting.is_empty();
            let waited = self.changed.wait_while(self.lock(), nothing);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            bytes.clear();
            std::mem::swap(&mut bytes, &mut state.waiting);
            let lost = std::mem::take(&mut state.lost);
            state.writing = true;
            drop(state);
            // A terminal that went away takes nothing more; the guest goes on.
            let _ = out.write_all(&bytes).and_then(|()| out.flush());
            if lost > 0 {
                log::warn!("{lost} bytes of the console were not shown: the terminal took nothing");
            }
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, Sender};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Takes bytes when it is told that it may.
    struct Terminal {
        may: Receiver<()>,
        shown: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Terminal {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.may.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.shown.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A screen, what lets its terminal take something, and what it has taken.
    fn terminal() -> (Screen, Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (allow, may) = crossbeam_channel::unbounded();
        let shown = Arc::default();
        let screen = Screen::start(Terminal {
            may,
            shown: Arc::clone(&shown),
        });
        (screen, allow, shown)
    }

    #[test]
    fn everything_is_shown_in_order() {
        let (screen, allow, shown) = terminal();
        for part in ["one ", "two ", "three"] {
            allow.send(()).unwrap();
            screen.show(part.as_bytes());
        }
        screen.drain(LONG);
        assert_eq!(*shown.lock().unwrap(), b"one two three");
    }

    #[test]
    fn a_terminal_that_takes_nothing_holds_nobody_up() {
        let (screen, allow, shown) = terminal();
        let chunk = vec![b'x'; ROOM / 4];
        for _ in 0..20 {
            screen.show(&chunk);
        }
        screen.drain(Duration::from_millis(5));
        assert!(shown.lock().unwrap().is_empty());
        for _ in 0..20 {
            allow.send(()).unwrap();
        }
        screen.drain(LONG);
        // What was being written, and what there was room for behind it.
        let len = shown.lock().unwrap().len();
        assert!((ROOM / 4 * 4..=ROOM * 2).contains(&len), "{len}");
        screen.show(b"again");
        screen.drain(LONG);
        assert!(shown.lock().unwrap().ends_with(b"again"));
    }

    #[test]
    fn a_terminal_that_went_away_is_forgotten() {
        let (screen, allow, _) = terminal();
        drop(allow);
        screen.show(b"lost");
        screen.drain(LONG);
    }
}
