//! Every cut of one link and of two, and every pair of crashes, in a calm world: what becomes of the guest
//! meanwhile, and when all is healed.

mod asked;
mod case;
mod measure;
mod outcome;
mod page;
mod picture;
mod run;
mod table;

pub use run::Matrix;
