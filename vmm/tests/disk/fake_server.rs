//! An NBD server in memory, with everything that can go wrong.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use disk_server::arbiter::ServerAddress;
use disk_server::nbd::protocol::{
    BOOT_NUMBER, ChunkFlags, ChunkHeader, ChunkType, Command, DISK_NAME, ErrorCode, ExportInfo,
    ExportRequest, Greeting, HandshakeFlags, Info, MetaContext, OptionHeader, OptionReplyHeader,
    OptionType, ReplyType, RequestHeader, SimpleReply, TransmissionFlags,
};
use parking_lot::{Condvar, Mutex, MutexGuard};

/// What a request left on the disk, in the order in which it was done.
pub(crate) type Done = (Command, u64, u32);

pub(crate) struct State {
    /// What a read finds.
    pub(crate) cached: Vec<u8>,
    /// What survives a loss of power.
    pub(crate) stable: Vec<u8>,
    /// Everything that was done.
    pub(crate) done: Vec<Done>,
    /// Nobody is let in.
    pub(crate) closed: bool,
    /// Later writers end the right of earlier ones.
    pub(crate) epoch: u64,
    /// Requests before the next one that is lost with its connection; none is if 0.
    pub(crate) lose_one_in: u64,
    /// Whether it is other people's server.
    pub(crate) foreign: Foreign,
    /// The number of its start, which is told.
    pub(crate) boot: u64,
    /// The names that it was asked for, and has.
    pub(crate) opened: Vec<String>,
    /// It does nothing with what it gets, as a process that stands still.
    pub(crate) frozen: bool,
    /// Changes fail with this.
    pub(crate) failing: Option<ErrorCode>,
    /// Flushes fail.
    pub(crate) cannot_flush: bool,
    /// How many requests failed because of one of the two.
    pub(crate) failed: u64,
    /// Its number, in what it calls its disk.
    pub(crate) number: u64,
    writer: u64,
    connections: Vec<(u64, TcpStream)>,
    random: fastrand::Rng,
}

/// Servers that tell nothing of themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    No,
    /// It opens what it has, and knows no tags and epochs.
    KnowsItsNames,
    /// It opens its disk under any name.
    TakesAnyName,
}

pub(crate) struct FakeServer {
    pub(crate) address: ServerAddress,
    state: Arc<Mutex<State>>,
}

impl FakeServer {
    pub(crate) fn start(size: usize, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().into();
        let state = Arc::new(Mutex::new(State {
            cached: vec![0; size],
            stable: vec![0; size],
            done: Vec::new(),
            closed: false,
            epoch: 1,
            lose_one_in: 0,
            foreign: Foreign::No,
            boot: 1,
            opened: Vec::new(),
            frozen: false,
            failing: None,
            cannot_flush: false,
            failed: 0,
            number: 1,
            writer: 0,
            connections: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
        }));
        let shared = state.clone();
        thread::spawn(move || {
            for (number, stream) in (1..).zip(listener.incoming().flatten()) {
                let shared = shared.clone();
                // A connection that ends in an error is what this server is for.
                thread::spawn(move || serve(&shared, number, stream).ok());
            }
        });
        Self { address, state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Ends every connection, with what is under way on it.
    pub(crate) fn drop_connections(&self) {
        self.state().drop_connections();
    }

    /// The same, and everything is lost that was not flushed.
    pub(crate) fn lose_power(&self) {
        let mut state = self.state();
        state.drop_connections();
        state.cached = state.stable.clone();
        state.boot += 1;
    }
}

impl State {
    /// What it tells of itself and its disk.
    fn tells(&self) -> Vec<String> {
        if self.foreign != Foreign::No {
            return Vec::new();
        }
        vec![
            format!("{DISK_NAME}={}", self.disk_name()),
            format!("{BOOT_NUMBER}={:016x}", self.boot),
        ]
    }

    /// What it calls its disk.
    pub(crate) fn disk_name(&self) -> String {
        format!("{:016x}/disk", self.number)
    }

    /// How many are open.
    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    fn drop_connections(&mut self) {
        self.writer = 0;
        for (_, stream) in self.connections.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn take<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn answer(
    stream: &mut TcpStream,
    option: OptionType,
    reply: ReplyType,
    data: &[u8],
) -> io::Result<()> {
    let header = OptionReplyHeader {
        option,
        reply,
        length: data.len() as u32,
    };
    stream.write_all(&[&header.encode(), data].concat())
}

/// Requests that were received on one connection, for its worker.
#[derive(Default)]
struct Queue {
    received: Mutex<Received>,
    changed: Condvar,
}

#[derive(Default)]
struct Received {
    requests: Vec<(RequestHeader, Vec<u8>)>,
    /// No more will come.
    complete: bool,
}

fn serve(shared: &Arc<Mutex<State>>, number: u64, mut stream: TcpStream) -> io::Result<()> {
    if shared.lock().closed {
        return Ok(());
    }
    negotiate(shared, number, &mut stream)?;
    let queue = Arc::new(Queue::default());
    let (worker_queue, worker_state) = (queue.clone(), shared.clone());
    let worker_stream = stream.try_clone()?;
    let worker = thread::spawn(move || work(&worker_state, number, &worker_queue, worker_stream));
    let received = receive(&queue, &mut stream);
    queue.received.lock().complete = true;
    queue.changed.notify_all();
    let _ = worker.join().unwrap();
    let mut state = shared.lock();
    state.connections.retain(|(n, _)| *n != number);
    received
}

fn negotiate(shared: &Mutex<State>, number: u64, stream: &mut TcpStream) -> io::Result<()> {
    let boot = shared.lock().boot;
    let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
    stream.write_all(&Greeting { flags }.encode())?;
    take::<4>(stream)?;
    loop {
        let header = OptionHeader::decode(&take(stream)?).map_err(io::Error::other)?;
        let mut data = vec![0; header.length as usize];
        stream.read_exact(&mut data)?;
        if header.option == OptionType::StructuredReply {
            answer(stream, header.option, ReplyType::Ack, &[])?;
            continue;
        }
        if header.option == OptionType::ListMetaContext {
            let told = shared.lock().tells();
            for name in told {
                let context = MetaContext { id: 0, name }.encode();
                answer(stream, header.option, ReplyType::MetaContext, &context)?;
            }
            answer(stream, header.option, ReplyType::Ack, &[])?;
            continue;
        }
        let request = ExportRequest::decode(&data).map_err(io::Error::other)?;
        let mut state = shared.lock();
        if state.boot != boot {
            // No connection outlives the power, opened or not: this client knows the earlier start.
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let epoch = match request.name.rsplit_once(':') {
            Some((_, epoch)) if state.foreign == Foreign::No => {
                epoch.parse().map_err(io::Error::other)?
            }
            _ => state.epoch,
        };
        if epoch < state.epoch || state.closed {
            return answer(stream, header.option, ReplyType::ErrPolicy, b"epoch over");
        }
        if state.foreign == Foreign::KnowsItsNames && request.name.contains('@') {
            answer(stream, header.option, ReplyType::ErrUnknown, b"what?")?;
            continue;
        }
        state.opened.push(request.name);
        state.writer = number;
        state.connections.push((number, stream.try_clone()?));
        let info = ExportInfo {
            size: state.cached.len() as u64,
            flags: TransmissionFlags::HAS_FLAGS
                | TransmissionFlags::SEND_FLUSH
                | TransmissionFlags::SEND_TRIM
                | TransmissionFlags::SEND_WRITE_ZEROES,
        };
        drop(state);
        let info = Info::Export(info).encode();
        answer(stream, header.option, ReplyType::Info, &info)?;
        return answer(stream, header.option, ReplyType::Ack, &[]);
    }
}

fn receive(queue: &Queue, stream: &mut TcpStream) -> io::Result<()> {
    loop {
        let header = RequestHeader::decode(&take(stream)?).map_err(io::Error::other)?;
        let mut data = Vec::new();
        match header.command {
            Command::Disconnect => return Ok(()),
            Command::Write => {
                data = vec![0; header.length as usize];
                stream.read_exact(&mut data)?;
            }
            _ => {}
        }
        let mut received = queue.received.lock();
        received.requests.push((header, data));
        drop(received);
        queue.changed.notify_all();
    }
}

/// Does the requests of one connection in any order, and sometimes not.
fn work(
    shared: &Mutex<State>,
    number: u64,
    queue: &Queue,
    mut stream: TcpStream,
) -> io::Result<()> {
    loop {
        let mut received = queue.received.lock();
        while received.requests.is_empty() && !received.complete {
            queue.changed.wait(&mut received);
        }
        if received.requests.is_empty() {
            return Ok(());
        }
        let mut state = shared.lock();
        while state.frozen {
            MutexGuard::unlocked(&mut state, || thread::sleep(Duration::from_millis(1)));
        }
        let at = state.random.usize(..received.requests.len());
        let (header, data) = received.requests.swap_remove(at);
        drop(received);
        let odds = state.lose_one_in;
        let lost = odds > 0 && state.random.u64(..odds) == 0;
        let before = lost && state.random.bool();
        let pause = state.random.u64(..300);
        if before {
            stream.shutdown(Shutdown::Both)?;
            return Ok(());
        }
        let result = state.perform(number, &header, &data);
        drop(state);
        if lost {
            stream.shutdown(Shutdown::Both)?;
            return Ok(());
        }
        // Lets requests gather, so that there is an order to be changed.
        thread::sleep(Duration::from_micros(pause));
        reply(&mut stream, &header, result)?;
    }
}

impl State {
    fn perform(
        &mut self,
        number: u64,
        header: &RequestHeader,
        data: &[u8],
    ) -> Result<Vec<u8>, ErrorCode> {
        let range = header.offset as usize..header.offset as usize + header.length as usize;
        let modifies = !matches!(header.command, Command::Read | Command::Flush);
        if modifies && number != self.writer {
            return Err(ErrorCode::NotPermitted);
        }
        if modifies && let Some(error) = self.failing {
            self.failed += 1;
            return Err(error);
        }
        if header.command == Command::Flush && self.cannot_flush {
            self.failed += 1;
            return Err(ErrorCode::Io);
        }
        self.done
            .push((header.command, header.offset, header.length));
        match header.command {
            Command::Read => return Ok(self.cached[range].to_vec()),
            Command::Write => self.cached[range].copy_from_slice(data),
            Command::Trim | Command::WriteZeroes => self.cached[range].fill(0),
            Command::Flush => self.stable = self.cached.clone(),
            _ => return Err(ErrorCode::Invalid),
        }
        Ok(Vec::new())
    }
}

fn reply(
    stream: &mut TcpStream,
    header: &RequestHeader,
    result: Result<Vec<u8>, ErrorCode>,
) -> io::Result<()> {
    let cookie = header.cookie;
    match result {
        Ok(data) if header.command == Command::Read => {
            let chunk = ChunkHeader {
                flags: ChunkFlags::DONE,
                kind: ChunkType::OffsetData,
                cookie,
                length: 8 + data.len() as u32,
            };
            let parts = [&chunk.encode()[..], &header.offset.to_be_bytes(), &data];
            stream.write_all(&parts.concat())
        }
        other => {
            let error = other.err();
            stream.write_all(&SimpleReply { error, cookie }.encode())
        }
    }
}

impl FakeServer {
    /// Another connection than any that is open becomes the writer.
    pub(crate) fn supersede(&self) {
        self.state().writer = 0;
    }

    /// Begins a later epoch: connections of earlier ones cannot write any more.
    pub(crate) fn begin_epoch(&self, epoch: u64) {
        let mut state = self.state();
        state.epoch = epoch;
        state.writer = 0;
    }
}
