//! The local APIC, in x2APIC mode only (Intel SDM volume 3, chapter 11).
//!
//! Firmware would have switched it on before the kernel starts, so the registers are model
//! specific ones from the beginning: an access is one exit of a kind that needs no instruction
//! emulated. There is one processor and no I/O APIC: interrupts come from the timer, as messages
//! of PCI functions, from the processor itself, and from the 8259 pair through LINT0 ("virtual
//! wire mode").
//!
//! An interrupt's end costs an exit, unless the kernel knows KVM's paravirtual one
//! (Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_PV_EOI_EN): a bit in guest memory says that
//! nobody needs to know, and the kernel then clears the bit in place of writing to the register.
//! The bit is set when an interrupt is delivered, and looked at at exits: both at the same
//! instruction in every run. KVM does not set it where another interrupt waits. Here it is set all
//! the same, because the exit where that one can be delivered comes anyway: when the processor can
//! be interrupted again. Should the bit still be set then, it is taken back.

#[cfg(test)]
mod tests;
mod timer;
mod vectors;

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use self::timer::{Mode, Timer};
use self::vectors::Vectors;
use crate::ram::GuestRam;

/// IA32_APIC_BASE.
pub const BASE: u32 = 0x1b;
/// Its value: at the usual address, enabled in x2APIC mode, of the bootstrap processor.
pub const BASE_VALUE: u64 = 0xfee0_0000 | 1 << 11 | 1 << 10 | 1 << 8;
/// MSR_KVM_PV_EOI_EN.
pub const PARAVIRTUAL_EOI: u32 = 0x4b56_4d04;

/// Registers, as MSR numbers (SDM table 11-6).
const REGISTERS: std::ops::RangeInclusive<u32> = 0x800..=0x8ff;
const ID: u32 = 0x802;
const VERSION: u32 = 0x803;
const TASK_PRIORITY: u32 = 0x808;
const PROCESSOR_PRIORITY: u32 = 0x80a;
const END_OF_INTERRUPT: u32 = 0x80b;
const LOGICAL_DESTINATION: u32 = 0x80d;
const SPURIOUS: u32 = 0x80f;
const IN_SERVICE: u32 = 0x810;
const TRIGGER_MODE: u32 = 0x818;
const REQUESTS: u32 = 0x820;
const ERROR_STATUS: u32 = 0x828;
const LVT_CMCI: u32 = 0x82f;
const COMMAND: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;
const LVT_LINT0: u32 = 0x835;
const LVT_ERROR: u32 = 0x837;
const INITIAL_COUNT: u32 = 0x838;
const CURRENT_COUNT: u32 = 0x839;
const DIVIDE: u32 = 0x83e;
const SELF_IPI: u32 = 0x83f;

/// An integrated APIC with entries up to LVT_ERROR.
const VERSION_VALUE: u64 = 0x14 | 5 << 16;
/// Logical destination of the processor with id 0: cluster 0, first in it.
const LOGICAL_ID: u32 = 1;
const SOFTWARE_ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const DELIVERY_MODE: u32 = 0b111 << 8;
const EXTERNAL: u32 = 0b111 << 8;
const PV_EOI_ENABLE: u64 = 1;
const PV_EOI_RESERVED: u64 = 0b10;

/// Which bits of an entry of the local vector table can be written.
const fn lvt_bits(register: u32) -> u32 {
    match register {
        LVT_TIMER => 0xff | MASKED | 0b11 << 17,
        LVT_LINT0 | 0x836 => 0xff | DELIVERY_MODE | 1 << 13 | 1 << 15 | MASKED,
        LVT_ERROR => 0xff | MASKED,
        _ => 0xff | DELIVERY_MODE | MASKED,
    }
}

/// A message-signalled interrupt: what a PCI function writes, and where (SDM section 11.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Address.
    pub address: u64,
    /// Data.
    pub data: u32,
}

/// The local APIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apic {
    task_priority: u8,
    spurious: u32,
    requested: Vectors,
    in_service: Vectors,
    /// The local vector table: timer, thermal sensor, performance counters, LINT0, LINT1, error.
    lvt: [u32; 6],
    timer: Timer,
    /// Interrupt command register.
    command: u64,
    /// What the guest wrote to [`PARAVIRTUAL_EOI`].
    paravirtual_eoi: u64,
    /// The bit in guest memory was set for the interrupt in service of the highest priority.
    eoi_offered: bool,
}

impl Default for Apic {
    /// As firmware leaves it for a kernel: disabled by software, the 8259 pair on LINT0.
    fn default() -> Self {
        let mut lvt = [MASKED; 6];
        lvt[(LVT_LINT0 - LVT_TIMER) as usize] = EXTERNAL;
        Self {
            task_priority: 0,
            spurious: 0xff,
            requested: Vectors::default(),
            in_service: Vectors::default(),
            lvt,
            timer: Timer::default(),
            command: 0,
            paravirtual_eoi: 0,
            eoi_offered: false,
        }
    }
}

impl Apic {
    /// Whether a model specific register is one of the APIC's.
    #[must_use]
    pub fn owns(index: u32) -> bool {
        REGISTERS.contains(&index) || matches!(index, BASE | PARAVIRTUAL_EOI)
    }

    /// Whether an access to a model specific register needs the guest's time.
    #[must_use]
    pub fn needs_time(index: u32, write: bool) -> bool {
        match index {
            INITIAL_COUNT | DIVIDE => write,
            CURRENT_COUNT => !write,
            _ => false,
        }
    }

    /// Whether a guest with this memory could have brought the APIC into this state; if not, what
    /// is wrong.
    pub(super) fn check(&self, memory: &GuestRam) -> Result<(), &'static str> {
        for (register, entry) in (LVT_TIMER..).zip(self.lvt) {
            if entry & !lvt_bits(register) != 0 {
                return Err("no such bit in the local vector table");
            }
        }
        if self.spurious & !(0xff | SOFTWARE_ENABLE) != 0 {
            return Err("no such bit in the spurious interrupt vector register");
        }
        if !self.requested.are_interrupts() || !self.in_service.are_interrupts() {
            return Err("an exception as interrupt");
        }
        if !self.in_service.are_of_different_classes() {
            return Err("an interrupt was interrupted by one of the same priority");
        }
        if self.paravirtual_eoi & PV_EOI_RESERVED != 0 {
            return Err("no such bit in the register of paravirtual ends of interrupts");
        }
        if self.eoi_offered {
            let enabled = self.paravirtual_eoi & PV_EOI_ENABLE != 0;
            if !enabled || !memory.check_range(self.eoi_address(), size_of::<u32>()) {
                return Err("the end of an interrupt is awaited where there is no place for it");
            }
            if self.in_service.highest().is_none() {
                return Err("the end of an interrupt is awaited, but there is none");
            }
        }
        let entry = self.lvt[0];
        if self.timer.is_due() && !(self.takes_timer() && self.requested.contains(entry as u8)) {
            return Err("an interrupt of the timer waits for nothing");
        }
        self.timer.check(entry)
    }

    /// A read at guest time `now`; `None` is a #GP.
    #[must_use]
    pub fn read(&self, index: u32, now: u64) -> Option<u64> {
        let value = match index {
            BASE => return Some(BASE_VALUE),
            PARAVIRTUAL_EOI => return Some(self.paravirtual_eoi),
            COMMAND => return Some(self.command),
            ID | ERROR_STATUS => 0,
            VERSION => return Some(VERSION_VALUE),
            TASK_PRIORITY => u32::from(self.task_priority),
            PROCESSOR_PRIORITY => u32::from(self.processor_priority()),
            LOGICAL_DESTINATION => LOGICAL_ID,
            SPURIOUS => self.spurious,
            IN_SERVICE..0x818 => self.in_service.word(index - IN_SERVICE),
            TRIGGER_MODE..0x820 => 0, // all are edge triggered
            REQUESTS..0x828 => self.requested.word(index - REQUESTS),
            LVT_CMCI => MASKED,
            LVT_TIMER..=LVT_ERROR => self.lvt[(index - LVT_TIMER) as usize],
            INITIAL_COUNT => self.timer.initial_count(),
            CURRENT_COUNT => self.timer.current_count(now),
            DIVIDE => self.timer.divide(),
            _ => return None,
        };
        Some(u64::from(value))
    }

    /// A write at guest time `now`. Whether the register takes it; otherwise it is a #GP.
    #[must_use]
    pub fn write(&mut self, index: u32, value: u64, now: u64, memory: &GuestRam) -> bool {
        let word = value as u32;
        if value >> 32 != 0 && !matches!(index, COMMAND | PARAVIRTUAL_EOI) {
            return false;
        }
        match index {
            // Nothing can be changed: not the mode, and not the address, which nobody uses.
            BASE => return value == BASE_VALUE,
            PARAVIRTUAL_EOI if value & PV_EOI_RESERVED != 0 => return false,
            PARAVIRTUAL_EOI => self.set_paravirtual_eoi(value, memory),
            TASK_PRIORITY => self.task_priority = word as u8,
            END_OF_INTERRUPT => {
                self.look_for_untold_end(memory);
                // If the guest did not look for the bit: it would be taken for the end of another.
                self.withdraw_eoi(memory);
                self.in_service.remove_highest();
            }
            SPURIOUS => self.spurious = word & (0xff | SOFTWARE_ENABLE),
            ERROR_STATUS | LVT_CMCI => {}
            COMMAND => self.send(value),
            LVT_TIMER..=LVT_ERROR => {
                self.lvt[(index - LVT_TIMER) as usize] = word & lvt_bits(index);
                if index == LVT_TIMER {
                    self.timer.set_mode(Mode::of(word));
                }
            }
            INITIAL_COUNT => self.timer.start(word, now),
            DIVIDE => self.timer.set_divide(word, now),
            SELF_IPI => self.request(word as u8),
            _ => return false,
        }
        self.raise_timer();
        true
    }

    /// The task priority's class, which is CR8 (SDM section 11.8.6).
    #[must_use]
    pub fn task_priority_class(&self) -> u8 {
        self.task_priority >> 4
    }

    /// Changes it as a write to CR8 does.
    pub fn set_task_priority_class(&mut self, class: u8) {
        if class != self.task_priority_class() {
            self.task_priority = class << 4;
        }
    }

    /// Interrupts that the processor sends: there is nobody but itself to take them.
    fn send(&mut self, value: u64) {
        self.command = value;
        let word = value as u32;
        let destination = (value >> 32) as u32;
        let logical = word & 1 << 11 != 0;
        let to_itself = match word >> 18 & 0b11 {
            0 => reaches(destination, logical, u32::MAX),
            1 | 2 => true,
            _ => false,
        };
        if to_itself && is_vectored(word) {
            self.request(word as u8);
        }
    }

    /// A message of a PCI function.
    pub fn deliver(&mut self, message: Message) {
        let address = message.address as u32;
        let is_interrupt = message.address >> 20 == 0xfee;
        let logical = address & 1 << 2 != 0;
        if is_interrupt && reaches(address >> 12 & 0xff, logical, 0xff) && is_vectored(message.data)
        {
            self.request(message.data as u8);
        }
    }

    /// Whether a request of this vector is taken: while enabled by software, and not of 0 to 15,
    /// which are the processor's own exceptions.
    fn takes(&self, vector: u8) -> bool {
        vector >= 16 && self.spurious & SOFTWARE_ENABLE != 0
    }

    fn takes_timer(&self) -> bool {
        let entry = self.lvt[0];
        entry & MASKED == 0 && self.takes(entry as u8)
    }

    fn request(&mut self, vector: u8) {
        if self.takes(vector) {
            self.requested.insert(vector);
        }
    }

    /// Lets guest time pass up to `now`.
    pub fn advance(&mut self, now: u64) {
        self.timer.advance(now);
        self.raise_timer();
    }

    /// Guest time of the timer's next interrupt.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.timer.next_deadline()
    }

    /// Requests the next of the timer's interrupts, if the last one was delivered.
    fn raise_timer(&mut self) {
        let vector = self.lvt[0] as u8;
        if !self.takes_timer() {
            self.timer.forget_due();
        } else if !self.requested.contains(vector) && self.timer.take_due() {
            self.request(vector);
        }
    }

    /// Whether the 8259 pair's interrupts reach the processor.
    #[must_use]
    pub fn takes_external(&self) -> bool {
        let lint0 = self.lvt[(LVT_LINT0 - LVT_TIMER) as usize];
        lint0 & MASKED == 0 && lint0 & DELIVERY_MODE == EXTERNAL
    }

    /// The vector to be delivered next, if the processor's priority lets it through.
    #[must_use]
    pub fn pending(&self, memory: &GuestRam) -> Option<u8> {
        if self.eoi_offered && !self.offer_stands(memory) {
            self.deliverable(self.in_service.below_highest())
        } else {
            self.deliverable(self.in_service.highest())
        }
    }

    /// Whether a vector waits for nothing but the end of an interrupt of which the guest will not
    /// tell. To be looked at again when the processor can be interrupted: interrupt handlers end
    /// interrupts before that.
    #[must_use]
    pub fn awaits_untold_end(&self) -> bool {
        self.eoi_offered && self.deliverable(self.in_service.below_highest()).is_some()
    }

    /// The guest is to tell of the end after all.
    pub fn insist_on_end(&mut self, memory: &GuestRam) {
        self.look_for_untold_end(memory);
        self.withdraw_eoi(memory);
    }

    fn deliverable(&self, in_service: Option<u8>) -> Option<u8> {
        let vector = self.requested.highest()?;
        let priority = in_service.unwrap_or(0).max(self.task_priority);
        (vector >> 4 > priority >> 4).then_some(vector)
    }

    fn processor_priority(&self) -> u8 {
        let in_service = self.in_service.highest().unwrap_or(0);
        if in_service >> 4 > self.task_priority >> 4 {
            in_service & 0xf0
        } else {
            self.task_priority
        }
    }

    /// Takes the vector of [`Apic::pending`] into service.
    pub fn acknowledge(&mut self, vector: u8, memory: &GuestRam) {
        self.look_for_untold_end(memory);
        self.requested.remove(vector);
        self.in_service.insert(vector);
        self.raise_timer();
        self.offer_eoi(memory);
    }

    /// Looks whether the guest has ended an interrupt without an exit.
    pub fn look_for_untold_end(&mut self, memory: &GuestRam) {
        if self.eoi_offered && !self.offer_stands(memory) {
            self.in_service.remove_highest();
            self.eoi_offered = false;
        }
    }

    fn set_paravirtual_eoi(&mut self, value: u64, memory: &GuestRam) {
        self.look_for_untold_end(memory);
        self.withdraw_eoi(memory);
        self.paravirtual_eoi = value;
    }

    fn eoi_address(&self) -> GuestAddress {
        GuestAddress(self.paravirtual_eoi & !0b11)
    }

    /// Whether the bit is still set.
    fn offer_stands(&self, memory: &GuestRam) -> bool {
        memory
            .read_obj::<u32>(self.eoi_address())
            .is_ok_and(|word| word & 1 != 0)
    }

    fn offer_eoi(&mut self, memory: &GuestRam) {
        let enabled = self.paravirtual_eoi & PV_EOI_ENABLE != 0;
        self.eoi_offered = enabled && memory.write_obj(1u32, self.eoi_address()).is_ok();
    }

    fn withdraw_eoi(&mut self, memory: &GuestRam) {
        if std::mem::take(&mut self.eoi_offered) {
            // It could be written when the bit was set.
            let _ = memory.write_obj(0u32, self.eoi_address());
        }
    }
}

/// Whether the one processor is among the destinations.
fn reaches(destination: u32, logical: bool, everyone: u32) -> bool {
    destination == everyone
        || if logical {
            destination >> 16 == 0 && destination & LOGICAL_ID != 0
        } else {
            destination == 0
        }
}

/// Whether the delivery mode is one that brings a vector: fixed or lowest priority. The others
/// (SMI, NMI, INIT) nobody sends here.
fn is_vectored(word: u32) -> bool {
    matches!(word >> 8 & 0b111, 0 | 1)
}
