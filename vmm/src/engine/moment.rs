//! Where the guest is, and its registers there.

use logging_channel::entry::ExecutionPoint;

use crate::cpu::{CpuError, GuestCpu, Registers};
use crate::devices::Devices;

/// The guest at an execution point. Registers are fetched only when asked for.
pub struct Moment<'a> {
    /// The execution point.
    pub point: ExecutionPoint,
    /// Its processor.
    pub cpu: &'a mut dyn GuestCpu,
    /// Its devices.
    pub devices: &'a mut Devices,
    digest: Option<u32>,
}

impl<'a> Moment<'a> {
    /// Of a guest that stands at `point`.
    pub fn new(point: ExecutionPoint, cpu: &'a mut dyn GuestCpu, devices: &'a mut Devices) -> Self {
        Self {
            point,
            cpu,
            devices,
            digest: None,
        }
    }

    /// Digest of the general registers.
    ///
    /// # Errors
    /// [`CpuError`].
    pub fn digest(&mut self) -> Result<u32, CpuError> {
        if let Some(digest) = self.digest {
            return Ok(digest);
        }
        let digest = self.cpu.register_digest()?;
        self.digest = Some(digest);
        Ok(digest)
    }

    /// All general registers.
    ///
    /// # Errors
    /// [`CpuError`].
    pub fn registers(&mut self) -> Result<Registers, CpuError> {
        self.cpu.registers()
    }
}
