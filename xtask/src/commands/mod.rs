//! One module per command: its arguments and what it does.

pub(crate) mod bench;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod endure;
pub(crate) mod exec;
pub(crate) mod host;
pub(crate) mod images;
pub(crate) mod matrix;
mod micro;
pub(crate) mod package;
pub(crate) mod pictures;
pub(crate) mod setup;
pub(crate) mod simulate;
pub(crate) mod stop;
pub(crate) mod test;
