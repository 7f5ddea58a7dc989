//! What a client wrote, what was acknowledged, and what was flushed: held against what a disk has
//! after a crash.

use std::io;

use disk_server::nbd::protocol::{Command, CommandFlags};
use fastrand::Rng;

use crate::client::Client;

/// The unit that lands whole or not at all, in bytes.
pub(crate) const SECTOR: usize = 512;

/// What is known of a sector. Versions count its writes, from 1; 0 is a sector of zeroes.
#[derive(Debug, Clone, Copy, Default)]
struct Sector {
    sent: u64,
    acknowledged: u64,
    flushed: u64,
}

/// A region of a disk that one client writes.
#[derive(Debug)]
pub(crate) struct Region {
    first: u64,
    sectors: Vec<Sector>,
}

/// What must have survived.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Promise {
    /// What was flushed: the disk lost power.
    Flushed,
    /// What was acknowledged: the server was killed, the kernel lives.
    Acknowledged,
}

fn content(sector: u64, version: u64) -> Vec<u8> {
    if version == 0 {
        return vec![0; SECTOR];
    }
    [sector.to_be_bytes(), version.to_be_bytes()]
        .concat()
        .repeat(SECTOR / 16)
}

impl Region {
    pub(crate) fn new(first: u64, sectors: usize) -> Region {
        Region {
            first,
            sectors: vec![Sector::default(); sectors],
        }
    }

    fn offset(&self, index: usize) -> u64 {
        (self.first + index as u64) * SECTOR as u64
    }

    /// Writes and flushes at random until the connection breaks or the server fails.
    pub(crate) fn work(&mut self, client: &mut Client, random: &mut Rng) -> io::Result<()> {
        loop {
            let failed = self.write_some(client, random)?;
            if failed {
                return Ok(());
            }
            if random.u8(..) < 96 {
                let before: Vec<u64> = self.sectors.iter().map(|s| s.acknowledged).collect();
                let flush = (Command::Flush, CommandFlags::empty());
                if client.call(flush, 0, 0, &[])?.is_err() {
                    return Ok(());
                }
                for (sector, flushed) in self.sectors.iter_mut().zip(before) {
                    sector.flushed = flushed;
                }
            }
        }
    }

    /// Several writes under way at a time, to different sectors. Whether one failed.
    fn write_some(&mut self, client: &mut Client, random: &mut Rng) -> io::Result<bool> {
        let count = random.usize(1..=12);
        let mut under_way = Vec::new();
        for index in random.choose_multiple(0..self.sectors.len(), count) {
            let number = self.first + index as u64;
            let offset = self.offset(index);
            let sector = &mut self.sectors[index];
            sector.sent += 1;
            let flags = if random.u8(..) < 48 {
                CommandFlags::FUA
            } else {
                CommandFlags::empty()
            };
            let data = content(number, sector.sent);
            let cookie = client.send((Command::Write, flags), offset, SECTOR as u32, &data)?;
            under_way.push((cookie, index, flags));
        }
        let mut failed = false;
        for _ in 0..under_way.len() {
            let reply = client.receive()?;
            let (_, index, flags) = under_way
                .iter()
                .find(|(cookie, ..)| *cookie == reply.cookie)
                .unwrap();
            let sector = &mut self.sectors[*index];
            if reply.result.is_err() {
                failed = true;
                continue;
            }
            sector.acknowledged = sector.sent;
            if flags.contains(CommandFlags::FUA) {
                sector.flushed = sector.sent;
            }
        }
        Ok(failed)
    }

    /// Compares with what the disk has, and goes on from there.
    pub(crate) fn check(&mut self, client: &mut Client, promise: Promise) {
        for index in 0..self.sectors.len() {
            let number = self.first + index as u64;
            let bytes = client.read(self.offset(index), SECTOR as u32).unwrap();
            let sector = &mut self.sectors[index];
            let least = match promise {
                Promise::Flushed => sector.flushed,
                Promise::Acknowledged => sector.acknowledged,
            };
            let found = (0..=sector.sent).find(|version| bytes == content(number, *version));
            let found = found.unwrap_or_else(|| panic!("sector {number} was never like this"));
            assert!(
                found >= least,
                "sector {number} went back to version {found}: {promise:?} was {sector:?}"
            );
            *sector = Sector {
                sent: found,
                acknowledged: found,
                flushed: 0,
            };
        }
    }

    /// How many sectors have flushed data that is not the last that was sent.
    pub(crate) fn interesting(&self) -> usize {
        let differ = |s: &&Sector| s.flushed > 0 && s.flushed < s.sent;
        self.sectors.iter().filter(differ).count()
    }
}
