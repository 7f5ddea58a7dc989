//! The APIC against its manual.

use vm_memory::{Bytes, GuestAddress};

use super::*;

const EOI_WORD: u64 = 0x2000;

fn memory() -> GuestRam {
    GuestRam::from_ranges(&[(GuestAddress(0), 0x10_000)]).expect("memory")
}

fn write(apic: &mut Apic, memory: &GuestRam, index: u32, value: u64) {
    assert!(apic.write(index, value, 0, memory), "{index:#x}");
}

/// Enabled by software, as a kernel does.
fn enabled(memory: &GuestRam) -> Apic {
    let mut apic = Apic::default();
    write(&mut apic, memory, SPURIOUS, 0x1ff);
    apic
}

fn message(vector: u8) -> Message {
    Message {
        address: 0xfee0_0000,
        data: u32::from(vector),
    }
}

/// Delivers what is pending; the vector.
/// Of the timer, in nanoseconds.
const PERIOD: u64 = 1_000_000;

fn take(apic: &mut Apic, memory: &GuestRam) -> Option<u8> {
    apic.look_for_untold_end(memory);
    let vector = apic.pending(memory)?;
    apic.acknowledge(vector, memory);
    Some(vector)
}

#[test]
fn higher_classes_interrupt_lower_ones_and_their_own_class_waits() {
    let memory = memory();
    let mut apic = enabled(&memory);
    for vector in [0x31, 0x52, 0x53] {
        apic.deliver(message(vector));
    }
    assert_eq!(take(&mut apic, &memory), Some(0x53));
    assert_eq!(take(&mut apic, &memory), None, "0x52 is of the same class");
    apic.deliver(message(0x61));
    assert_eq!(take(&mut apic, &memory), Some(0x61));
    for expected in [None, Some(0x52), Some(0x31)] {
        write(&mut apic, &memory, END_OF_INTERRUPT, 0);
        assert_eq!(take(&mut apic, &memory), expected);
    }
}

#[test]
fn the_task_priority_holds_back() {
    let memory = memory();
    let mut apic = enabled(&memory);
    write(&mut apic, &memory, TASK_PRIORITY, 0x40);
    apic.deliver(message(0x4f));
    assert_eq!(take(&mut apic, &memory), None);
    assert_eq!(apic.read(REQUESTS + 2, 0), Some(1 << 15));
    assert_eq!(apic.read(PROCESSOR_PRIORITY, 0), Some(0x40));
    write(&mut apic, &memory, TASK_PRIORITY, 0x10);
    assert_eq!(take(&mut apic, &memory), Some(0x4f));
    assert_eq!(apic.read(PROCESSOR_PRIORITY, 0), Some(0x40));
    assert_eq!(apic.read(IN_SERVICE + 2, 0), Some(1 << 15));
}

#[test]
fn messages_to_others_and_of_other_kinds_are_not_taken() {
    let memory = memory();
    let mut apic = enabled(&memory);
    let at = |address| Message {
        address,
        data: 0x41,
    };
    for address in [0xfee0_1000, 0xfed0_0000, 0x1_fee0_0000, 0xfee0_2004] {
        apic.deliver(at(address));
        assert_eq!(take(&mut apic, &memory), None, "{address:#x}");
    }
    apic.deliver(Message {
        address: 0xfee0_0000,
        data: 0x0441, // an NMI
    });
    assert_eq!(take(&mut apic, &memory), None);
    for address in [0xfee0_0000, 0xfeef_f000, 0xfee0_1004, 0xfeef_f008] {
        apic.deliver(at(address));
        assert_eq!(take(&mut apic, &memory), Some(0x41), "{address:#x}");
        write(&mut apic, &memory, END_OF_INTERRUPT, 0);
    }
}

/// CR8 and the task priority register are one.
#[test]
fn the_processors_task_priority_is_the_apics() {
    let memory = memory();
    let mut apic = enabled(&memory);
    apic.set_task_priority_class(4);
    apic.deliver(message(0x4f));
    assert_eq!(take(&mut apic, &memory), None);
    assert_eq!(apic.read(TASK_PRIORITY, 0), Some(0x40));
    write(&mut apic, &memory, TASK_PRIORITY, 0x47);
    assert_eq!(apic.task_priority_class(), 4);
    apic.set_task_priority_class(4);
    assert_eq!(apic.read(TASK_PRIORITY, 0), Some(0x47), "as it was");
    apic.set_task_priority_class(3);
    assert_eq!(take(&mut apic, &memory), Some(0x4f));
}

#[test]
fn nothing_comes_while_it_is_disabled() {
    let memory = memory();
    let mut apic = Apic::default();
    apic.deliver(message(0x41));
    assert_eq!(take(&mut apic, &memory), None);
    assert!(apic.takes_external(), "as firmware leaves it");
    write(&mut apic, &memory, LVT_LINT0, u64::from(MASKED | EXTERNAL));
    assert!(!apic.takes_external());
}

#[test]
fn the_processor_interrupts_itself() {
    let memory = memory();
    let mut apic = enabled(&memory);
    write(&mut apic, &memory, SELF_IPI, 0xf6);
    assert_eq!(take(&mut apic, &memory), Some(0xf6));
    write(&mut apic, &memory, END_OF_INTERRUPT, 0);
    write(&mut apic, &memory, COMMAND, 0x4_00f5);
    assert_eq!(take(&mut apic, &memory), Some(0xf5));
    write(&mut apic, &memory, END_OF_INTERRUPT, 0);
    write(&mut apic, &memory, COMMAND, 0xc_00f5); // all but itself
    write(&mut apic, &memory, COMMAND, 0x0001_0001_0000_08f5); // another cluster's first
    assert_eq!(take(&mut apic, &memory), None);
}

#[test]
fn a_timer_interrupt_waits_for_the_last_one_and_those_missed_are_forgotten() {
    let memory = memory();
    let mut apic = enabled(&memory);
    write(&mut apic, &memory, DIVIDE, 0b1011);
    write(&mut apic, &memory, LVT_TIMER, 1 << 17 | 0xec);
    assert!(apic.write(INITIAL_COUNT, PERIOD, 500, &memory));
    assert_eq!(apic.next_deadline(), Some(500 + PERIOD));
    apic.advance(500 + PERIOD);
    apic.advance(500 + 2 * PERIOD);
    for _ in 0..2 {
        assert_eq!(take(&mut apic, &memory), Some(0xec));
        write(&mut apic, &memory, END_OF_INTERRUPT, 0);
    }
    assert_eq!(take(&mut apic, &memory), None);
    assert_eq!(apic.next_deadline(), Some(500 + 3 * PERIOD));
    // Three are missed, and as many left out.
    apic.advance(500 + 6 * PERIOD);
    assert_eq!(take(&mut apic, &memory), Some(0xec));
    write(&mut apic, &memory, END_OF_INTERRUPT, 0);
    assert_eq!(take(&mut apic, &memory), None);
    assert_eq!(apic.next_deadline(), Some(500 + 10 * PERIOD));
    let now = 500 + 6 * PERIOD + 100;
    assert_eq!(apic.read(CURRENT_COUNT, now), Some(PERIOD - 100));
    write(
        &mut apic,
        &memory,
        LVT_TIMER,
        u64::from(MASKED) | 1 << 17 | 0xec,
    );
    apic.advance(500 + 19 * PERIOD);
    assert_eq!(take(&mut apic, &memory), None);
}

#[test]
fn nothing_is_kept_of_a_timer_that_ran_while_the_apic_was_disabled() {
    let memory = memory();
    let mut apic = Apic::default();
    write(&mut apic, &memory, DIVIDE, 0b1011);
    write(&mut apic, &memory, LVT_TIMER, 1 << 17 | 0xec);
    write(&mut apic, &memory, INITIAL_COUNT, PERIOD);
    apic.advance(5 * PERIOD + 500);
    write(&mut apic, &memory, SPURIOUS, 0x1ff);
    assert_eq!(take(&mut apic, &memory), None);
    apic.advance(6 * PERIOD);
    assert_eq!(take(&mut apic, &memory), Some(0xec));
    assert_eq!(take(&mut apic, &memory), None);
}

#[test]
fn an_interrupt_ends_without_an_exit() {
    let memory = memory();
    let at = GuestAddress(EOI_WORD);
    let mut apic = enabled(&memory);
    write(&mut apic, &memory, PARAVIRTUAL_EOI, EOI_WORD | 1);

    apic.deliver(message(0x41));
    assert_eq!(take(&mut apic, &memory), Some(0x41));
    assert_eq!(memory.read_obj::<u32>(at).unwrap(), 1);
    assert!(!apic.awaits_untold_end());
    memory.write_obj(0u32, at).unwrap(); // the guest ends it
    apic.deliver(message(0x42));
    assert_eq!(take(&mut apic, &memory), Some(0x42));

    // Another one comes before the guest has ended it.
    apic.deliver(message(0x43));
    assert_eq!(take(&mut apic, &memory), None);
    assert!(apic.awaits_untold_end());
    memory.write_obj(0u32, at).unwrap();
    assert_eq!(take(&mut apic, &memory), Some(0x43));

    // Another one, and the guest can be interrupted without having ended the one before.
    apic.deliver(message(0x44));
    assert!(apic.awaits_untold_end());
    apic.insist_on_end(&memory);
    assert_eq!(memory.read_obj::<u32>(at).unwrap(), 0);
    assert_eq!(take(&mut apic, &memory), None);
    assert!(!apic.awaits_untold_end());
    write(&mut apic, &memory, END_OF_INTERRUPT, 0);
    assert_eq!(take(&mut apic, &memory), Some(0x44));
}

#[test]
fn nested_interrupts_end_in_order() {
    let memory = memory();
    let at = GuestAddress(EOI_WORD);
    let mut apic = enabled(&memory);
    write(&mut apic, &memory, PARAVIRTUAL_EOI, EOI_WORD | 1);
    apic.deliver(message(0x41));
    assert_eq!(take(&mut apic, &memory), Some(0x41));
    apic.deliver(message(0x91));
    assert_eq!(take(&mut apic, &memory), Some(0x91));
    memory.write_obj(0u32, at).unwrap(); // ends 0x91
    assert_eq!(take(&mut apic, &memory), None);
    assert_eq!(apic.read(IN_SERVICE + 4, 0), Some(0));
    assert_eq!(apic.read(IN_SERVICE + 2, 0), Some(2));
    write(&mut apic, &memory, END_OF_INTERRUPT, 0); // ends 0x41
    assert_eq!(apic.read(IN_SERVICE + 2, 0), Some(0));
}

#[test]
fn reads_show_what_ended_without_an_exit() {
    let memory = memory();
    let mut devices = crate::devices::Devices::new(&memory, [0; 6]);
    for (index, value) in [
        (SPURIOUS, 0x1ff),
        (LVT_LINT0, u64::from(MASKED | EXTERNAL)),
        (PARAVIRTUAL_EOI, EOI_WORD | 1),
        (SELF_IPI, 0x41),
    ] {
        assert!(devices.write_msr(index, value, 0, 0), "{index:#x}");
    }
    assert_eq!(devices.acknowledge_interrupt(), 0x41);
    assert_eq!(devices.read_msr(IN_SERVICE + 2, 0), Some(2));
    memory.write_obj(0u32, GuestAddress(EOI_WORD)).unwrap();
    assert_eq!(devices.read_msr(IN_SERVICE + 2, 0), Some(0));
}

#[test]
fn an_end_by_the_register_is_not_awaited_in_memory_as_well() {
    let memory = memory();
    let at = GuestAddress(EOI_WORD);
    let mut apic = enabled(&memory);
    write(&mut apic, &memory, PARAVIRTUAL_EOI, EOI_WORD | 1);
    for vector in [0x41, 0x91] {
        apic.deliver(message(vector));
        assert_eq!(take(&mut apic, &memory), Some(vector));
    }
    write(&mut apic, &memory, END_OF_INTERRUPT, 0); // of 0x91, for which the bit is set
    assert_eq!(memory.read_obj::<u32>(at).unwrap(), 0);
    apic.look_for_untold_end(&memory);
    assert_eq!(apic.read(IN_SERVICE + 2, 0), Some(2), "0x41 goes on");
    assert_eq!(apic.check(&memory), Ok(()));
}

#[test]
fn an_end_outside_of_memory_is_not_offered() {
    let memory = memory();
    let mut apic = enabled(&memory);
    write(&mut apic, &memory, PARAVIRTUAL_EOI, 0xffff_f000 | 1);
    for _ in 0..2 {
        apic.deliver(message(0x41));
        assert_eq!(take(&mut apic, &memory), Some(0x41));
        write(&mut apic, &memory, END_OF_INTERRUPT, 0);
    }
}

#[test]
fn what_is_not_there_is_refused() {
    let memory = memory();
    let mut apic = enabled(&memory);
    assert!(!apic.write(ID, 1, 0, &memory));
    assert!(!apic.write(BASE, BASE_VALUE & !(1 << 10), 0, &memory));
    assert!(!apic.write(SPURIOUS, 1 << 32, 0, &memory));
    assert!(!apic.write(PARAVIRTUAL_EOI, EOI_WORD | 0b11, 0, &memory));
    assert_eq!(apic.read(END_OF_INTERRUPT, 0), None);
    assert_eq!(apic.read(0x8ff, 0), None);
    assert_eq!(apic.read(BASE, 0), Some(0xfee0_0d00));
}
