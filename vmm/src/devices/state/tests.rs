//! Devices whose state was carried over behave as those it was taken from, whatever comes next.

mod disk_driver;
mod machine;
mod steps;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use self::machine::{Machine, Seen, Step};
use self::steps::steps;
use super::*;
use crate::devices::{DISK, NET, NET_SLOT};

fn after(steps: &[Step]) -> Machine {
    let mut machine = Machine::booted();
    for step in steps {
        machine.take(step);
    }
    machine
}

proptest! {
    #[test]
    fn loaded_devices_go_on_as_the_saved_ones(
        steps in steps(1..150),
        at in any::<Index>(),
        elsewhere in steps(0..50),
    ) {
        let (before, rest) = steps.split_at(at.index(steps.len()));
        let mut one = after(before);
        let mut other = after(&elsewhere);
        other.copy_memory_and_time(&one);
        prop_assert_eq!(other.devices.load(&one.devices.save()), Ok(()));
        prop_assert_eq!(other.devices.digests(), one.devices.digests());
        for step in rest {
            prop_assert_eq!(other.take(step), one.take(step), "{:?}", step);
            prop_assert_eq!(other.devices.digests(), one.devices.digests(), "{:?}", step);
        }
        prop_assert!(other.contents() == one.contents(), "guest memory differs");
        prop_assert_eq!(other.devices.save(), one.devices.save());
    }

    #[test]
    fn damaged_states_are_refused_or_do_no_harm(
        steps in steps(0..60),
        damage in vec((any::<Index>(), any::<u8>()), 0..4),
        cut in prop::option::weighted(0.3, any::<Index>()),
        extra in vec(any::<u8>(), 0..2),
        next in steps(1..60),
    ) {
        let mut bytes = after(&steps).devices.save();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.extend(extra);
        let mut machine = Machine::booted();
        let before = machine.devices.save();
        if machine.devices.load(&bytes).is_err() {
            prop_assert_eq!(machine.devices.save(), before, "changed by what was refused");
        }
        for step in &next {
            machine.take(step);
        }
        let end = machine.devices.save();
        prop_assert_eq!(Machine::booted().devices.load(&end), Ok(()));
    }
}

/// A number at the end of what fits somewhere, or anything.
fn wild() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => (0..64u32).prop_map(|bit| 1 << bit),
        2 => (0..64u32).prop_map(|bit| u64::MAX >> bit),
        1 => Just(u64::MAX),
        1 => any::<u64>(),
    ]
}

/// Puts `value` into the field at `path`, or as much of it as fits there; in a list, into one of
/// its items. Not where no number belongs.
fn put(state: &mut Value, path: &str, item: Index, value: u64) {
    let path = match state.pointer(path) {
        Some(Value::Array(items)) if !items.is_empty() => {
            format!("{path}/{}", item.index(items.len()))
        }
        _ => path.to_owned(),
    };
    for bits in [64, 32, 16, 8, 1] {
        let mut changed = state.clone();
        let field = changed.pointer_mut(&path).expect("a field of this");
        *field = match field {
            Value::Bool(_) => json!(value & 1 != 0),
            _ => json!(value & u64::MAX >> (64 - bits)),
        };
        if DevicesState::deserialize(&changed).is_ok() {
            *state = changed;
            return;
        }
    }
}

proptest! {
    #[test]
    fn wild_numbers_are_refused_or_do_no_harm(
        before in steps(0..60),
        damage in vec((any::<Index>(), any::<Index>(), wild()), 1..4),
        next in steps(1..60),
    ) {
        let mut state = json(&after(&before));
        for (field, item, value) in damage {
            let mut paths = Vec::new();
            fields(&state, "", &mut paths);
            put(&mut state, &paths[field.index(paths.len())], item, value);
        }
        let mut machine = Machine::booted();
        let unharmed = machine.devices.save();
        if machine.devices.load(&saved(state)).is_err() {
            prop_assert_eq!(machine.devices.save(), unharmed, "changed by what was refused");
            return Ok(());
        }
        for step in &next {
            machine.take(step);
        }
    }
}

/// A machine that uses the local APIC and messages.
fn with_messages() -> Machine {
    after(&[
        Step::StartApic {
            external: false,
            periodic: false,
            divide: 0,
            count: 0,
            paravirtual_eoi: true,
        },
        Step::StartCard {
            event_idx: true,
            offloads: false,
            messages: true,
        },
    ])
}

#[test]
fn refusals_say_what_is_wrong() {
    let refusal = |bytes: &[u8]| Machine::booted().devices.load(bytes).unwrap_err();
    let good = Machine::booted().devices.save();
    let mut newer = good.clone();
    newer[0] = VERSION as u8 + 1; // a varint of one byte
    assert_eq!(refusal(&newer), DeviceStateError::Version(VERSION + 1));
    assert_eq!(refusal(&[]), DeviceStateError::Malformed);
    assert_eq!(
        refusal(&good[..good.len() - 1]),
        DeviceStateError::Malformed
    );
    let longer = [&good[..], &[0]].concat();
    assert_eq!(refusal(&longer), DeviceStateError::Malformed);
    let huge = vec![0; MAX_BYTES + 1];
    assert_eq!(refusal(&huge), DeviceStateError::TooLong(MAX_BYTES + 1));

    for (path, value, device) in [
        ("/apic/lvt/5", json!(1 << 17), "apic"),
        ("/apic/spurious", json!(1 << 9), "apic"),
        ("/apic/requested/0", json!(1 << 15), "apic"),
        ("/apic/in_service/0", json!(1), "apic"),
        ("/apic/in_service/7", json!(0b11), "apic"),
        ("/apic/paravirtual_eoi", json!(2), "apic"),
        ("/apic/eoi_offered", json!(true), "apic"),
        ("/apic/timer/mode", json!("Periodic"), "apic"),
        ("/apic/timer/divide", json!(4), "apic"),
        ("/apic/timer/started_at", json!(1u64 << 63), "apic"),
        ("/apic/timer/fired", json!(2), "apic"),
        ("/apic/timer/due", json!(1), "apic"),
        ("/pic/master/first", json!(8), "pic"),
        ("/pit/channels/0/fired", json!(1u64 << 50), "pit"),
        ("/cmos/index", json!(0x80), "cmos"),
        ("/power/control", json!(1 << 13), "power"),
        ("/pci/address", json!(1), "pci"),
        ("/pci/host_bridge/0", json!(0x87), "pci"),
        ("/net/transport/isr", json!(4), "net"),
        ("/net/transport/queues/1/size", json!(512), "net"),
        ("/net/transport/queues/1/max_size", json!(1 << 15), "net"),
        ("/net/transport/config_space/2", json!(1), "net"),
        ("/net/transport/msix/at", json!(0x40), "net"),
        ("/net/transport/msix/entries", json!([]), "net"),
        ("/net/transport/msix/entries/0/control", json!(2), "net"),
        (
            "/net/transport/msix/entries/1/address",
            json!(0xfee0_0002u32),
            "net",
        ),
        ("/net/transport/msix/entries/2/pending", json!(true), "net"),
        ("/net/transport/config_vector", json!(3), "net"),
        ("/net/transport/queue_vectors/1", json!(3), "net"),
        ("/net/transport/queue_vectors", json!([0]), "net"),
        ("/net/card/mac/5", json!(0xee), "net"),
        ("/disk/transport/isr", json!(4), "disk"),
        ("/disk/transport/queues/0/size", json!(512), "disk"),
        ("/disk/transport/queue_vectors/0", json!(2), "disk"),
        ("/disk/blk/capacity", json!(512), "disk"),
        ("/disk/blk/last_id", json!(u64::MAX), "disk"),
        ("/disk", Value::Null, "disk"),
    ] {
        let mut state = json(&with_messages());
        *state.pointer_mut(path).expect(path) = value;
        let DeviceStateError::Impossible { device: blamed, .. } = refusal(&saved(state)) else {
            panic!("{path}: another error");
        };
        assert_eq!(blamed, device, "{path}");
    }
}

#[test]
fn a_digest_tells_which_device_differs() {
    let digests = |steps: &[Step]| after(steps).devices.digests();
    let write = |port, value| Step::Write {
        port,
        len: 1,
        value,
    };
    for (step, device) in [
        (
            Step::Msr {
                index: 0x808,
                value: Some(0x20),
            },
            "apic",
        ),
        (write(0x21, 0x55), "pic"),
        (write(0x42, 0x55), "pit"),
        (write(0x70, 0x55), "cmos"),
        (write(0x3ff, 0x55), "console"),
        (
            Step::Write {
                port: 0x602,
                len: 2,
                value: 0x0120,
            },
            "power",
        ),
        (
            Step::Write {
                port: 0xcf8,
                len: 4,
                value: 0x8000_0000,
            },
            "pci",
        ),
        (
            Step::Frame {
                len: 60,
                fill: 1,
                uncut: false,
            },
            "net",
        ),
        (
            Step::Table {
                slot: NET_SLOT,
                offset: 8,
                len: 4,
                value: Some(0x41),
            },
            "net",
        ),
        (write(NET.ports + 0x10, 0), "net"),
        (write(DISK.ports + 0x14, 0), "disk"),
        (write(0xcf9, 0x04), "reset"),
        (write(0x3f8, b'\n'.into()), "outputs"),
    ] {
        let (one, other) = (digests(&[]), digests(std::slice::from_ref(&step)));
        let differing: Vec<&str> = one
            .iter()
            .zip(&other)
            .filter(|(one, other)| one != other)
            .map(|(one, _)| one.0)
            .collect();
        assert_eq!(differing, [device], "{step:?}");
    }
}

fn json(machine: &Machine) -> Value {
    serde_json::to_value(machine.devices.state()).expect("plain data")
}

fn saved(state: Value) -> Vec<u8> {
    let state: DevicesState = serde_json::from_value(state).expect("same fields");
    encode(&(VERSION, state))
}

/// JSON pointers to all fields of `state`; lists of plain values are one field.
fn fields(state: &Value, path: &str, found: &mut Vec<String>) {
    match state {
        Value::Object(members) => {
            for (name, member) in members {
                fields(member, &format!("{path}/{name}"), found);
            }
        }
        Value::Array(items) if items.first().is_some_and(Value::is_object) => {
            for (n, item) in items.iter().enumerate() {
                fields(item, &format!("{path}/{n}"), found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

/// Fields without which nothing would be different, in alphabetical order.
const WITHOUT_EFFECT: &[&str] = &[
    // Compared with what the local vector table says.
    "/apic/timer/mode",
    // Taken at the end of the event that raises it.
    "/console/edge",
    // Constant.
    "/console/uart/modem_status",
    // Takes room, of which these guests do not run out: see the tests of the disk.
    "/disk/blk/abandoned",
    // Compared, not taken over.
    "/disk/blk/capacity",
    "/disk/transport/msix/at",
    "/disk/transport/queues/0/max_size",
    "/net/card/mac",
    // Collected at the end of the event that sends them.
    "/net/card/transmitted",
    // Compared, not taken over.
    "/net/transport/msix/at",
    "/net/transport/queues/0/max_size",
    "/net/transport/queues/1/max_size",
    // No device is on the slave, so all that is left of it is its mask, its initialisation and
    // its edge/level register; and this mode of the master is about the slave's interrupts.
    "/pic/master/special_fully_nested",
    "/pic/slave/auto_eoi",
    "/pic/slave/first",
    "/pic/slave/irr",
    "/pic/slave/isr",
    "/pic/slave/lines",
    "/pic/slave/poll",
    "/pic/slave/read_isr",
    "/pic/slave/rotate_on_auto_eoi",
    "/pic/slave/special_fully_nested",
    "/pic/slave/special_mask",
    "/pic/slave/vector_base",
    // Only channel 0 raises interrupts.
    "/pit/channels/1/fired",
    "/pit/channels/2/fired",
];

/// In so many runs it is looked whether they have none.
const WITHOUT_EFFECT_CASES: usize = 1000;

/// Takes each field out of the state in turn, by giving it the value that it has after reset, and
/// looks for a run in which the guest or the world would notice.
#[test]
fn no_field_of_the_state_can_be_left_out() {
    let fresh = json(&Machine::new());
    let mut unnoticed = Vec::new();
    fields(&fresh, "", &mut unnoticed);
    assert!(unnoticed.len() > 50, "the state's fields were not found");

    let mut random = TestRunner::deterministic();
    let cases = (steps(10..150), any::<Index>());
    for case in 0..20_000 {
        if unnoticed == WITHOUT_EFFECT {
            return;
        }
        let (steps, at) = cases.new_tree(&mut random).expect("no filters").current();
        let (before, rest) = steps.split_at(at.index(steps.len()));
        let mut machine = after(before);
        let full = json(&machine);
        let memory = machine.clone_without_devices();
        let expected: Vec<Seen> = rest.iter().map(|step| machine.take(step)).collect();
        unnoticed.retain(|path| {
            // A field that has an effect takes the rarest of runs to show it; those that have none are most of
            // what is left by then.
            if case >= WITHOUT_EFFECT_CASES && WITHOUT_EFFECT.contains(&path.as_str()) {
                return true;
            }
            let cleared = fresh.pointer(path).expect("a field of this");
            if full.pointer(path) == Some(cleared) {
                return true;
            }
            let mut state = full.clone();
            let field = state.pointer_mut(path);
            *field.expect("the same fields in every state") = cleared.clone();
            let mut lacking = memory.clone_without_devices();
            if lacking.devices.load(&saved(state)).is_err() {
                return true; // the other fields do not allow it
            }
            rest.iter()
                .zip(&expected)
                .all(|(step, seen)| lacking.take(step) == *seen)
                && lacking.contents() == machine.contents()
        });
    }
    panic!("nobody notices that these are missing: {unnoticed:#?}");
}
