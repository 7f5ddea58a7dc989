//! What becomes of what operators want, with hosts that carry it out.

mod deeds;
mod drains;
mod hosts;
mod restarts;
mod safety;
mod starts;
mod verbs;
mod world;

pub(super) use world::definition;
