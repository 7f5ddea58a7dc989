//! The pair of 8259A interrupt controllers (Intel 8259A data sheet, 231468-003).
//!
//! Master at ports 0x20/0x21 (lines 0–7), slave at 0xa0/0xa1 (lines 8–15) on the master's line 2,
//! edge/level control at 0x4d0/0x4d1.

use serde::{Deserialize, Serialize};

/// Line of the slave on the master.
const CASCADE: u8 = 2;
/// Lines that can be level triggered: all but 0, 1, 2, 8 and 13.
const MASTER_LEVEL: u8 = 0xf8;
const SLAVE_LEVEL: u8 = 0xde;

/// One 8259A.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Chip {
    /// Interrupt request register.
    irr: u8,
    /// Interrupt mask register.
    imr: u8,
    /// In-service register.
    isr: u8,
    /// Levels of the lines, for edge detection.
    lines: u8,
    /// Lines that are level triggered.
    elcr: u8,
    /// Which line has the highest priority now (rotation).
    first: u8,
    vector_base: u8,
    /// Next initialisation word expected, 0 when initialised.
    init_step: u8,
    expects_icw4: bool,
    read_isr: bool,
    poll: bool,
    special_mask: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
}

impl Chip {
    /// Rank of the highest-priority line in `set`, 0 being the highest; 8 for none.
    fn rank(&self, set: u8) -> u8 {
        if set == 0 {
            8
        } else {
            set.rotate_right(u32::from(self.first)).trailing_zeros() as u8
        }
    }

    fn line_of(&self, rank: u8) -> u8 {
        (rank + self.first) & 7
    }

    /// The line to be served next, if any outranks those in service.
    fn pending(&self, is_master: bool) -> Option<u8> {
        let requested = self.rank(self.irr & !self.imr);
        if requested == 8 {
            return None;
        }
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        if self.special_fully_nested && is_master {
            // The slave may interrupt its own service routine.
            in_service &= !(1 << CASCADE);
        }
        (requested < self.rank(in_service)).then(|| self.line_of(requested))
    }

    fn set_line(&mut self, line: u8, level: bool) {
        let bit = 1 << line;
        if self.elcr & bit != 0 {
            if level {
                self.irr |= bit
            } else {
                self.irr &= !bit
            }
        } else if !level {
            // An edge that was not served stays requested (the data sheet wants IR high until
            // INTA, and calls the other case a spurious interrupt; Linux never needs that).
        } else if self.lines & bit == 0 {
            self.irr |= bit;
        }
        if level {
            self.lines |= bit
        } else {
            self.lines &= !bit
        }
    }

    fn acknowledge(&mut self, line: u8) {
        let bit = 1 << line;
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.first = (line + 1) & 7;
            }
        } else {
            self.isr |= bit;
        }
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            // ICW1
            *self = Chip {
                elcr: self.elcr,
                lines: self.lines,
                ..Chip::default()
            };
            self.init_step = 2;
            self.expects_icw4 = value & 1 != 0;
        } else if value & 0x08 != 0 {
            // OCW3
            self.poll = value & 4 != 0;
            if value & 2 != 0 {
                self.read_isr = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.write_ocw2(value);
        }
    }

    fn write_ocw2(&mut self, value: u8) {
        let line = value & 7;
        match value >> 5 {
            0 | 4 => self.rotate_on_auto_eoi = value >> 7 != 0,
            op @ (1 | 5) => {
                let rank = self.rank(self.isr);
                if rank != 8 {
                    let served = self.line_of(rank);
                    self.isr &= !(1 << served);
                    if op == 5 {
                        self.first = (served + 1) & 7;
                    }
                }
            }
            3 => self.isr &= !(1 << line),
            6 => self.first = (line + 1) & 7,
            7 => {
                self.isr &= !(1 << line);
                self.first = (line + 1) & 7;
            }
            _ => {} // 2: no operation
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.init_step {
            2 => {
                self.vector_base = value & 0xf8;
                self.init_step = 3;
            }
            3 => self.init_step = if self.expects_icw4 { 4 } else { 0 },
            4 => {
                self.special_fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 2 != 0;
                self.init_step = 0;
            }
            _ => self.imr = value,
        }
    }

    fn read_command(&mut self, is_master: bool) -> u8 {
        if self.poll {
            self.poll = false;
            return match self.pending(is_master) {
                Some(line) => {
                    self.acknowledge(line);
                    0x80 | line
                }
                None => 0,
            };
        }
        if self.read_isr { self.isr } else { self.irr }
    }
}

/// The 8259A pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pic {
    master: Chip,
    slave: Chip,
}

impl Pic {
    /// A pair in which `level_triggered` (bit per line) lines are level triggered, as firmware
    /// sets them up for PCI.
    #[must_use]
    pub fn new(level_triggered: u16) -> Self {
        let [low, high] = level_triggered.to_le_bytes();
        Self {
            master: Chip {
                elcr: low,
                ..Chip::default()
            },
            slave: Chip {
                elcr: high,
                ..Chip::default()
            },
        }
    }

    /// Whether a guest could have brought the pair into this state; if not, what is wrong.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        for chip in [&self.master, &self.slave] {
            if chip.first > 7 {
                return Err("a line above 7 has the highest priority");
            }
            if chip.vector_base & 7 != 0 {
                return Err("the first vector is no multiple of 8");
            }
            if !matches!(chip.init_step, 0 | 2..=4) {
                return Err("no such initialisation word");
            }
        }
        if self.master.elcr & !MASTER_LEVEL != 0 || self.slave.elcr & !SLAVE_LEVEL != 0 {
            return Err("a line is level triggered that cannot be");
        }
        Ok(())
    }

    /// Sets the level of an input line, 0 to 15.
    pub fn set_line(&mut self, line: u8, level: bool) {
        if line < 8 {
            self.master.set_line(line, level);
        } else {
            self.slave.set_line(line - 8, level);
            self.cascade();
        }
    }

    /// One short pulse on an edge-triggered line.
    pub fn pulse(&mut self, line: u8) {
        self.set_line(line, false);
        self.set_line(line, true);
    }

    fn cascade(&mut self) {
        let wanted = self.slave.pending(false).is_some();
        // The slave drops and raises its output between interrupts, which the master sees as a
        // fresh edge.
        self.master.set_line(CASCADE, false);
        if wanted {
            self.master.set_line(CASCADE, true);
        } else {
            self.master.irr &= !(1 << CASCADE);
        }
    }

    /// Whether the line is requested and not yet acknowledged.
    #[must_use]
    pub fn is_requested(&self, line: u8) -> bool {
        match line {
            0..8 => self.master.irr & 1 << line != 0,
            _ => self.slave.irr & 1 << (line - 8) != 0,
        }
    }

    /// Whether the processor's INTR input is asserted.
    #[must_use]
    pub fn interrupt_pending(&self) -> bool {
        self.master.pending(true).is_some()
    }

    /// The interrupt acknowledge cycle: the vector, and the line that was served.
    pub fn acknowledge(&mut self) -> (u8, u8) {
        let Some(line) = self.master.pending(true) else {
            return (self.master.vector_base + 7, 7); // spurious
        };
        self.master.acknowledge(line);
        if line != CASCADE {
            return (self.master.vector_base + line, line);
        }
        let served = match self.slave.pending(false) {
            Some(line) => {
                self.slave.acknowledge(line);
                line
            }
            None => 7, // spurious
        };
        self.cascade();
        (self.slave.vector_base + served, served + 8)
    }

    /// Reads a port of the pair.
    pub fn read(&mut self, port: u16) -> u8 {
        match port {
            0x20 => self.master.read_command(true),
            0xa0 => {
                let value = self.slave.read_command(false);
                self.cascade();
                value
            }
            0x21 => self.master.imr,
            0xa1 => self.slave.imr,
            0x4d0 => self.master.elcr,
            0x4d1 => self.slave.elcr,
            _ => 0xff,
        }
    }

    /// Writes a port of the pair.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.master.write_command(value),
            0x21 => self.master.write_data(value),
            0xa0 => self.slave.write_command(value),
            0xa1 => self.slave.write_data(value),
            0x4d0 => self.master.elcr = value & MASTER_LEVEL,
            0x4d1 => self.slave.elcr = value & SLAVE_LEVEL,
            _ => {}
        }
        self.cascade();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initialised() -> Pic {
        let mut pic = Pic::new(1 << 5 | 1 << 11);
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 0x04),
            (0x21, 0x01),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 0x02),
            (0xa1, 0x01),
            (0x21, 0x00),
            (0xa1, 0x00),
        ] {
            pic.write(port, value);
        }
        pic
    }

    #[test]
    fn serves_by_priority_and_nests() {
        let mut pic = initialised();
        pic.pulse(4);
        pic.pulse(0);
        assert_eq!(pic.acknowledge(), (0x30, 0));
        assert!(
            !pic.interrupt_pending(),
            "line 4 waits for line 0's service"
        );
        pic.write(0x20, 0x60); // specific EOI of line 0
        assert_eq!(pic.acknowledge(), (0x34, 4));
        pic.pulse(0);
        assert_eq!(
            pic.acknowledge(),
            (0x30, 0),
            "a higher priority interrupts the service"
        );
    }

    #[test]
    fn masked_edge_is_kept_until_unmasked() {
        let mut pic = initialised();
        pic.write(0x21, 0x01);
        pic.pulse(0);
        assert!(!pic.interrupt_pending());
        pic.write(0x21, 0x00);
        assert_eq!(pic.acknowledge(), (0x30, 0));
    }

    #[test]
    fn level_line_repeats_until_lowered() {
        let mut pic = initialised();
        pic.set_line(5, true);
        assert_eq!(pic.acknowledge(), (0x35, 5));
        pic.write(0x20, 0x65);
        assert!(pic.interrupt_pending(), "still asserted");
        pic.set_line(5, false);
        assert!(!pic.interrupt_pending());
    }

    #[test]
    fn slave_lines_come_through_the_cascade() {
        let mut pic = initialised();
        pic.set_line(11, true);
        pic.pulse(8);
        assert_eq!(pic.acknowledge(), (0x38, 8));
        pic.write(0xa0, 0x60);
        pic.write(0x20, 0x62);
        assert_eq!(pic.acknowledge(), (0x3b, 11));
        pic.set_line(11, false);
        pic.write(0xa0, 0x63);
        pic.write(0x20, 0x62);
        assert!(!pic.interrupt_pending());
    }

    #[test]
    fn poll_mode_acknowledges() {
        let mut pic = initialised();
        pic.pulse(3);
        pic.write(0x20, 0x0c);
        assert_eq!(pic.read(0x20), 0x83);
        assert!(!pic.interrupt_pending());
    }
}
