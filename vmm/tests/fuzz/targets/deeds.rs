//! What the guest does next, and what happens to it.

use ftvm_vmm::cpu::Exit;
use ftvm_vmm::devices::virtio::net::frame::Frame;

use super::Target;
use super::drivers::{DISK, NET, RINGS};
use super::guest::{Guest, IDT, Next};

const EOI_WORD: u64 = 0x1_c000;
const STACK: u64 = 0x1_2000;
const RSP: usize = 6;

impl Guest {
    /// What every guest can do, and what happens to it.
    fn common(&mut self) {
        match self.input.below(24) {
            0..=2 => {
                let nanos = self.input.number();
                self.world.borrow_mut().pass(nanos);
            }
            3 | 4 => self.world.borrow_mut().pass(250_000),
            5 | 6 => self.interrupts_on = true,
            7 => self.interrupts_on = false,
            8 => {
                self.next.push_back(Next::Other(Exit::Halt {
                    interruptible: self.input.chance(8),
                }));
            }
            9 => {
                let class = self.input.byte() & 0xf;
                if class < std::mem::replace(&mut self.task_priority, class) {
                    self.next.push_back(Next::Other(Exit::TaskPriority));
                }
            }
            10 => {
                let frame = self.frame();
                self.world.borrow_mut().frames.push_back(frame);
            }
            11 => {
                let flood = self.input.chance(2).then(|| self.frame());
                self.world.borrow_mut().flood = flood;
            }
            12 | 13 => {
                let typed = vec![self.input.byte(); 1 + usize::from(self.input.byte()) * 4];
                self.world.borrow_mut().typed.push_back(typed);
            }
            14..=16 => {
                let (which, outcome) = (self.input.byte(), self.input.byte());
                self.world.borrow_mut().serve(which, outcome);
            }
            17 => {
                let stops = self.input.chance(2);
                self.world.borrow_mut().stops = stops;
                self.next.push_back(Next::Other(Exit::Kicked));
            }
            18 => self.store(EOI_WORD, &[0; 4]),
            19 => {
                let (at, value) = (self.input.address(), self.input.number());
                self.store(at, &value.to_le_bytes());
            }
            20 => {
                let port = self.input.word() as u16;
                self.access(port);
            }
            21 => {
                // An end of interrupt at every controller.
                for port in [0x20, 0xa0] {
                    self.write(port, 1, 0x20);
                }
                let (index, write) = (0x80b, Some(0));
                self.next.push_back(Next::Other(Exit::Msr { index, write }));
            }
            22 => self.start_pic(),
            _ => {
                let index = self
                    .input
                    .pick(&[0x10, 0x1b, 0x4b56_4d00, 0x4b56_4d01, 0x4b56_4d04]);
                let write = self.input.chance(4).then(|| self.input.address());
                self.next.push_back(Next::Other(Exit::Msr { index, write }));
            }
        }
    }

    fn frame(&mut self) -> Frame {
        let len = self.input.len() as usize % 70_000;
        let mut frame = Frame::from(vec![self.input.byte(); len]);
        if self.input.chance(2) {
            frame.header = [1, 1, 54, 0, 0xb4, 0x05, 34, 0, 16, 0];
        }
        frame
    }

    fn start_pic(&mut self) {
        for (port, vector) in [(0x20, 0x30), (0xa0, 0x38)] {
            self.write(port, 1, 0x11);
            for word in [vector, 4, 1, 0] {
                self.write(port + 1, 1, word);
            }
        }
    }

    fn apic(&mut self) {
        match self.input.below(8) {
            0 => {
                // As a kernel does it.
                let (mode, count) = (self.input.below(4), self.input.number());
                let vector = u64::from(self.input.byte());
                for (index, value) in [
                    (0x80f, 0x1ff),
                    (0x4b56_4d04, EOI_WORD | 1),
                    (0x83e, u64::from(self.input.byte())),
                    (0x832, u64::from(mode) << 17 | vector),
                    (0x838, count & 0xffff_ffff),
                ] {
                    let write = Some(value);
                    self.next.push_back(Next::Other(Exit::Msr { index, write }));
                }
            }
            1 | 2 => {
                let index = 0x800 + u32::from(self.input.byte());
                self.msr(index);
            }
            3..=5 => {
                let index = self.input.pick(&[
                    0x808u32,
                    0x80b,
                    0x80f,
                    0x830,
                    0x832,
                    0x835,
                    0x838,
                    0x839,
                    0x83e,
                    0x83f,
                    0x4b56_4d04,
                ]);
                self.msr(index);
            }
            6 => {
                let (index, write) = (0x83f, Some(self.input.byte().into()));
                self.next.push_back(Next::Other(Exit::Msr { index, write }));
            }
            _ => {
                let bit = u8::from(self.input.chance(2));
                self.store(EOI_WORD, &[bit, 0, 0, 0]);
            }
        }
    }

    fn pit(&mut self) {
        match self.input.below(6) {
            0 | 1 => {
                let (channel, mode) = (self.input.below(3), self.input.below(8));
                let count = self.input.number() as u32;
                let control = channel << 6 | 0x30 | mode << 1;
                self.write(0x43, 1, control.into());
                self.write(0x40 + channel, 1, count & 0xff);
                self.write(0x40 + channel, 1, count >> 8 & 0xff);
            }
            2 | 3 => {
                let port = self.input.pick(&[0x40u16, 0x41, 0x42, 0x43, 0x61]);
                self.access(port);
            }
            _ => {
                let port = self
                    .input
                    .pick(&[0x20u16, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x608]);
                self.access(port);
            }
        }
    }

    fn uart(&mut self) {
        let port = 0x3f8 + self.input.below(8);
        self.access(port);
    }

    fn traps(&mut self) {
        match self.input.below(8) {
            0 => self.maps_all = !self.maps_all,
            1 => self.idt = self.input.address(),
            2 => {
                let (register, value) = (self.input.below(16), self.input.address());
                self.registers.gpr[usize::from(register)] = value;
            }
            3 => {
                // A gate of the #GP handler, and its first bytes.
                let handler = self.input.address();
                let low = handler & 0xffff | 0x8e10 << 32 | (handler >> 16 & 0xffff) << 48;
                self.store(IDT + 16 * 13, &low.to_le_bytes());
                self.store(IDT + 16 * 13 + 8, &(handler >> 32).to_le_bytes());
                let code = self
                    .input
                    .pick(&[[0xf3u8, 0x0f, 0x1e, 0xfa], [0x90; 4], [0x66; 4]]);
                self.store(handler, &code);
            }
            4 => {
                // A fault's frame.
                self.registers.gpr[RSP] = STACK;
                let rip = self.input.address();
                let cs = self.input.pick(&[0x33u64, 0x10]);
                for (n, word) in (0..).zip([0, rip, cs, 0x202, STACK, 0x2b]) {
                    self.store(STACK + 8 * n, &u64::to_le_bytes(word));
                }
                let code = self
                    .input
                    .pick(&[[0x0f, 0x31, 0x90], [0x0f, 0x01, 0xf9], [0xcc; 3]]);
                self.store(rip, &code);
            }
            5 | 6 => {
                let port = 0xe0 + self.input.below(9);
                self.write(port, 1, 0);
            }
            _ => {
                let port = 0xe0 + self.input.below(12);
                self.access(port);
            }
        }
    }

    pub(super) fn decide(&mut self) {
        if self.input.below(4) == 0 {
            return self.common();
        }
        match self.target {
            Target::Pci => self.pci(),
            Target::Net if self.input.chance(16) => self.rings(NET, &RINGS[..2]),
            Target::Blk if self.input.chance(16) => self.rings(DISK, &RINGS[2..]),
            Target::Net | Target::Blk => self.pci(),
            Target::Apic => self.apic(),
            Target::Pit => self.pit(),
            Target::Uart => self.uart(),
            Target::Traps => self.traps(),
        }
    }
}
