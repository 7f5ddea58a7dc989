//! The KVM back end: the only module that talks to `/dev/kvm`.
//!
//! No in-kernel interrupt controller or timer is used: their timing would be invisible to the
//! log. KVM runs instructions; everything a guest can observe of the outside comes through an
//! exit to this VMM.

pub mod branch_counter;
pub mod counting;
mod cpu_model;
mod cr4;
mod debug;
mod interrupts;
mod memory_slot;
mod msrs;
mod out_stop;
pub mod paging;
pub mod probe;
mod registers;
mod state;
mod step;
pub mod stepped;
mod vcpu;
mod vm;
mod write_log;

pub use cpu_model::{CpuModel, CpuModelError};
pub use memory_slot::shadow_page_bytes;
pub use paging::Paging;
pub use vcpu::KvmCpu;
pub use vm::{Machine, MachineError};
