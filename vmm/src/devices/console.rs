//! The console: a 16550 at port 0x3f8, line 4 (`ttyS0`).

use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use vm_superio::serial::{NoEvents, SerialState};
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

/// [`SerialState`] for serde.
#[derive(Serialize, Deserialize)]
#[serde(remote = "SerialState")]
struct Uart {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
}

/// What the console's future depends on.
#[derive(Serialize, Deserialize)]
pub(super) struct ConsoleState {
    #[serde(with = "Uart")]
    uart: SerialState,
    /// Printed and not yet handed on.
    output: Vec<u8>,
    /// Typed and not yet in the UART.
    input: VecDeque<u8>,
    /// An edge that was not taken yet.
    edge: bool,
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
    /// Its state, for [`Console::from_state`].
    pub(super) fn state(&self) -> ConsoleState {
        ConsoleState {
            uart: self.serial.state(),
            output: self.serial.writer().clone(),
            input: self.input.clone(),
            edge: self.line.0.get(),
        }
    }

    /// A console in a saved state; an error says why no console can be in it.
    pub(super) fn from_state(state: ConsoleState) -> Result<Self, &'static str> {
        if state.output.len() > FLUSH_BYTES {
            return Err("more output waits than is ever held back");
        }
        let line = Line::default();
        let serial = Serial::from_state(&state.uart, line.clone(), NoEvents, state.output)
            .map_err(|_| "the UART's buffer holds more than it can")?;
        // Serial::from_state() raises the line for whatever is pending. The guest has had that
        // edge before the state was saved.
        line.0.set(state.edge);
        Ok(Self {
            serial,
            line,
            input: state.input,
        })
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 0;
    const INTERRUPT_ENABLE: u8 = 1;
    const INTERRUPT_ID: u8 = 2;
    const LINE_CONTROL: u8 = 3;
    const LINE_STATUS: u8 = 5;
    const SCRATCH: u8 = 7;
    const DATA_READY: u8 = 1;
    const RECEIVED: u8 = 1;

    fn print(console: &mut Console, text: &[u8]) {
        for byte in text {
            console.write(DATA, *byte);
        }
    }

    #[test]
    fn output_is_cut_by_rules_of_the_guest_alone() {
        let mut console = Console::default();
        print(&mut console, b"login: ");
        assert_eq!(console.take_output(false), None);
        assert_eq!(console.take_output(true).as_deref(), Some(&b"login: "[..]));
        assert_eq!(console.take_output(true), None, "nothing twice");
        print(&mut console, b"line\n");
        assert_eq!(console.take_output(false).as_deref(), Some(&b"line\n"[..]));
        print(&mut console, &[b'x'; FLUSH_BYTES - 1]);
        assert_eq!(console.take_output(false), None);
        print(&mut console, b"x");
        let full = console.take_output(false).expect("flushed when full");
        assert_eq!(full.len(), FLUSH_BYTES);
    }

    #[test]
    fn typed_bytes_arrive_in_order_however_many() {
        let mut console = Console::default();
        console.write(INTERRUPT_ENABLE, RECEIVED);
        console.take_interrupt();
        let text: Vec<u8> = (0..1000).map(|n| n as u8).collect();
        console.typed(&text);
        assert!(console.take_interrupt());
        assert!(!console.take_interrupt(), "an edge is taken once");
        let mut read = Vec::new();
        while console.read(LINE_STATUS) & DATA_READY != 0 {
            read.push(console.read(DATA));
        }
        assert_eq!(read, text);
    }

    /// A driver that reads one byte an interrupt must not be left waiting with bytes behind it.
    #[test]
    fn bytes_behind_a_full_fifo_raise_the_line_again() {
        let mut console = Console::default();
        console.write(INTERRUPT_ENABLE, RECEIVED);
        console.typed(&[7; 200]);
        console.take_interrupt();
        for _ in 0..64 {
            assert_eq!(console.read(DATA), 7);
        }
        assert!(console.take_interrupt());
        assert_ne!(console.read(LINE_STATUS) & DATA_READY, 0);
    }

    #[test]
    fn no_interrupt_that_was_not_enabled() {
        let mut console = Console::default();
        console.typed(b"x");
        print(&mut console, b"y");
        assert!(!console.take_interrupt());
        assert_eq!(console.read(INTERRUPT_ID) & 1, 1, "none pending");
    }

    #[test]
    fn input_is_bounded() {
        let mut console = Console::default();
        while console.has_room() {
            console.typed(&[0; 1000]);
        }
        assert!(console.input.len() < INPUT_BACKLOG + 1000);
    }

    #[test]
    fn registers_of_a_16550_are_there() {
        let mut console = Console::default();
        console.write(SCRATCH, 0xa5);
        assert_eq!(console.read(SCRATCH), 0xa5);
        console.write(LINE_CONTROL, 0x83); // divisor latch
        console.write(DATA, 1);
        console.write(INTERRUPT_ENABLE, 0);
        assert_eq!(console.read(DATA), 1);
        console.write(LINE_CONTROL, 0x03);
        assert_eq!(console.take_output(true), None, "a divisor is no output");
        assert_eq!(
            console.read(LINE_STATUS) & 0x60,
            0x60,
            "always ready to send"
        );
    }
}
