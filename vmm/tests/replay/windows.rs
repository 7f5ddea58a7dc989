//! Interrupt windows that open elsewhere.

use ftvm_vmm::dice::Dice;
use ftvm_vmm::engine::{Difference, EngineError};
use ftvm_vmm::sources::Verification;
use logging_channel::entry::Landmark;
use proptest::prelude::*;

use crate::guest::{deeds, script};
use crate::world::Playback;
use crate::{record, replay};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// As where a host makes an exit one instruction early.
    #[test]
    fn a_window_that_is_one_instruction_off_is_named(
        deeds in deeds(),
        seed: u64,
        at: prop::sample::Index,
    ) {
        let (script, mut dice) = (script(&deeds), Dice(seed));
        let (_, mut log) = record(&script, &mut dice, Verification::Digests);
        let mut windows: Vec<_> = log.iter_mut().filter_map(|e| e.point.landmark.as_mut()).collect();
        prop_assume!(!windows.is_empty());
        let at = at.index(windows.len());
        let Landmark { rip } = *windows[at];
        windows[at].rip = rip - 1;
        let replayed = replay(&script, &mut dice, Playback::new(log));
        let Err(EngineError::Diverged(divergence)) = &replayed.ended else {
            return Err(TestCaseError::fail(format!("{:?}", replayed.ended)));
        };
        let expected = Difference::Window { logged: rip - 1, replayed: rip };
        prop_assert_eq!(&divergence.difference, &expected);
        prop_assert!(divergence.likely_cause().contains("open the interrupt window"));
    }
}
