//! A few connections at a time, each with a thread of its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use disk_server::logging::Limited;

use crate::threads;

/// The most connections of one kind.
const MOST: usize = 32;

/// How soon a host is asked again that had nothing left for a connection.
const AGAIN: Duration = Duration::from_millis(100);

/// Takes connections on a thread called `name` for as long as this process lives. One too many is closed.
///
/// # Errors
/// The host has no thread for it.
pub(super) fn serve<S: Send + 'static>(
    name: &'static str,
    accept: impl Fn() -> io::Result<S> + Send + 'static,
    answer: impl Fn(S) + Send + Sync + 'static,
) -> io::Result<()> {
    let answer = Arc::new(answer);
    threads::start(name, threads::UNCONFINED, move || {
        let open = Arc::new(AtomicUsize::new(0));
        // Anybody can cause it.
        let too_many = Limited::new();
        loop {
            let stream = match accept() {
                Ok(stream) => stream,
                Err(error) => {
                    log::debug!("{name}: {error}");
                    thread::sleep(AGAIN);
                    continue;
                }
            };
            let one = One::of(&open);
            if open.load(Ordering::Relaxed) > MOST {
                if let Some(left_out) = too_many.let_through() {
                    log::warn!(
                        "{name}: there are {MOST} connections, and no room for another one{left_out}"
                    );
                }
                continue;
            }
            let answer = answer.clone();
            let started = threads::start(name, threads::UNCONFINED, move || {
                answer(stream);
                drop(one);
            });
            if let Err(error) = started {
                log::warn!("{name}: {error}");
            }
        }
    })?;
    Ok(())
}

/// A connection that counts for as long as this lives.
struct One(Arc<AtomicUsize>);

impl One {
    fn of(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn one_connection_too_many_is_closed_and_others_come_when_one_has_gone() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).expect("it is free");
        let accept = move || Ok(listener.accept()?.0);
        serve("test", accept, |mut stream: UnixStream| {
            // Until the other side closes.
            let _ = io::copy(&mut stream.try_clone().expect("a socket"), &mut stream);
        })
        .expect("a thread");
        let connect = || UnixStream::connect(&path).expect("it listens");
        let is_served = |stream: &mut UnixStream| {
            let mut byte = [0];
            stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok()
        };
        let mut open: Vec<UnixStream> = (0..MOST).map(|_| connect()).collect();
        assert!(open.iter_mut().all(is_served));
        assert!(!is_served(&mut connect()));
        open.pop();
        while !is_served(&mut connect()) {
            thread::yield_now();
        }
    }
}
