//! What a program tells those who watch it, over HTTP: its metrics, and whether it is well.
//!
//! ```text
//!     GET /metrics              what Prometheus reads (text format 0.0.4)
//!     GET /healthz              200: the program does its work; otherwise 503, and why
//!     GET /healthz/…            the same of what the path names; 404 where there is no such thing
//! ```
//!
//! Nothing is authenticated or encrypted here, and nothing is told but names, figures and states: none of what
//! guests send, keep, or are started with.

mod exporter;
mod exposition;
pub(crate) mod http;
mod pulse;

pub use exporter::{Exporter, Health, Watched};
pub use exposition::{Exposition, SECONDS, expose};
pub use pulse::Pulse;
