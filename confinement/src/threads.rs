//! Threads, each with the system calls that its work needs.
//!
//! A thread has its parent's filters, so one whose work is narrow must not start those of others: in a process that
//! has started, [`spawn`] has a thread of its own start them all, which has the process's list.

use std::cell::Cell;
use std::hint::black_box;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Once};
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;
use rustix::thread::sched_setaffinity;

use crate::process::{PROCESS, Process, Start};
use crate::system_calls::{self, Calls};

thread_local! {
    /// The list of a thread that began before its process had started.
    static EARLY: Cell<Option<&'static [Calls]>> = const { Cell::new(None) };
}

/// Starts a thread, which makes these system calls beside those that every thread makes, where its process is
/// confined. A program starts all its threads so, but for those that are to have what their parents have.
///
/// # Errors
/// The host gives none.
pub fn spawn<T: Send + 'static>(
    thread: Builder,
    calls: &'static [Calls],
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let Some(process) = PROCESS.get() else {
        return thread.spawn(run);
    };
    let Some(spawner) = process.spawner.get() else {
        let (confined, is_confined) = mpsc::channel();
        let thread = thread.spawn(move || {
            // What cannot be given up is told by the process.
            let _ = process.confine_thread(false);
            drop(confined);
            EARLY.set(Some(calls));
            run()
        })?;
        // It could not give them up any more once the process has started.
        let _: Result<(), _> = is_confined.recv();
        return Ok(thread);
    };
    let (started, starts) = mpsc::channel();
    // Dropped here if the host gives no thread: what that waits for is not to keep the spawner.
    let run = Arc::new(Mutex::new(Some(run)));
    let start = {
        let run = run.clone();
        move || {
            let narrowed = move || {
                narrow(calls);
                let run = { run.lock().take() };
                run.expect("it runs once")()
            };
            let _ = started.send(thread.spawn(narrowed));
        }
    };
    (spawner.send(Box::new(start))).map_err(|_| io::ErrorKind::BrokenPipe)?;
    starts.recv().map_err(|_| io::ErrorKind::BrokenPipe)?
}

/// Lets the calling thread make no other system calls from now on than these, beside those that every thread makes:
/// where its process is confined, and has started.
pub fn narrow(calls: &[Calls]) {
    if PROCESS.get().is_some_and(Process::has_started)
        && let Err(error) = system_calls::narrow(calls)
    {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| log::warn!("threads: {error}"));
    }
}

/// A thread that began before its process had started gets its list, if that has started meanwhile: to be called
/// with whatever comes to it, which costs nothing afterwards. A filter of its own before that would keep it from that
/// of the process.
pub fn catch_up() {
    if let Some(calls) = EARLY.get()
        && PROCESS.get().is_some_and(Process::has_started)
    {
        EARLY.set(None);
        narrow(calls);
    }
}

/// From now on threads have their own lists. Where the host gives no thread for that, they have the process's.
pub(crate) fn start_spawner(process: &Process) -> io::Result<()> {
    let (spawner, starts): (Sender<Start>, Receiver<_>) = mpsc::channel();
    let processors = process.processors;
    let run = move || {
        // The thread that starts it may have bound itself.
        if let Some(processors) = processors {
            let _ = sched_setaffinity(None, &processors);
        }
        read_of_memory();
        starts.iter().for_each(|start| start());
    };
    Builder::new().name("spawner".into()).spawn(run)?;
    let _ = process.spawner.set(spawner);
    Ok(())
}

/// Has the C library (glibc, `malloc/arena.c`) read how the kernel counts memory, as it does once, when a thread gives
/// some back: the first one to do so may open no file.
fn read_of_memory() {
    let piece = || black_box(Vec::<u8>::with_capacity(96 << 10));
    drop([(); 32].map(|()| piece()));
}
