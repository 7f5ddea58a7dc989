//! The sources of inputs: [`LiveInputs`] from this host, [`Recorder`] live and logged,
//! [`Replayer`] from a log.

mod clock;
mod live;
mod memory_digest;
mod recorder;
mod replayer;

pub use clock::{GuestClock, TSC_KHZ};
pub use live::{Control, Lane, Lanes, LiveInputs, OutsideWorld};
pub use recorder::{LogSink, NoLog, Recorder, Verification};
pub use replayer::{Head, LogSource, ReplayCounters, Replayer};
