//! The processor's state as a whole.

use std::ops::Range;

use super::error::CpuError;
use crate::ram::PageSet;

/// How one looks for what the guest wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The guest may notice: the other host looks at the same place, or takes over a state after it.
    Open,
    /// The guest must not notice: the other host does not look here.
    Hidden,
}

impl Look {
    /// Whether it may change which pages are watched. A guest that the processor translates for (no
    /// shadow paging) does not notice.
    pub(crate) fn may_change(self, is_shadow_paging: bool) -> bool {
        self == Self::Open || !is_shadow_paging
    }
}

/// State that can be taken from one processor and given to another of the same model.
pub trait CpuState {
    /// Finishes the port, MMIO or MSR access of the last exit, so that the processor stands
    /// between two instructions.
    ///
    /// # Errors
    /// [`CpuError`].
    fn complete_access(&mut self) -> Result<(), CpuError>;

    /// Whether the processor stands between two instructions with nothing on its way: no event
    /// being delivered, no interrupt shadow. Only there may its state be taken after an
    /// [`Exit::Kicked`](super::Exit::Kicked): elsewhere the two processors would have to agree on
    /// details of event delivery that are not architectural.
    ///
    /// # Errors
    /// [`CpuError`].
    fn at_rest(&mut self) -> Result<bool, CpuError>;

    /// Everything that its further execution depends on, but memory.
    ///
    /// # Errors
    /// [`CpuError`].
    fn save(&mut self) -> Result<Vec<u8>, CpuError>;

    /// Takes a saved state over. To be called after [`CpuState::complete_access`].
    ///
    /// # Errors
    /// [`CpuError::State`] if it is not one of this processor's model.
    fn load(&mut self, state: &[u8]) -> Result<(), CpuError>;

    /// Digests of the parts of the state, by name, beside the general registers. The same names
    /// in the same order on every host.
    ///
    /// # Errors
    /// [`CpuError`].
    fn part_digests(&mut self) -> Result<Vec<(&'static str, u32)>, CpuError>;

    /// Begins to track which pages the guest writes.
    ///
    /// # Errors
    /// [`CpuError`].
    fn track_writes(&mut self) -> Result<(), CpuError>;

    /// Adds the pages that the guest wrote since the last open look, or since
    /// [`CpuState::track_writes`], and maybe others that it writes often: who wants to know whether
    /// a page changed has to look at it, and to say so ([`CpuState::looked_at`]): what waits for that is
    /// not watched for more writes.
    ///
    /// # Errors
    /// [`CpuError`].
    fn take_written_pages(&mut self, look: Look, into: &mut PageSet) -> Result<(), CpuError>;

    /// Of the pages that were named in such a look, those of `range` have been looked at. Those that are
    /// `unchanged` are not written as often as it seemed.
    fn looked_at(&mut self, look: Look, range: Range<u64>, unchanged: &PageSet);

    /// Forgets all that is kept of the guest's page tables beside its memory, and which pages it wrote,
    /// wherever what it does next could depend on that. Where both hosts' processors have the same state
    /// and memory, and came there on two ways, they do the same from there on if both do this.
    ///
    /// Returns whether that costs the guest an exit to the hypervisor for each page that it uses again.
    ///
    /// # Errors
    /// [`CpuError`].
    fn drop_translations(&mut self) -> Result<bool, CpuError>;
}
