//! Hosts that look after guests by themselves: their daemons, and the words of an operator.
//!
//! ```no_run
//! # fn main() -> testbed::Result<()> {
//! use testbed::{LIMIT, Testbed};
//! use testbed::fleet::{Daemon, Operator};
//! use testbed::pair::{DiskServer, Guest, PATIENCE};
//!
//! let testbed = Testbed::new("example")?;
//! let [a, b] = testbed.start_hosts(["a", "b"])?;
//! let service = DiskServer::start(&testbed)?;
//! let _daemons = [&a, &b].map(|host| Daemon::start(host, &service));
//! let operator = Operator::new(&testbed, &service);
//! operator.define(&Guest::redis("db").quick(), &a, PATIENCE)?;
//! operator.start("db")?;
//! operator.protected("db", LIMIT)?;
//! # Ok(())
//! # }
//! ```

mod daemon;
mod operator;
mod stage;

pub use self::daemon::{
    Daemon, log_of, process_of, side_of, signal_guest, start_guests_with, watched,
};
pub use self::operator::Operator;
pub use self::stage::Stage;
