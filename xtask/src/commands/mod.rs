//! One module per command: its arguments and what it does.

pub(crate) mod images;
