//! The loss of power: what was not flushed is lost in part, and nothing else.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread;

use disk_server::nbd::protocol::{Command, CommandFlags, ErrorCode};
use disk_server::server::RunError;
use disk_server::storage::{Allocation, Storage, Zeroing};
use fastrand::Rng;

use crate::client::Client;
use crate::disks::{Gated, Local};
use crate::ledger::{Promise, Region, SECTOR};
use crate::support::until;

const SECTORS: usize = 48;
const CLIENTS: usize = 4;

/// A disk with a volatile cache.
#[derive(Debug, Clone)]
struct Volatile(Arc<Mutex<Medium>>);

#[derive(Debug)]
struct Medium {
    /// What is read while there is power.
    cache: Vec<u8>,
    /// What survives.
    durable: Vec<u8>,
    /// What was written since the last flush began, in order.
    unflushed: Vec<(usize, Vec<u8>)>,
    /// What a flush is about to bring to the medium.
    flushing: Vec<(usize, Vec<u8>)>,
    writes: usize,
    power: bool,
}

impl Volatile {
    fn new(durable: Vec<u8>) -> Volatile {
        Volatile(Arc::new(Mutex::new(Medium {
            cache: durable.clone(),
            durable,
            unflushed: Vec::new(),
            flushing: Vec::new(),
            writes: 0,
            power: true,
        })))
    }

    fn with<R>(&self, action: impl FnOnce(&mut Medium) -> R) -> io::Result<R> {
        let mut medium = self.0.lock().unwrap();
        if medium.power {
            Ok(action(&mut medium))
        } else {
            Err(io::Error::other("no power"))
        }
    }

    /// Ends it. Some of what was not flushed has reached the medium all the same.
    fn cut(&self, random: &mut Rng) -> Vec<u8> {
        let mut medium = self.0.lock().unwrap();
        medium.power = false;
        let mut pending = std::mem::take(&mut medium.flushing);
        pending.append(&mut medium.unflushed);
        // From "nothing" to "nearly all".
        let share = random.u8(..);
        for (at, data) in pending {
            if random.u8(..) < share {
                medium.durable[at..at + data.len()].copy_from_slice(&data);
            }
        }
        medium.durable.clone()
    }
}

impl Storage for Volatile {
    fn size(&self) -> u64 {
        (CLIENTS * SECTORS * SECTOR) as u64
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.with(|medium| data.copy_from_slice(&medium.cache[at..at + data.len()]))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.with(|medium| {
            medium.writes += 1;
            medium.cache[at..at + data.len()].copy_from_slice(data);
            medium.unflushed.push((at, data.to_vec()));
        })
    }

    fn zero(&self, offset: u64, length: u64, _: Zeroing) -> io::Result<()> {
        self.write(offset, &vec![0; usize::try_from(length).unwrap()])
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.with(|medium| medium.flushing = std::mem::take(&mut medium.unflushed))?;
        // Others write, and the power may go.
        for _ in 0..8 {
            thread::yield_now();
        }
        self.with(|medium| {
            for (at, data) in std::mem::take(&mut medium.flushing) {
                medium.durable[at..at + data.len()].copy_from_slice(&data);
            }
        })
    }

    fn allocations(&self, _: u64, length: u64, _: usize) -> io::Result<Vec<Allocation>> {
        let hole = false;
        Ok(vec![Allocation { length, hole }])
    }

    fn prefetch(&self, _: u64, _: u64) {}
}

#[test]
fn nothing_that_was_flushed_is_lost_with_the_power() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    let mut durable = vec![0; CLIENTS * SECTORS * SECTOR];
    let mut regions: Vec<Region> = (0..CLIENTS)
        .map(|n| Region::new((n * SECTORS) as u64, SECTORS))
        .collect();
    let mut interesting = 0;
    for _ in 0..30 {
        let disk = Volatile::new(durable);
        let server = Local::start(disk.clone(), false);
        let writes = random.usize(20..800);
        durable = thread::scope(|scope| {
            for region in &mut regions {
                let (mut random, address) = (random.fork(), server.nbd);
                scope.spawn(move || {
                    // After the cut a flush fails, which ends the server.
                    if let Ok(Ok(mut client)) = Client::try_open(address, "disk") {
                        let _ = region.work(&mut client, &mut random);
                    }
                });
            }
            until("some writes", || disk.0.lock().unwrap().writes >= writes);
            disk.cut(&mut random)
        });
        let _ = server.stopped();
        interesting += regions.iter().map(Region::interesting).sum::<usize>();
        let server = Local::start(Volatile::new(durable.clone()), false);
        for region in &mut regions {
            region.check(&mut Client::open(server.nbd, "disk"), Promise::Flushed);
        }
    }
    assert!(interesting > 100, "the power never went in between");
}

#[test]
fn a_failed_flush_ends_the_server() {
    let disk = Gated::new(1 << 20);
    let flush = (Command::Flush, CommandFlags::empty(), 0, 0);
    let fua = (Command::Write, CommandFlags::FUA, 512, 512);
    for (command, flags, length, written) in [flush, fua] {
        let server = Local::start(disk.clone(), false);
        let mut client = Client::open(server.nbd, "disk");
        let mut other = Client::open(server.nbd, "disk");
        client.flush().unwrap();
        client.write(0, &[1; 512]).unwrap();
        disk.fail_next_flush();
        let data = vec![1; written];
        let result = client.call((command, flags), 0, length, &data).unwrap();
        // Not an error that a guest of ours would see: it asks the next server.
        assert_eq!(result.unwrap_err(), ErrorCode::Shutdown);
        // Nobody is told that all is well, though the storage would say so now.
        let flushes = disk.flushes();
        let late = other.call(flush_alone(), 0, 0, &[]);
        assert!(!matches!(late, Ok(Ok(_))), "a flush was believed: {late:?}");
        assert_eq!(disk.flushes(), flushes, "the storage was asked again");
        let ended = server.ended();
        assert!(matches!(ended, Err(RunError::Flush { .. })), "{ended:?}");
    }
    // The next one begins anew.
    let server = Local::start(disk, false);
    Client::open(server.nbd, "disk").flush().unwrap();
}

fn flush_alone() -> (Command, CommandFlags) {
    (Command::Flush, CommandFlags::empty())
}
