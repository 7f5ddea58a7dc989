//! A disk with a cache that its power takes along.

use std::collections::VecDeque;

use fastrand::Rng;

use super::guest::{Content, SECTORS};

/// What one sector holds.
#[derive(Debug, Clone, Default)]
struct Sector {
    stable: Content,
    /// What was written since, the newest last, with the number of the write on the medium. Any of it may
    /// have reached the medium.
    cached: VecDeque<(u64, Content)>,
}

/// Sectors, in the system's memory and on the medium.
#[derive(Debug, Clone, Default)]
pub(crate) struct Medium {
    sectors: [Sector; SECTORS],
    /// Sectors written so far.
    written: u64,
}

/// What was written by a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written(u64);

impl Medium {
    /// What is read.
    pub(crate) fn read(&self, sector: usize) -> Content {
        let it = &self.sectors[sector];
        it.cached.back().map_or(it.stable, |(_, content)| *content)
    }

    /// What a power cut leaves, at least: any of these may be there after it.
    pub(crate) fn may_be(&self, sector: usize) -> impl Iterator<Item = Content> + '_ {
        let it = &self.sectors[sector];
        let cached = it.cached.iter().map(|(_, content)| *content);
        std::iter::once(it.stable).chain(cached)
    }

    pub(crate) fn write(&mut self, sector: usize, content: Content) {
        self.written += 1;
        self.sectors[sector]
            .cached
            .push_back((self.written, content));
    }

    /// What a flush that begins now covers.
    pub(crate) fn written(&self) -> Written {
        Written(self.written)
    }

    /// A flush is done that covers this.
    pub(crate) fn flushed(&mut self, covered: Written) {
        for sector in &mut self.sectors {
            while let Some((_, content)) = sector.cached.pop_front_if(|(at, _)| *at <= covered.0) {
                sector.stable = content;
            }
        }
    }

    /// What had not reached the medium is lost: any of what is cached, sector by sector.
    pub(crate) fn lose_power(&mut self, rng: &mut Rng) {
        for sector in &mut self.sectors {
            let reached = rng.usize(..=sector.cached.len());
            if let Some((_, content)) = sector.cached.drain(..).take(reached).next_back() {
                sector.stable = content;
            }
        }
    }

    /// A flush fails: the system takes some sectors for written that are not, and drops them.
    pub(crate) fn fail_flush(&mut self, rng: &mut Rng) {
        for sector in &mut self.sectors {
            let reached = rng.usize(..=sector.cached.len());
            if rng.bool()
                && let Some((_, content)) = sector.cached.drain(..).take(reached).next_back()
            {
                sector.stable = content;
            }
        }
    }
}
