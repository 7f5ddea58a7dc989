//! A processor whose stops are named by a counter.
//!
//! [`CountingCpu`] puts a processor and a counter together. It knows neither: [`EventCounter`] and
//! [`Steppable`] are what it needs of them, so that it is tested with a simulated counter.

use std::ops::Range;

use super::{Ran, Seekable, Settled, seek, settle};
use crate::cpu::debug::DebugCpu;
use crate::cpu::{
    Counted, CountedStop, CpuError, CpuState, Exit, GuestCpu, Look, Registers, SeekError,
};
use crate::ram::PageSet;

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

    /// Ends the stepping: the guest is left as if it had run freely to where it stands.
    ///
    /// # Errors
    /// [`CpuError`].
    fn end_steps(&mut self) -> Result<(), CpuError>;
}

/// A processor whose stops are named by a counter once that is switched on, by
/// [`CountingCpu::count_with`]. Without one it is the processor that it was made of.
pub struct CountingCpu<P, C> {
    cpu: P,
    counting: Option<Counting<C>>,
    window_wanted: bool,
    /// An exit that the guest came to on the way to a place with a name.
    pending: Option<Exit>,
}

struct Counting<C> {
    counter: C,
    /// What was counted since the execution point before the counter was restarted.
    before: u64,
    /// The count at the last [`CpuState::save`], which a [`CpuState::load`] brings back.
    saved: u64,
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
            window_wanted: false,
            pending: None,
        }
    }

    /// The processor itself.
    pub fn inner(&mut self) -> &mut P {
        &mut self.cpu
    }
}

impl<P: Steppable, C: EventCounter> CountingCpu<P, C> {
    /// Names stops with `counter` from now on. To be called on the guest's thread at an execution
    /// point, on both hosts of a pair or on none.
    ///
    /// # Errors
    /// [`CpuError::Counter`].
    pub fn count_with(&mut self, mut counter: C) -> Result<(), CpuError> {
        counter.restart()?;
        self.counting = Some(Counting {
            counter,
            before: 0,
            saved: 0,
        });
        Ok(())
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
        self.counting.counter.skid()
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
        let ran = self.cpu.step()?;
        Ok(self.unless_window(ran))
    }
}

impl<P: Steppable, C: EventCounter> GuestCpu for CountingCpu<P, C> {
    fn run(&mut self) -> Result<Exit, CpuError> {
        match self.pending.take() {
            Some(exit) => Ok(exit),
            None => self.cpu.run(),
        }
    }

    fn execution_point(&mut self) -> Result<(), CpuError> {
        match &mut self.counting {
            Some(counting) => counting.restart_from(0),
            None => Ok(()),
        }
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
                log::warn!("{error}: from now on stops are named by state deltas");
                self.counting = None;
                Counted::Unnamed
            }
            Some(Err(error)) => {
                log::debug!("a stop cannot be named by a count: {error}");
                Counted::Unnamed
            }
        })
    }

    fn seek(&mut self, stop: &CountedStop) -> Result<(), SeekError> {
        let Some(sought) = self.search(|search| seek(search, stop, PATIENCE)) else {
            return Err(SeekError::NoCounter);
        };
        sought?.map_err(|miss| SeekError::Missed(miss.to_string()))
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
        if let Some(counting) = &mut self.counting {
            counting.saved = counting.count()?;
        }
        self.cpu.save()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), CpuError> {
        self.pending = None;
        self.cpu.load(state)?;
        match &mut self.counting {
            Some(counting) => counting.restart_from(counting.saved),
            None => Ok(()),
        }
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

    fn drop_translations(&mut self) -> Result<(), CpuError> {
        self.cpu.drop_translations()
    }
}
