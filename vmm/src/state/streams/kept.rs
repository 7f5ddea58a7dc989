//! Memory streams without a network.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::sending::SendBlocks;

/// Keeps the blocks that are sent until somebody takes them, for a log that is no channel. A handle.
#[derive(Debug, Clone, Default)]
pub struct KeptBlocks(Arc<Mutex<Vec<Vec<u8>>>>);

impl KeptBlocks {
    /// Those that were sent since this was asked last, in order.
    #[must_use]
    pub fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl SendBlocks for KeptBlocks {
    fn send(&mut self, _: u32, block: &[u8]) -> io::Result<()> {
        self.0.lock().push(block.to_vec());
        Ok(())
    }

    fn may_wait(&self) -> bool {
        false
    }
}
