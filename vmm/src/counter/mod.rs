//! Places between two deterministic exits, named by a counter of retired instructions or branches.
//!
//! A [`CountedStop`](crate::cpu::CountedStop) is a count of events since the last execution point
//! and the registers there. [`seek`](fn@seek) finds the place again in another run. It knows
//! nothing of a hypervisor: [`Seekable`] is what it needs of a processor, so that it can be tested
//! against a simulated one, with every bad habit that real counters have.
//!
//! # When a count and registers name one place
//!
//! A counter of *instructions* has another value at every place.
//!
//! A counter of *branches* has the same value at all places between two branches. On a straight
//! line they differ in RIP, and the iterations of a string instruction in RCX. But an unconditional
//! jump is none of the branches that hardware counts exactly (retired *conditional* ones), so a
//! loop of `inc [memory]; jmp` passes the same RIP with the same count and registers for ever, and
//! so do two calls of one function in a row. What comes first would be taken for the place.
//!
//! So a recorder does not name the place where it was stopped. It first [`settle`]s: it steps to
//! the next counted branch and names the place right behind it. That is the first place with its
//! count, and [`seek`](fn@seek) stops at the first that matches: they are the same one.

mod counting;
mod faulty;
mod seek;
pub mod table;
mod tally;
#[cfg(test)]
mod tests;
mod trust;

pub use self::counting::{CountingCpu, EventCounter, Steppable};
pub use self::faulty::{Fault, Faulty};
pub use self::seek::{Miss, Ran, RegisterDifference, Seekable, Settled, Why, seek, settle};
pub use self::tally::{Tally, TallyCounter};
pub use self::trust::Branches;
