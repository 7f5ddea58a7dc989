//! The console: a 16550 at port 0x3f8, line 4 (`ttyS0`).

use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

/// First port.
pub const PORT: u16 = 0x3f8;
/// Interrupt line.
pub const LINE: u8 = 4;
/// Output is handed on at a line's end, at this many bytes, or when the guest halts: rules that
/// depend on the guest only, so that both hosts cut it at the same places.
const FLUSH_BYTES: usize = 256;
/// Input bytes the device holds for a guest that does not read.
const INPUT_BACKLOG: usize = 4096;

/// The interrupt line, shared with the serial device that raises it.
#[derive(Clone, Default)]
struct Line(Rc<Cell<bool>>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.set(true);
        Ok(())
    }
}

/// The console.
pub struct Console {
    serial: Serial<Line, NoEvents, Vec<u8>>,
    line: Line,
    input: VecDeque<u8>,
}

impl Default for Console {
    fn default() -> Self {
        let line = Line::default();
        Self {
            serial: Serial::new(line.clone(), Vec::new()),
            line,
            input: VecDeque::new(),
        }
    }
}

impl Console {
    /// Reads register `offset`.
    pub fn read(&mut self, offset: u8) -> u8 {
        let value = self.serial.read(offset);
        self.feed();
        value
    }

    /// Writes register `offset`.
    pub fn write(&mut self, offset: u8, value: u8) {
        if let Err(e) = self.serial.write(offset, value) {
            log::debug!("console: {e:?}");
        }
    }

    /// Takes the edge of the interrupt line, if one came since the last call.
    pub fn take_interrupt(&mut self) -> bool {
        self.line.0.take()
    }

    /// Whether typed bytes would be kept.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.input.len() < INPUT_BACKLOG
    }

    /// Bytes were typed.
    pub fn typed(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
        self.feed();
    }

    fn feed(&mut self) {
        let room = self.serial.fifo_capacity().min(self.input.len());
        if room > 0 {
            let bytes: Vec<u8> = self.input.drain(..room).collect();
            if let Err(e) = self.serial.enqueue_raw_bytes(&bytes) {
                log::debug!("console: {e:?}");
            }
        }
    }

    /// Takes the output, if it is to be handed on now. `idle` when the guest has halted.
    pub fn take_output(&mut self, idle: bool) -> Option<Vec<u8>> {
        let waiting = self.serial.writer_mut();
        let due = !waiting.is_empty()
            && (idle || waiting.len() >= FLUSH_BYTES || waiting.ends_with(b"\n"));
        due.then(|| std::mem::take(waiting))
    }
}
