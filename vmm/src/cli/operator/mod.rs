//! What an operator asks of the service.

pub(super) mod hosts;
