//! A processor whose stops are named by a counter.
//!
//! [`CountingCpu`] puts a processor and a counter together. It knows neither: [`EventCounter`] and
//! [`Steppable`] are what it needs of them, so that it is tested with a simulated counter.

use std::ops::Range;

use super::trust::{LATELY, MANY, StepCheck, Trust};
use super::{Branches, Miss, Ran, Seekable, Settled, Why, seek, settle};
use crate::cpu::debug::DebugCpu;
use crate::cpu::{
    Counted, CountedStop, CpuError, CpuState, Exit, GuestCpu, Look, Registers, SeekError,
};
use crate::ram::{GuestRam, PageSet};

/// Instructions that the guest is stepped through at most, on the way to the next counted event.
/// Code that has none in so many is a loop of plain jumps.
const SETTLE_STEPS: u64 = 2000;
/// Stops of a search at one count. Code between two branches is short, but a string instruction
/// stops at every iteration.
const PATIENCE: u64 = 1 << 20;

/// A counter of events that only the guest makes, on the thread that runs it.
pub trait EventCounter {
    /// Events since [`EventCounter::restart`].
    ///
    /// # Errors
    /// [`CpuError::Counter`], for every call here.
    fn count(&mut self) -> Result<u64, CpuError>;

    /// Counts from 0 again.
    ///
    /// # Errors
    /// [`CpuError::Counter`].
    fn restart(&mut self) -> Result<(), CpuError>;

    /// Stops the processor with an [`Exit::Kicked`] after `events` more events, at least 1, or up
    /// to [`EventCounter::skid`] later; with `None` no more.
    ///
    /// # Errors
    /// [`CpuError::Counter`].
    fn interrupt_after(&mut self, events: Option<u64>) -> Result<(), CpuError>;

    /// By how many events at most it stops the processor too late.
    fn skid(&self) -> u64;
}

/// A processor that can be stepped without the guest noticing. Interrupt windows are none of its
/// business meanwhile: none is asked for.
pub trait Steppable: GuestCpu {
    /// Finishes the last exit's access, if there is one, and executes one instruction, or one
    /// iteration of a string instruction, or less. Delivers what was injected before.
    ///
    /// # Errors
    /// [`CpuError`]; also where the guest cannot be stepped.
    fn step(&mut self) -> Result<Ran<Exit>, CpuError>;

    /// Runs until the next instruction is at `rip`, which it is not now, or until the counter stops
    /// it. May stop earlier.
    ///
    /// # Errors
    /// [`CpuError`].
    fn run_to(&mut self, rip: u64) -> Result<Ran<Exit>, CpuError>;

    /// The conditional branches that it executed in steps so far, as its code says.
    fn branches(&self) -> Branches;

    /// Ends the stepping: the guest is left as if it had run freely to where it stands.
    ///
    /// # Errors
    /// [`CpuError`].
    fn end_steps(&mut self) -> Result<(), CpuError>;
}

/// A processor whose stops are named by a counter once that is switched on, by
/// [`CountingCpu::count_with`]. Without one it is the processor that it was made of.
///
/// A counter may fail at any time: others take it, even before it is opened, it turns out to count what it should not, its
/// interrupts come too late again and again. That is never the end of the guest: from then on stops
/// have no name here ([`Counted::Unnamed`]) and none is found ([`SeekError::Lost`]), and state deltas
/// take over.
pub struct CountingCpu<P, C> {
    cpu: P,
    counting: Option<Counting<C>>,
    /// Why it does not count any more.
    lost: Option<String>,
    /// Whom that is told.
    tell: Option<Tell>,
    window_wanted: bool,
    /// An exit that the guest came to on the way to a place with a name.
    pending: Option<Exit>,
}

/// Tells somebody why a counter is not used any more.
type Tell = Box<dyn Fn(&str)>;

struct Counting<C> {
    counter: C,
    /// What was counted since the execution point before the counter was restarted.
    before: u64,
    /// The count at the last [`CpuState::save`], which a [`CpuState::load`] brings back.
    saved: u64,
    trust: Trust,
}

impl<C: EventCounter> Counting<C> {
    fn count(&mut self) -> Result<u64, CpuError> {
        Ok(self.before + self.counter.count()?)
    }

    fn restart_from(&mut self, count: u64) -> Result<(), CpuError> {
        self.before = count;
        self.counter.restart()
    }
}

impl<P, C> CountingCpu<P, C> {
    /// `cpu`, without a counter.
    #[must_use]
    pub fn new(cpu: P) -> Self {
        Self {
            cpu,
            counting: None,
            lost: None,
            tell: None,
            window_wanted: false,
            pending: None,
        }
    }

    /// Has `tell` told why its counter is not used any more, if it comes to that.
    pub fn tell_loss(&mut self, tell: impl Fn(&str) + 'static) {
        self.tell = Some(Box::new(tell));
    }

    /// The processor itself.
    pub fn inner(&mut self) -> &mut P {
        &mut self.cpu
    }
}

impl<P: Steppable, C: EventCounter> CountingCpu<P, C> {
    /// Names stops with the counter that was `opened` from now on. To be called on the guest's thread at
    /// an execution point, on both hosts of a pair or on none.
    ///
    /// Whether it counts: a counter that could not be opened, or does not begin, is one that is lost
    /// from the start. The other host may count on it by then, and hears of it as of any other loss.
    pub fn count_with(&mut self, opened: Result<C, CpuError>) -> bool {
        let begun = opened.and_then(|mut counter| counter.restart().map(|()| counter));
        match begun {
            Ok(counter) => {
                self.lost = None;
                self.counting = Some(Counting {
                    counter,
                    before: 0,
                    saved: 0,
                    trust: Trust::default(),
                });
            }
            Err(error) => self.go_on_without(&reason_of(error)),
        }
        self.counting.is_some()
    }

    /// The counter is not to be used any more.
    fn lose(&mut self, reason: &str) {
        if self.counting.is_some() {
            self.go_on_without(reason);
        }
    }

    fn go_on_without(&mut self, reason: &str) {
        self.counting = None;
        log::warn!(
            "the performance counter is not used any more: {reason}; from now on stops of a computing \
             guest are named by state deltas, which cost more"
        );
        if let Some(tell) = &self.tell {
            tell(reason);
        }
        self.lost = Some(reason.to_owned());
    }

    /// Does `work` with the counter, if there is one; a failure ends its use.
    fn with_counter(&mut self, work: impl FnOnce(&mut Counting<C>) -> Result<(), CpuError>) {
        if let Some(counting) = &mut self.counting
            && let Err(error) = work(counting)
        {
            self.lose(&reason_of(error));
        }
    }

    /// What becomes of a place that was not found.
    fn missed(&mut self, miss: &Miss<Exit>) -> SeekError {
        let times = match &mut self.counting {
            Some(counting) => counting.trust.missed(&miss.why),
            None => MANY,
        };
        if times >= MANY {
            let reason = format!("{times} of the last {LATELY} places were missed; {miss}");
            self.lose(&reason);
            return SeekError::Lost(reason);
        }
        match miss.why {
            Why::Overrun { .. } => SeekError::Overrun(miss.to_string()),
            _ => SeekError::Missed(miss.to_string()),
        }
    }

    /// Does `work` with the processor and its counter, without an interrupt window in its way.
    fn search<T>(
        &mut self,
        work: impl FnOnce(&mut Search<'_, P, C>) -> Result<T, CpuError>,
    ) -> Option<Result<T, CpuError>> {
        let counting = self.counting.as_mut()?;
        let mut search = Search {
            cpu: &mut self.cpu,
            counting,
            window_wanted: self.window_wanted,
            check: StepCheck::default(),
        };
        search.cpu.request_interrupt_window(false);
        let result = work(&mut search);
        // Also after an error: the state may be mended by a transfer.
        let ended = self.cpu.end_steps();
        self.cpu.request_interrupt_window(self.window_wanted);
        Some(result.and_then(|done| ended.map(|()| done)))
    }
}

/// Processor and counter on the way to a place.
struct Search<'a, P, C> {
    cpu: &'a mut P,
    counting: &'a mut Counting<C>,
    window_wanted: bool,
    check: StepCheck,
}

/// What a counter failed with.
fn reason_of(error: CpuError) -> String {
    match error {
        CpuError::Counter(reason) => reason,
        other => other.to_string(),
    }
}

impl<P: Steppable, C: EventCounter> Search<'_, P, C> {
    /// An open window is an execution point of its own, which comes before a stop at its place.
    fn unless_window(&mut self, ran: Ran<Exit>) -> Ran<Exit> {
        match ran {
            Ran::Stopped if self.window_wanted && self.cpu.ready_for_interrupt() => {
                Ran::Exit(Exit::InterruptWindow)
            }
            other => other,
        }
    }
}

impl<P: Steppable, C: EventCounter> Seekable for Search<'_, P, C> {
    type Exit = Exit;
    type Error = CpuError;

    fn count(&mut self) -> Result<u64, CpuError> {
        self.counting.count()
    }

    fn registers(&mut self) -> Result<Registers, CpuError> {
        Ok(self.cpu.registers()?.compared())
    }

    fn skid(&self) -> u64 {
        self.counting.counter.skid() + self.counting.trust.margin()
    }

    fn run_for(&mut self, events: u64) -> Result<Ran<Exit>, CpuError> {
        self.cpu.end_steps()?;
        self.counting.counter.interrupt_after(Some(events))?;
        self.cpu.request_interrupt_window(self.window_wanted);
        let exit = self.cpu.run();
        self.cpu.request_interrupt_window(false);
        self.counting.counter.interrupt_after(None)?;
        Ok(match exit? {
            Exit::Kicked => self.unless_window(Ran::Stopped),
            exit => Ran::Exit(exit),
        })
    }

    fn run_to(&mut self, rip: u64, events: u64) -> Result<Ran<Exit>, CpuError> {
        self.counting.counter.interrupt_after(Some(events))?;
        let ran = self.cpu.run_to(rip);
        self.counting.counter.interrupt_after(None)?;
        let ran = ran?;
        Ok(self.unless_window(ran))
    }

    fn step(&mut self) -> Result<Ran<Exit>, CpuError> {
        let before = (self.counting.count()?, self.cpu.branches());
        let ran = self.cpu.step()?;
        if matches!(ran, Ran::Exit(_)) {
            // Nothing may come between it and who deals with it.
            return Ok(ran);
        }
        let after = (self.counting.count()?, self.cpu.branches());
        match self.check.step([before.0, after.0], [before.1, after.1]) {
            None => Ok(self.unless_window(ran)),
            Some(wrong) => Err(CpuError::Counter(wrong)),
        }
    }
}

impl<P: Steppable, C: EventCounter> GuestCpu for CountingCpu<P, C> {
    fn run(&mut self) -> Result<Exit, CpuError> {
        match self.pending.take() {
            Some(exit) => Ok(exit),
            None => self.cpu.run(),
        }
    }

    fn execution_point(&mut self) {
        self.with_counter(|counting| counting.restart_from(0));
    }

    fn stop_counting(&mut self, reason: &str) {
        self.lose(reason);
    }

    fn counted_stop(&mut self) -> Result<Counted, CpuError> {
        if self.counting.is_none() || !self.cpu.at_rest()? {
            return Ok(Counted::Unnamed);
        }
        let stopped = self.search(|search| match search.unless_window(Ran::Stopped) {
            Ran::Exit(exit) => Ok(Settled::Exit(exit)),
            Ran::Stopped => settle(search, SETTLE_STEPS),
        });
        Ok(match stopped {
            Some(Ok(Settled::At(stop))) => Counted::At(stop),
            Some(Ok(Settled::Exit(exit))) => {
                self.pending = Some(exit);
                Counted::Exit
            }
            Some(Ok(Settled::Nowhere)) | None => Counted::Unnamed,
            // The place has another name: the state there.
            Some(Err(error @ CpuError::Counter(_))) => {
                self.lose(&reason_of(error));
                Counted::Unnamed
            }
            Some(Err(error)) => {
                log::debug!("a stop cannot be named by a count: {error}");
                Counted::Unnamed
            }
        })
    }

    fn seek(&mut self, stop: &CountedStop) -> Result<(), SeekError> {
        match self.search(|search| seek(search, stop, PATIENCE)) {
            None => Err(match &self.lost {
                Some(reason) => SeekError::Lost(reason.clone()),
                None => SeekError::NoCounter,
            }),
            Some(Ok(Ok(()))) => {
                if let Some(counting) = &mut self.counting {
                    counting.trust.found();
                }
                Ok(())
            }
            Some(Ok(Err(miss))) => Err(self.missed(&miss)),
            Some(Err(error @ CpuError::Counter(_))) => {
                let reason = reason_of(error);
                self.lose(&reason);
                Err(SeekError::Lost(reason))
            }
            Some(Err(error)) => Err(error.into()),
        }
    }

    fn io_data(&mut self) -> &mut [u8] {
        self.cpu.io_data()
    }

    fn finish_tsc(&mut self, value: u64) {
        self.cpu.finish_tsc(value);
    }

    fn finish_msr(&mut self, value: Option<u64>) {
        self.cpu.finish_msr(value);
    }

    fn ready_for_interrupt(&mut self) -> bool {
        self.cpu.ready_for_interrupt()
    }

    fn inject(&mut self, vector: u8) -> Result<(), CpuError> {
        self.cpu.inject(vector)
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.window_wanted = wanted;
        self.cpu.request_interrupt_window(wanted);
    }

    fn registers(&mut self) -> Result<Registers, CpuError> {
        self.cpu.registers()
    }

    fn register_digest(&mut self) -> Result<u32, CpuError> {
        self.cpu.register_digest()
    }

    fn set_registers(&mut self, registers: &Registers) -> Result<(), CpuError> {
        self.cpu.set_registers(registers)
    }

    fn write_cr4(&mut self, value: u64) -> Result<bool, CpuError> {
        self.cpu.write_cr4(value)
    }

    fn raise_general_protection(&mut self) -> Result<(), CpuError> {
        self.cpu.raise_general_protection()
    }

    fn task_priority(&mut self) -> u8 {
        self.cpu.task_priority()
    }

    fn set_task_priority(&mut self, class: u8) {
        self.cpu.set_task_priority(class);
    }

    fn idt_base(&mut self) -> Result<u64, CpuError> {
        self.cpu.idt_base()
    }

    fn translate(&mut self, linear: u64) -> Option<u64> {
        self.cpu.translate(linear)
    }

    fn rip(&mut self) -> Result<u64, CpuError> {
        self.cpu.rip()
    }

    fn twin(&mut self, memory: &GuestRam) -> Result<Option<Box<dyn GuestCpu>>, CpuError> {
        self.cpu.twin(memory)
    }

    fn for_debugger(&mut self) -> Option<&mut dyn DebugCpu> {
        self.cpu.for_debugger()
    }
}

impl<P: Steppable, C: EventCounter> CpuState for CountingCpu<P, C> {
    fn complete_access(&mut self) -> Result<(), CpuError> {
        self.cpu.complete_access()
    }

    fn at_rest(&mut self) -> Result<bool, CpuError> {
        Ok(self.pending.is_none() && self.cpu.at_rest()?)
    }

    fn save(&mut self) -> Result<Vec<u8>, CpuError> {
        self.with_counter(|counting| {
            counting.saved = counting.count()?;
            Ok(())
        });
        self.cpu.save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), CpuError> {
        self.pending = None;
        self.cpu.load(state)?;
        self.with_counter(|counting| counting.restart_from(counting.saved));
        Ok(())
    }

    fn part_digests(&mut self) -> Result<Vec<(&'static str, u32)>, CpuError> {
        self.cpu.part_digests()
    }

    fn track_writes(&mut self) -> Result<(), CpuError> {
        self.cpu.track_writes()
    }

    fn take_written_pages(&mut self, look: Look, into: &mut PageSet) -> Result<(), CpuError> {
        self.cpu.take_written_pages(look, into)
    }

    fn looked_at(&mut self, look: Look, range: Range<u64>, unchanged: &PageSet) {
        self.cpu.looked_at(look, range, unchanged);
    }

    fn drop_translations(&mut self) -> Result<bool, CpuError> {
        self.cpu.drop_translations()
    }
}
