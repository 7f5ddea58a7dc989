//! Running the guest ahead, to be thrown away.
//!
//! A debugger's single steps leave traces in the guest: RFLAGS.TF in what PUSHF saves, in R11
//! after SYSCALL, in the frames of exceptions. So that a replay stays one, they are done in an
//! *excursion*: another machine gets a copy of processor and memory, and is stepped at will up to its
//! next exit. Then it is thrown away, and the guest does the same, undisturbed.
//!
//! To put memory back where it was would not do: what KVM keeps of the guest's page tables, and which
//! pages it knows to be written, would be the excursion's (under shadow paging a guest notices).
//!
//! An excursion never goes past an exit, so devices, inputs and the log have no part in it.

use std::io;

use vm_memory::{Bytes, GuestAddress};

use crate::cpu::{CpuError, GuestCpu};
use crate::ram::{self, GuestRam, PAGE};

/// Another machine, which has run ahead of the guest.
pub(super) struct Excursion {
    /// Its processor.
    pub(super) cpu: Box<dyn GuestCpu>,
    /// Its memory.
    pub(super) memory: GuestRam,
    /// The guest's processor, which stands where the excursion began.
    stands: Vec<u8>,
}

impl Excursion {
    /// Begins at the place where the processor stands, with no access pending. `None` if this processor
    /// has nothing for debuggers.
    pub(super) fn begin(
        cpu: &mut dyn GuestCpu,
        memory: &GuestRam,
    ) -> Result<Option<Self>, CpuError> {
        let stands = cpu.save()?;
        let memory = copy(memory).map_err(CpuError::failed_to("copy the guest's memory"))?;
        let twin = cpu.twin(&memory)?;
        Ok(twin.map(|cpu| Self {
            cpu,
            memory,
            stands,
        }))
    }

    /// Ends: the guest's processor `cpu` goes on.
    pub(super) fn end(self, cpu: &mut dyn GuestCpu) -> Result<(), CpuError> {
        drop(self.cpu);
        // It has not moved, but a counter may have counted what the other one did on this thread: that
        // comes back with the state. To KVM it is the state that is there, and changes nothing.
        cpu.load(&self.stands)
    }
}

/// Memory of the same content. Pages that are zero take none.
fn copy(memory: &GuestRam) -> io::Result<GuestRam> {
    let pages = ram::page_count(memory);
    let bytes = pages as usize * PAGE;
    let copy = GuestRam::from_ranges(&[(GuestAddress(0), bytes)]).map_err(io::Error::other)?;
    for number in 0..pages {
        let page = ram::page(memory, number);
        if page != [0; PAGE] {
            let written = copy.write_slice(&page, GuestAddress(number * PAGE as u64));
            written.expect("the copy is as large");
        }
    }
    Ok(copy)
}
