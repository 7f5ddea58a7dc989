//! Who answers: the guest's frames as they come out of each host, for as long as a row takes.

use std::time::{Duration, SystemTime};

use crate::error::Result;
use crate::host::Host;
use crate::network::{GUEST_MAC, Network};
use crate::testbed::Testbed;
use crate::wiretap::Wiretap;

/// A look at some hosts.
#[derive(Debug)]
pub(super) struct Watch<const HOSTS: usize> {
    /// Of each host, one for each of its lives: a host that boots again has new links.
    taps: [Vec<Wiretap>; HOSTS],
    /// Hosts that slept, and what of theirs is not looked at.
    asleep: Vec<Sleep>,
}

/// What comes out of a host that slept may have left its `ftvm` before that, and lie in the host's queues.
#[derive(Debug, Clone, Copy)]
struct Sleep {
    host: usize,
    from: SystemTime,
    /// Its `ftvm` had ended by then.
    until: SystemTime,
}

impl<const HOSTS: usize> Watch<HOSTS> {
    /// Begins to look.
    ///
    /// # Errors
    ///
    /// When a host is gone, or we may not look.
    pub(super) fn start(testbed: &Testbed, hosts: &[Host; HOSTS]) -> Result<Self> {
        let mut watch = Self {
            taps: [const { Vec::new() }; HOSTS],
            asleep: Vec::new(),
        };
        for (which, host) in hosts.iter().enumerate() {
            watch.follow(which, testbed, host)?;
        }
        Ok(watch)
    }

    /// A host has links that it had not before.
    ///
    /// # Errors
    ///
    /// As [`Watch::start`].
    pub(super) fn follow(&mut self, which: usize, testbed: &Testbed, host: &Host) -> Result<()> {
        let tap = Wiretap::start(testbed, host, Network::Client, GUEST_MAC)?;
        self.taps[which].push(tap);
        Ok(())
    }

    /// A host slept from then on. It is awake again, and what replicated the guest there has ended.
    pub(super) fn slept(&mut self, host: usize, from: SystemTime) {
        let until = SystemTime::now();
        self.asleep.push(Sleep { host, from, until });
    }

    /// The hosts that answered in the last while.
    ///
    /// # Errors
    ///
    /// When not all can be seen.
    pub(super) fn lately(&self, time: Duration) -> Result<Vec<usize>> {
        let since = SystemTime::now() - time;
        let frames = self.frames()?;
        let answers = |host: &usize| frames[*host].iter().any(|at| *at > since);
        Ok((0..HOSTS).filter(answers).collect())
    }

    /// The hosts that answered, one after the other.
    ///
    /// # Errors
    ///
    /// When not all can be seen.
    pub(super) fn turns(&self) -> Result<Vec<usize>> {
        Ok(turns(&self.frames()?))
    }

    fn frames(&self) -> Result<[Vec<SystemTime>; HOSTS]> {
        let mut frames = [const { Vec::new() }; HOSTS];
        for (which, taps) in self.taps.iter().enumerate() {
            for tap in taps {
                frames[which].extend(tap.times()?);
            }
        }
        for sleep in &self.asleep {
            frames[sleep.host].retain(|at| *at < sleep.from || *at > sleep.until);
        }
        Ok(frames)
    }
}

/// Whose turn it was, one after the other, by when frames came out of each.
fn turns(frames: &[Vec<SystemTime>]) -> Vec<usize> {
    let of_host = |(host, times): (usize, &Vec<SystemTime>)| -> Vec<(SystemTime, usize)> {
        times.iter().map(|at| (*at, host)).collect()
    };
    let mut all: Vec<_> = frames.iter().enumerate().flat_map(of_host).collect();
    all.sort_unstable();
    let mut turns: Vec<usize> = all.into_iter().map(|(_, host)| host).collect();
    turns.dedup();
    turns
}

/// A host that answers again after another one did: two did at once.
pub(super) fn comes_back(turns: &[usize]) -> Option<usize> {
    let later = |n: &usize| turns[..*n].contains(&turns[*n]);
    (0..turns.len()).find(later).map(|n| turns[n])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_answers_after_another_one_did_is_found() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let times = |ms: &[u64]| ms.iter().map(|ms| at(*ms)).collect::<Vec<_>>();
        let one_after_the_other = [times(&[1, 5, 2]), times(&[8, 7]), times(&[])];
        let seen = turns(&one_after_the_other);
        assert_eq!((seen.as_slice(), comes_back(&seen)), (&[0, 1][..], None));
        let seen = turns(&[times(&[1, 5]), times(&[4]), times(&[9])]);
        assert_eq!(seen, [0, 1, 0, 2]);
        assert_eq!(comes_back(&seen), Some(0));
        assert_eq!(comes_back(&[]), None);
    }
}
