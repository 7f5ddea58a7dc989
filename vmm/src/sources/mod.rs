//! The sources of inputs: [`LiveInputs`] from this host, [`Recorder`] live and logged,
//! [`Replayer`] from a log.

mod clock;
mod clock_trace;
mod completion;
mod convergence;
mod follower;
mod keeper;
mod live;
mod log_sink;
mod log_source;
mod overdue;
mod pace;
mod place;
mod recorder;
mod repairs;
mod replayer;
#[cfg(feature = "sabotage")]
pub mod sabotage;
mod waits;
mod watchdog;

pub use clock::{GuestClock, TSC_KHZ};
pub use clock_trace::ClockTrace;
pub use follower::StateFollower;
pub use keeper::StateKeeper;
pub use live::{Control, Lane, Lanes, LiveInputs, LookOut, OutsideWorld};
pub use log_sink::{LogSink, NoLog, Sent};
pub use log_source::{Head, LogSource, ReplayCounters};
pub use overdue::REPLAY_WATCH;
pub use pace::{Pace, StateCounters, StateFigures, TransferPace};
pub use recorder::{Recorder, Verification};
pub use repairs::{MANY, Repairs};
pub use replayer::Replayer;
pub use waits::Waits;
pub use watchdog::Watchdog;
