//! How much guests log, and so how many of them a channel serves.

use super::stage::{Ran, Stage};

/// What a guest logs with some load: medians of `docs/benchmark/report.json`, replicated (`logged-reads`). On faster
/// hosts a guest does more of the same, and logs in proportion.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) name: &'static str,
    pub(super) log_mbit_per_s: f64,
    /// Of all kinds.
    pub(super) entries_per_s: f64,
}

pub(super) const LOADS: [Load; 7] = [
    Load {
        name: "idle",
        log_mbit_per_s: 0.016,
        entries_per_s: 121.0,
    },
    Load {
        name: "Redis, 290 SET/s",
        log_mbit_per_s: 0.48,
        entries_per_s: 1550.0,
    },
    Load {
        name: "Redis, 4100 SET/s, 16 pipelined",
        log_mbit_per_s: 1.8,
        entries_per_s: 1715.0,
    },
    Load {
        name: "PostgreSQL, 20 transactions/s",
        log_mbit_per_s: 1.1,
        entries_per_s: 1039.0,
    },
    Load {
        name: "gcc, without a counter",
        log_mbit_per_s: 14.0,
        entries_per_s: 156.0,
    },
    Load {
        name: "random reads of 4 KiB, 480/s",
        log_mbit_per_s: 31.0,
        entries_per_s: 1379.0,
    },
    Load {
        name: "receives 265 Mbit/s",
        log_mbit_per_s: 266.0,
        entries_per_s: 1254.0,
    },
];

/// The share of a channel's time that guests may take. A channel that is never free has every output wait for what
/// came before, and whoever joins sends a guest's memory beside the log.
const SHARE: f64 = 0.5;

/// What an entry costs a channel, and what a byte of it, as two logs found that are nothing but one of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    seconds_per_entry: f64,
    seconds_per_byte: f64,
}

impl Cost {
    /// Found by these stages. `None` where either sent nothing.
    pub(super) fn found(mut ran: impl FnMut(Stage) -> Option<Ran>) -> Option<Self> {
        let (small, large) = (ran(Stage::Small)?, ran(Stage::LargeFrames)?);
        let cost = Self {
            seconds_per_entry: small.seconds / small.entries as f64,
            seconds_per_byte: large.seconds / large.bytes as f64,
        };
        (cost.seconds_per_entry.is_finite() && cost.seconds_per_byte.is_finite()).then_some(cost)
    }

    /// How many guests with this load take [`SHARE`] of the channel.
    pub(super) fn guests(self, load: &Load) -> u64 {
        let bytes_per_s = load.log_mbit_per_s * 1e6 / 8.0;
        let taken =
            self.seconds_per_entry * load.entries_per_s + self.seconds_per_byte * bytes_per_s;
        // What is below one guest is none.
        (SHARE / taken) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(stage: Stage, seconds: f64, bytes: u64, entries: u64) -> Ran {
        Ran {
            stage,
            seconds,
            bytes,
            entries,
            times: None,
            pressed: None,
        }
    }

    /// Two million entries a second, and 8 Gbit/s.
    fn cost() -> Cost {
        let found = Cost::found(|stage| match stage {
            Stage::Small => Some(ran(stage, 2.0, 40_000_000, 4_000_000)),
            Stage::LargeFrames => Some(ran(stage, 4.0, 4_000_000_000, 61_035)),
            _ => None,
        });
        found.expect("both were found")
    }

    #[test]
    fn guests_take_half_of_the_channel_by_their_entries_and_by_their_bytes() {
        let load = |log_mbit_per_s, entries_per_s| Load {
            name: "",
            log_mbit_per_s,
            entries_per_s,
        };
        assert_eq!(cost().guests(&load(400.0, 0.0)), 10, "half of 8 Gbit/s");
        assert_eq!(
            cost().guests(&load(0.0, 100_000.0)),
            10,
            "half of 2 million"
        );
        assert_eq!(cost().guests(&load(400.0, 100_000.0)), 5, "both");
        assert_eq!(cost().guests(&load(5000.0, 0.0)), 0, "none of these");
    }

    #[test]
    fn where_nothing_was_sent_nothing_is_known() {
        let nothing = Cost::found(|stage| Some(ran(stage, 3.0, 0, 0)));
        assert_eq!(nothing, None);
        assert_eq!(Cost::found(|_| None), None);
    }

    #[test]
    fn the_more_a_guest_logs_the_fewer_there_are() {
        let guests: Vec<u64> = LOADS.iter().map(|load| cost().guests(load)).collect();
        assert!(guests[0] > guests[1] && guests[1] > guests[6], "{guests:?}");
    }
}
