//! GDB's remote serial protocol, on a thread of its own.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use gdbstub::common::Signal;
use gdbstub::conn::ConnectionExt;
use gdbstub::stub::run_blocking::{BlockingEventLoop, Event, WaitForStopReasonError};
use gdbstub::stub::{DisconnectReason, GdbStub, SingleThreadStopReason};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadResume, SingleThreadResumeOps, SingleThreadSingleStep,
    SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, SwBreakpoint, SwBreakpointOps,
};
use gdbstub::target::{Target, TargetError, TargetResult};
use gdbstub_arch::x86::X86_64_SSE;
use gdbstub_arch::x86::reg::X86_64CoreRegs;

use super::request::{Request, Snapshot, Stopped};

/// How often the connection is looked at while the guest runs: an interrupt waits this long.
const LOOK: Duration = Duration::from_millis(20);

/// The guest's end of the connection to the debugger's thread.
pub(super) struct Link {
    pub(super) requests: Receiver<Request>,
    stops: Option<Sender<Stopped>>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// Tells the debugger that the guest stopped.
    pub(super) fn report(&self, stop: Stopped) {
        if let Some(stops) = &self.stops {
            // If it is gone, its last request says so.
            let _ = stops.send(stop);
        }
    }
}

impl Drop for Link {
    /// Waits until the debugger has been told of the guest's end.
    fn drop(&mut self) {
        // In this order: a thread that waits for a stop, or for a reply, ends then.
        self.stops = None;
        self.requests = crossbeam_channel::never();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for a debugger, on another thread.
pub(super) fn listen(address: SocketAddr) -> io::Result<Link> {
    let listener = TcpListener::bind(address)?;
    log::info!(
        "waiting for a debugger: gdb -ex 'target remote {}'",
        listener.local_addr()?
    );
    let (request, requests) = unbounded();
    let (stop, stops) = unbounded();
    let mut guest = RemoteGuest {
        requests: request,
        stops,
    };
    let thread = thread::Builder::new()
        .name("gdb".into())
        .spawn(move || guest.serve(&listener))?;
    Ok(Link {
        requests,
        stops: Some(stop),
        thread: Some(thread),
    })
}

/// The guest, as the debugger's thread sees it.
struct RemoteGuest {
    requests: Sender<Request>,
    stops: Receiver<Stopped>,
}

impl RemoteGuest {
    fn serve(&mut self, listener: &TcpListener) {
        let last = match listener.accept() {
            Ok((stream, peer)) => {
                log::info!("a debugger connected from {peer}");
                match GdbStub::new(stream).run_blocking::<EventLoop>(self) {
                    Ok(DisconnectReason::Kill) => Request::Kill,
                    Ok(_) => Request::Detach,
                    Err(error) => {
                        log::warn!("the debugger's connection failed: {error}");
                        Request::Detach
                    }
                }
            }
            Err(error) => {
                log::warn!("no debugger can connect: {error}");
                Request::Detach
            }
        };
        // If the guest has ended, nobody waits for it.
        drop(self.requests.send(last));
    }

    /// Asks the guest's thread. `None` when the guest is gone.
    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = bounded(1);
        self.requests.send(request(reply)).ok()?;
        answer.recv().ok()
    }

    fn tell(&self, request: Request) {
        // If the guest has ended, the stop that follows says so.
        drop(self.requests.send(request));
    }
}

/// GDB's order of the general registers is not that of [`logging_channel`].
fn core(snapshot: &Snapshot) -> X86_64CoreRegs {
    let Snapshot {
        general,
        system,
        float,
    } = snapshot;
    let mut regs = general.gpr;
    regs.swap(6, 7); // RSP and RBP
    let mut core = X86_64CoreRegs {
        regs,
        eflags: general.rflags as u32,
        rip: general.rip,
        st: float.st,
        xmm: float.xmm,
        mxcsr: float.mxcsr,
        ..X86_64CoreRegs::default()
    };
    let selector = |segment: crate::cpu::debug::Segment| u32::from(segment.selector);
    core.segments.cs = selector(system.cs);
    core.segments.ss = selector(system.ss);
    core.segments.ds = selector(system.ds);
    core.segments.es = selector(system.es);
    core.segments.fs = selector(system.fs);
    core.segments.gs = selector(system.gs);
    core.fpu.fctrl = float.control.into();
    core.fpu.fstat = float.status.into();
    // Two bits a register; 3 means empty.
    let tag = |n: u32| if float.used >> n & 1 == 0 { 3 } else { 0 };
    core.fpu.ftag = (0..8).map(|n| tag(n) << (2 * n)).sum();
    core
}

impl Target for RemoteGuest {
    type Arch = X86_64_SSE;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::SingleThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadBase for RemoteGuest {
    fn read_registers(&mut self, registers: &mut X86_64CoreRegs) -> TargetResult<(), Self> {
        let snapshot = self.ask(Request::Registers).ok_or(TargetError::NonFatal)?;
        *registers = core(&snapshot);
        Ok(())
    }

    /// Refused: a replay must not be changed.
    fn write_registers(&mut self, _: &X86_64CoreRegs) -> TargetResult<(), Self> {
        Err(TargetError::NonFatal)
    }

    fn read_addrs(&mut self, address: u64, data: &mut [u8]) -> TargetResult<usize, Self> {
        let len = data.len();
        let bytes = self
            .ask(|reply| Request::Memory {
                address,
                len,
                reply,
            })
            .filter(|bytes| !bytes.is_empty())
            .ok_or(TargetError::NonFatal)?;
        data[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    /// Refused: a replay must not be changed.
    fn write_addrs(&mut self, _: u64, _: &[u8]) -> TargetResult<(), Self> {
        Err(TargetError::NonFatal)
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadResume for RemoteGuest {
    /// Signals mean nothing to a machine.
    fn resume(&mut self, _: Option<Signal>) -> Result<(), Infallible> {
        self.tell(Request::Continue);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadSingleStep for RemoteGuest {
    fn step(&mut self, _: Option<Signal>) -> Result<(), Infallible> {
        self.tell(Request::Step);
        Ok(())
    }
}

impl Breakpoints for RemoteGuest {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }
}

impl RemoteGuest {
    fn breakpoint(&self, address: u64, set: bool) -> bool {
        let request = |reply| Request::Breakpoint {
            address,
            set,
            reply,
        };
        self.ask(request).unwrap_or(false)
    }
}

impl SwBreakpoint for RemoteGuest {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.breakpoint(address, true))
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.breakpoint(address, false))
    }
}

enum EventLoop {}

impl BlockingEventLoop for EventLoop {
    type Target = RemoteGuest;
    type Connection = TcpStream;
    type StopReason = SingleThreadStopReason<u64>;

    fn wait_for_stop_reason(
        guest: &mut RemoteGuest,
        connection: &mut TcpStream,
    ) -> Result<Event<Self::StopReason>, WaitForStopReasonError<Infallible, io::Error>> {
        loop {
            let stopped = match guest.stops.recv_timeout(LOOK) {
                Ok(Stopped::Step) => SingleThreadStopReason::DoneStep,
                Ok(Stopped::Breakpoint) => SingleThreadStopReason::SwBreak(()),
                Ok(Stopped::Interrupted) => SingleThreadStopReason::Signal(Signal::SIGINT),
                Err(RecvTimeoutError::Disconnected) => SingleThreadStopReason::Exited(0),
                Err(RecvTimeoutError::Timeout) => {
                    let failed = WaitForStopReasonError::Connection;
                    if connection.peek().map_err(failed)?.is_some() {
                        let byte = ConnectionExt::read(connection);
                        return byte
                            .map(Event::IncomingData)
                            .map_err(WaitForStopReasonError::Connection);
                    }
                    continue;
                }
            };
            return Ok(Event::TargetStopped(stopped));
        }
    }

    fn on_interrupt(guest: &mut RemoteGuest) -> Result<Option<Self::StopReason>, Infallible> {
        guest.tell(Request::Interrupt);
        Ok(None)
    }
}
