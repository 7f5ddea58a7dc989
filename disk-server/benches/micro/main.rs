//! The disk server beside others with the same file and the same client, and a claim beside what makes it
//! durable. `cargo xtask bench --micro` runs it, and has the table of ratios.

mod claim;
mod disk;
mod load;
mod servers;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    disk::disk(&mut criterion);
    claim::claim(&mut criterion);
    criterion.final_summary();
}
