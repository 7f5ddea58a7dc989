//! How much memory a host has for one more guest.

use std::fs;
use std::path::Path;

use super::tending::Guest;
use crate::ram::Room;

/// What is left in MiB beside these guests, of which all together have at most `limit`.
pub(super) fn left_mib<'a>(limit: Option<u64>, guests: impl Iterator<Item = &'a Guest>) -> u64 {
    let guests: Vec<Share> = guests.map(Share::of).collect();
    let there = Room::left_to_lock().bytes >> 20;
    left(limit, there, &guests)
}

/// What a guest takes, in MiB.
struct Share {
    /// In all.
    all: u64,
    /// Of that, what it has already.
    has: u64,
}

impl Share {
    fn of(guest: &Guest) -> Self {
        Self {
            all: guest.memory_mib,
            has: guest.pid.map_or(0, resident_mib),
        }
    }
}

fn left(limit: Option<u64>, there: u64, guests: &[Share]) -> u64 {
    // What guests will take and have not yet is not there for others.
    let to_come = guests
        .iter()
        .map(|guest| guest.all.saturating_sub(guest.has));
    let there = there.saturating_sub(to_come.sum());
    let taken = guests.iter().map(|guest| guest.all).sum();
    limit.map_or(there, |limit| limit.saturating_sub(taken).min(there))
}

/// How much memory a process has, in MiB; 0 of one that has ended.
fn resident_mib(pid: u32) -> u64 {
    let status = Path::new("/proc").join(pid.to_string()).join("status");
    let status = fs::read_to_string(status).unwrap_or_default();
    let mut lines = status.lines().map(str::split_whitespace);
    let resident = lines.find_map(|mut words| match words.next() {
        Some("VmRSS:") => words.next()?.parse::<u64>().ok(),
        _ => None,
    });
    resident.map_or(0, |kib| kib >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guests_will_take_is_not_left() {
        let guests = [(300, 320), (200, 50)].map(|(all, has)| Share { all, has });
        assert_eq!(left(None, 1000, &[]), 1000);
        assert_eq!(left(None, 1000, &guests), 850);
        assert_eq!(left(None, 100, &guests), 0);
        assert_eq!(left(Some(800), 1000, &guests), 300);
        assert_eq!(left(Some(2000), 1000, &guests), 850);
        assert_eq!(left(Some(400), 1000, &guests), 0);
        assert!(resident_mib(std::process::id()) > 0);
    }
}
