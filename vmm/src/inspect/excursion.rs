//! Running the guest ahead, to be thrown away.
//!
//! A debugger's single steps leave traces in the guest: RFLAGS.TF in what PUSHF saves, in R11
//! after SYSCALL, in the frames of exceptions. So that a replay stays one, they are done in an
//! *excursion*: processor and memory are saved, the guest is stepped at will up to its next exit,
//! and put back. What it did is then done again, undisturbed.
//!
//! An excursion never goes past an exit, so devices, inputs and the log have no part in it.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::cpu::{CpuError, GuestCpu};
use crate::ram::GuestRam;
use crate::ram::PAGE;

/// The guest as it was where an excursion began.
pub(super) struct Excursion {
    cpu: Vec<u8>,
    memory: Vec<u8>,
}

const IN_MEMORY: &str = "a page of guest memory";

impl Excursion {
    /// Begins at the place where the processor stands, with no access pending.
    pub(super) fn begin(cpu: &mut dyn GuestCpu, ram: &GuestRam) -> Result<Self, CpuError> {
        let mut memory = vec![0; ram.last_addr().0 as usize + 1];
        ram.read_slice(&mut memory, GuestAddress(0))
            .expect(IN_MEMORY);
        Ok(Self {
            cpu: cpu.save()?,
            memory,
        })
    }

    /// Puts the guest back to where it began.
    pub(super) fn undo(self, cpu: &mut dyn GuestCpu, ram: &GuestRam) -> Result<(), CpuError> {
        let mut now = [0; PAGE];
        for (n, before) in (0..).zip(self.memory.chunks_exact(PAGE)) {
            let address = GuestAddress(n * PAGE as u64);
            ram.read_slice(&mut now, address).expect(IN_MEMORY);
            if now != before {
                ram.write_slice(before, address).expect(IN_MEMORY);
            }
        }
        // The exit that ended it is answered by nobody.
        cpu.complete_access()?;
        cpu.load(&self.cpu)
    }
}
