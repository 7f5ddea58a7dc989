//! What has failed is not tried again at once, and the oftener it fails the later.

/// How long something that has failed is left alone: twice as long with each failure in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Backoff {
    /// In a row.
    failures: u32,
    /// For so many intervals more.
    left: u32,
}

impl Backoff {
    /// It has failed. For how many intervals it is left alone: `first`, if it had not failed before, and never
    /// more than `most`.
    pub(crate) fn fail(&mut self, first: u32, most: u32) -> u32 {
        self.left = first.saturating_mul(1 << self.failures).min(most);
        // It does not become longer from there on.
        if self.left < most {
            self.failures += 1;
        }
        self.left
    }

    /// An interval has passed.
    pub(crate) fn tick(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// Whether it may be tried.
    pub(crate) fn is_over(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_a_bound_and_passes() {
        let mut backoff = Backoff::default();
        assert!(backoff.is_over());
        let pauses: Vec<u32> = (0..6).map(|_| backoff.fail(5, 60)).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        (0..59).for_each(|_| backoff.tick());
        assert!(!backoff.is_over());
        backoff.tick();
        assert!(backoff.is_over());
        assert_eq!(backoff.fail(5, 60), 60, "it was not mended meanwhile");
    }
}
