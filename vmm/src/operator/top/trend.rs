//! How a quantity went lately, as a line of bars.

use std::collections::VecDeque;

/// So many values are kept: one a second.
const KEPT: usize = 60;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The latest values, the earliest first; `None` where there was none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trend(VecDeque<Option<u64>>);

impl Trend {
    pub(super) fn push(&mut self, value: Option<u64>) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(value);
    }

    /// The latest values that `width` has room for, each with its bar: full at the highest of them, but at `full`
    /// where all are lower.
    pub(super) fn bars(&self, width: usize, full: u64) -> impl Iterator<Item = (u64, char)> {
        let values = self.0.iter().skip(self.0.len().saturating_sub(width));
        let known = values.clone().flatten().copied();
        let full = known.max().unwrap_or(0).max(full).max(1);
        values.map(move |value| {
            let Some(value) = *value else { return (0, ' ') };
            let highest = BARS.len() - 1;
            let bar = value.saturating_mul(highest as u64) / full;
            (value, BARS[usize::try_from(bar).unwrap_or(highest)])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_of_the_latest_values_and_full_at_the_highest() {
        let mut trend = Trend::default();
        (0..=100).for_each(|value| trend.push(Some(value)));
        let bars: String = trend.bars(4, 0).map(|(_, bar)| bar).collect();
        assert_eq!(bars, "▇▇▇█");
        let bars: String = trend.bars(2, 1000).map(|(_, bar)| bar).collect();
        assert_eq!(bars, "▁▁");
        assert_eq!(trend.bars(usize::MAX, 0).count(), KEPT);
        trend.push(None);
        let bars: String = trend.bars(2, 0).map(|(_, bar)| bar).collect();
        assert_eq!(bars, "█ ");
    }
}
