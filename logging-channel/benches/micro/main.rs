//! What the channel and its codec cost, each beside what the machine itself takes for the same bytes.
//! `cargo xtask bench --micro` runs it, and has the table of ratios.

mod bare;
mod channel;
mod codec;
mod ends;
mod entries;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    channel::throughput(&mut criterion);
    channel::acknowledgement(&mut criterion);
    codec::codec(&mut criterion);
    criterion.final_summary();
}
