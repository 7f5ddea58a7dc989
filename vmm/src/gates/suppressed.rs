//! The gate of a replay: nothing leaves.

use std::sync::Arc;

use logging_channel::entry::Lsn;
use parking_lot::Mutex;

use crate::devices::Output;
use crate::disk::followed::Followed;
use crate::engine::OutputGate;
use crate::protocol::outputs::UnreleasedOutputs;

/// Frames that the primary may not have sent before it died.
///
/// A backup that goes live sends them again: networks duplicate
/// frames anyway, and a client that waits for a reply gets it without waiting for the guest's
/// retransmission timer. Console bytes are not repeated.
/// Requests to the disk are issued again by the engine, not from here.
#[derive(Debug, Clone, Default)]
pub struct Unreleased(Arc<Mutex<UnreleasedOutputs<Output>>>);

impl Unreleased {
    /// Forgets frames up to `released`.
    pub fn forget(&self, released: Lsn) {
        self.0.lock().forget(released);
    }

    /// Takes the frames after `released`, oldest first.
    #[must_use]
    pub fn take(&self, released: Lsn) -> Vec<Output> {
        self.0.lock().take(released).collect()
    }
}

/// Lets nothing out.
#[derive(Default)]
pub struct Suppressed {
    unreleased: Option<Unreleased>,
    disk: Option<Followed>,
}

impl Suppressed {
    /// A gate that keeps frames in `unreleased`.
    #[must_use]
    pub fn keeping(unreleased: Unreleased) -> Self {
        Self {
            unreleased: Some(unreleased),
            disk: None,
        }
    }

    /// The same, which shows requests to the disk to `disk`.
    #[must_use]
    pub fn following(mut self, disk: Option<Followed>) -> Self {
        self.disk = disk;
        self
    }
}

impl OutputGate for Suppressed {
    fn submit(&mut self, output: Output, lsn: Option<Lsn>) {
        match (output, lsn) {
            (Output::Frame(frame), Some(lsn)) => {
                if let Some(unreleased) = &self.unreleased {
                    unreleased.0.lock().keep(lsn, Output::Frame(frame));
                }
            }
            (Output::Disk(request), _) => {
                if let Some(disk) = &self.disk {
                    disk.issued(request);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(byte: u8) -> Output {
        Output::Frame(vec![byte].into())
    }

    #[test]
    fn keeps_frames_that_were_not_released() {
        let unreleased = Unreleased::default();
        let mut gate = Suppressed::keeping(unreleased.clone());
        for n in 1..=5 {
            gate.submit(frame(n), Some(Lsn(u64::from(n) * 10)));
        }
        gate.submit(Output::Console(b"x".into()), Some(Lsn(60)));
        assert_eq!(unreleased.take(Lsn(30)), vec![frame(4), frame(5)]);
        assert!(unreleased.take(Lsn(0)).is_empty());
    }
}
