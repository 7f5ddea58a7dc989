//! Storages that do what real ones do rarely, and servers in this process to export them.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use disk_server::arbiter::{Arbiter, Settings};
use disk_server::export::Export;
use disk_server::server::{Config, Limits, NbdConfig, RunError, Server, StopHandle};
use disk_server::storage::{Allocation, Storage, Zeroing};
use transport::{Endpoint, Stream};

use crate::support::{call, until};

/// A server in this process, which ends when dropped.
pub(crate) struct Local {
    pub(crate) arbiter: SocketAddr,
    pub(crate) nbd: SocketAddr,
    stop: StopHandle,
    thread: Option<thread::JoinHandle<Result<(), RunError>>>,
    _state: tempfile::TempDir,
}

impl Local {
    /// Exports `disk`, of the machine `db` if it has an owner.
    pub(crate) fn start(disk: impl Storage + 'static, owned: bool) -> Local {
        Local::start_with(disk, owned, Limits::default())
    }

    pub(crate) fn start_with(disk: impl Storage + 'static, owned: bool, limits: Limits) -> Local {
        let vm = owned.then(|| "db".parse().unwrap());
        let export = Export::new("disk".parse().unwrap(), vm, false, Box::new(disk));
        Local::export(vec![export], limits)
    }

    pub(crate) fn export(exports: Vec<Export>, limits: Limits) -> Local {
        let state = tempfile::tempdir().unwrap();
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(Config {
            listen: anywhere,
            state: state.path().to_owned(),
            endpoint: Endpoint::plain(),
            nbd: Some(NbdConfig {
                listen: anywhere,
                exports,
            }),
            metrics: None,
            limits,
        })
        .unwrap();
        Local {
            arbiter: server.local_addr(),
            nbd: server.nbd_addr().unwrap(),
            stop: server.stop_handle(),
            thread: Some(thread::spawn(|| server.run())),
            _state: state,
        }
    }

    /// Waits until it ends by itself. Why it did.
    pub(crate) fn ended(mut self) -> Result<(), RunError> {
        self.thread.take().unwrap().join().unwrap()
    }

    /// Ends it. Why it may have ended before.
    pub(crate) fn stopped(self) -> Result<(), RunError> {
        self.stop.stop();
        self.ended()
    }

    /// Tells it to end, and does not wait for it.
    pub(crate) fn stop(&self) {
        self.stop.stop();
    }

    /// As soon as there is room.
    pub(crate) fn connect_to_arbiter(&self) -> Stream {
        let mut stream = None;
        until("there is room for a connection", || {
            stream = call(self.arbiter).ok();
            stream.is_some()
        });
        stream.unwrap()
    }

    pub(crate) fn arbiter(&self) -> Arbiter {
        Arbiter::new(self.arbiter.into(), Endpoint::plain(), Settings::default())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.stop.stop();
        let ended = self.thread.take().map(thread::JoinHandle::join);
        if let (Some(ended), false) = (ended, thread::panicking()) {
            ended.unwrap().unwrap();
        }
    }
}

/// Where [`Gated`] is not fast at zeroes any more.
pub(crate) const FAST: u64 = 40 << 20;

/// A disk in memory whose writes and discards wait at a gate.
#[derive(Debug, Clone)]
pub(crate) struct Gated(Arc<(Mutex<Gate>, Condvar)>);

#[derive(Debug)]
struct Gate {
    data: Vec<u8>,
    open: bool,
    /// How many may pass though it is closed.
    passes: usize,
    waiting: usize,
    landed: usize,
    flushes: usize,
    /// How often somebody looked for holes.
    looks: usize,
    /// What the next flush says.
    failure: Option<io::ErrorKind>,
}

impl Gated {
    pub(crate) fn new(size: usize) -> Gated {
        let gate = Gate {
            data: vec![0; size],
            open: true,
            passes: 0,
            waiting: 0,
            landed: 0,
            flushes: 0,
            looks: 0,
            failure: None,
        };
        Gated(Arc::new((Mutex::new(gate), Condvar::new())))
    }

    fn change<R>(&self, change: impl FnOnce(&mut Gate) -> R) -> R {
        let result = change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
        result
    }

    pub(crate) fn set_open(&self, open: bool) {
        self.change(|gate| gate.open = open);
    }

    /// Opens it at the end of a test, also when an assertion fails: a server ends when its requests
    /// have.
    pub(crate) fn open_when_dropped(&self) -> OpenWhenDropped {
        OpenWhenDropped(self.clone())
    }

    /// Lets one more through, and no further ones.
    pub(crate) fn let_one_pass(&self) {
        self.change(|gate| gate.passes += 1);
    }

    /// How many writes wait at the gate.
    pub(crate) fn waiting(&self) -> usize {
        self.change(|gate| gate.waiting)
    }

    /// How many writes have gone through.
    pub(crate) fn landed(&self) -> usize {
        self.change(|gate| gate.landed)
    }

    pub(crate) fn flushes(&self) -> usize {
        self.change(|gate| gate.flushes)
    }

    /// How often somebody looked for holes.
    pub(crate) fn looks(&self) -> usize {
        self.change(|gate| gate.looks)
    }

    fn pass(&self) -> MutexGuard<'_, Gate> {
        let mut gate = self.0.0.lock().unwrap();
        gate.waiting += 1;
        let closed = |gate: &mut Gate| !gate.open && gate.passes == 0;
        let mut gate = self.0.1.wait_while(gate, closed).unwrap();
        gate.waiting -= 1;
        gate.passes = gate.passes.saturating_sub(1);
        gate.landed += 1;
        gate
    }

    /// Makes the next flush fail.
    pub(crate) fn fail_next_flush(&self) {
        self.change(|gate| gate.failure = Some(io::ErrorKind::Other));
    }
}

/// See [`Gated::open_when_dropped`].
pub(crate) struct OpenWhenDropped(Gated);

impl Drop for OpenWhenDropped {
    fn drop(&mut self) {
        self.0.set_open(true);
    }
}

impl Storage for Gated {
    fn size(&self) -> u64 {
        self.change(|gate| gate.data.len() as u64)
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        self.change(|gate| data.copy_from_slice(&gate.data[start..start + data.len()]));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let mut gate = self.pass();
        gate.data[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64, how: Zeroing) -> io::Result<()> {
        if how.only_if_fast && offset + length > FAST {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.write(offset, &vec![0; usize::try_from(length).unwrap()])
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        drop(self.pass());
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.change(|gate| {
            gate.flushes += 1;
            gate.failure.take().map_or(Ok(()), |kind| Err(kind.into()))
        })
    }

    fn allocations(&self, _: u64, length: u64, _: usize) -> io::Result<Vec<Allocation>> {
        self.change(|gate| gate.looks += 1);
        let hole = false;
        Ok(vec![Allocation { length, hole }])
    }

    fn prefetch(&self, _: u64, _: u64) {}
}
