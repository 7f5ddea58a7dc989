//! Places in guest memory at which the guest stops: an `out dx, al` stands over the first byte of
//! the instruction there.
//!
//! It exits before anything is changed, with RIP at the byte; it is a privileged instruction of one
//! byte that changes no register. This works where KVM's breakpoints do not (they never fire in an
//! emulated host). Outside CPL 0 the instruction faults, so it is for kernel code.

use vm_memory::{Bytes, GuestAddress};

use crate::cpu::PortAccess;
use crate::ram::GuestRam;

/// The opcode of `out dx, al`.
const OUT_DX_AL: u8 = 0xee;

/// One place.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutStop {
    physical: GuestAddress,
    /// The guest's own byte, while the OUT is in its place.
    hidden: Option<u8>,
}

impl OutStop {
    /// At the instruction that begins at `physical`; not set yet.
    pub(super) fn at(physical: u64) -> Self {
        Self {
            physical: GuestAddress(physical),
            hidden: None,
        }
    }

    pub(super) fn is_set(&self) -> bool {
        self.hidden.is_some()
    }

    /// Puts the OUT there, if that is memory.
    pub(super) fn set(&mut self, memory: &GuestRam) {
        if self.hidden.is_none()
            && let Ok(byte) = memory.read_obj::<u8>(self.physical)
            && memory.write_obj(OUT_DX_AL, self.physical).is_ok()
        {
            self.hidden = Some(byte);
        }
    }

    /// Gives the guest its own byte back.
    pub(super) fn lift(&mut self, memory: &GuestRam) {
        if let Some(byte) = self.hidden.take()
            // Another byte is the guest's own, written since.
            && memory.read_obj::<u8>(self.physical).is_ok_and(|now| now == OUT_DX_AL)
        {
            let written = memory.write_obj(byte, self.physical);
            written.expect("the byte was read from there");
        }
    }
}

/// Marked instructions, with their linear addresses.
#[derive(Default)]
pub(super) struct Tripwires(Vec<(u64, OutStop)>);

impl Tripwires {
    /// Whether an exit may be a tripwire's.
    pub(super) fn hold(&self, rip: u64, access: PortAccess) -> bool {
        access.write
            && (access.size, access.count) == (1, 1)
            && self.0.iter().any(|(linear, _)| *linear == rip)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self, memory: &GuestRam) {
        // The last first: two addresses may be the same byte.
        for (_, mut stop) in self.0.drain(..).rev() {
            stop.lift(memory);
        }
    }

    pub(super) fn add(&mut self, memory: &GuestRam, linear: u64, physical: u64) {
        let mut stop = OutStop::at(physical);
        stop.set(memory);
        if stop.is_set() {
            self.0.push((linear, stop));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_that_the_guest_wrote_stays() {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 4096)]).expect("memory");
        let at = GuestAddress(100);
        let mut stop = OutStop::at(at.0);
        memory.write_obj(7u8, at).expect("inside");
        stop.set(&memory);
        assert_eq!(memory.read_obj::<u8>(at).expect("inside"), OUT_DX_AL);
        stop.lift(&memory);
        assert_eq!(memory.read_obj::<u8>(at).expect("inside"), 7);
        stop.set(&memory);
        memory.write_obj(9u8, at).expect("inside");
        stop.lift(&memory);
        assert_eq!(memory.read_obj::<u8>(at).expect("inside"), 9);
    }
}
