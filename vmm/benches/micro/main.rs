//! What the hypervisor's own work costs, beside what the machine itself takes: nothing here needs KVM.
//! `cargo xtask bench --micro` runs it, and has the table of ratios.

mod exits;
mod gate;
mod state;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    exits::exits(&mut criterion);
    state::state(&mut criterion);
    gate::gate(&mut criterion);
    criterion.final_summary();
}
