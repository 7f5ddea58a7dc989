//! A short, fixed run of the fuzz targets (`tests/fuzz` runs them for as long as one likes), and what
//! they have found.

mod targets;

use ftvm_vmm::dice::Dice;

use self::targets::{Target, run};

/// Inputs of each target, and how long they are at most.
const INPUTS: u64 = 1500;
const LONGEST: u64 = 600;

fn bytes(dice: &mut Dice) -> Vec<u8> {
    let len = dice.roll(LONGEST);
    (0..len).map(|_| dice.roll(256) as u8).collect()
}

/// Runs a target with made-up inputs, the same ones every time.
fn fuzz(target: Target) {
    for seed in 0..INPUTS {
        let input = bytes(&mut Dice(seed));
        run(target, &input);
    }
}

#[test]
fn pci() {
    fuzz(Target::Pci);
}

#[test]
fn net() {
    fuzz(Target::Net);
}

#[test]
fn blk() {
    fuzz(Target::Blk);
}

#[test]
fn apic() {
    fuzz(Target::Apic);
}

#[test]
fn pit() {
    fuzz(Target::Pit);
}

#[test]
fn uart() {
    fuzz(Target::Uart);
}

#[test]
fn traps() {
    fuzz(Target::Traps);
}
