//! Connections between endpoints, as users of the crate make them, and as others meddle with them.

mod files;
mod hostile;
mod members;
mod opening;
mod others;
mod signed;
mod streams;
