//! `programs/disk.c`, which writes to a guest's disk and reads it back, and what
//! must be on the disk then.
//!
//! It is `/bin/disk` in `tiny.cpio`, where the word `ftvm.do=disk` runs it on
//! `/dev/vda` with [`WORKERS`] workers, for ever or for the laps of `ftvm.laps=N`:
//! direct writes, reads, flushes, discards and zeroes, no file system. What it
//! writes depends on worker, lap and place alone, and [`check`] looks for that in
//! an image file: a disk that lost a flushed write is found.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::compiler;
use crate::error::{CompileError, DiskContentsError};

/// Workers in `tiny.cpio`.
pub const WORKERS: u64 = 2;

/// Bytes that the disk needs for [`WORKERS`] workers, at least.
pub const MIN_BYTES: u64 = WORKERS * AREA;

/// Slots of a worker that are written in each lap.
const SLOTS: u64 = 16;
/// Bytes from one slot to the next.
const STRIDE: u64 = 81_920;
/// Bytes of a worker's slots and its spare slot.
const AREA: u64 = (SLOTS + 1) * STRIDE;
/// Bytes written in a slot, by its number modulo 4.
const LENGTHS: [u64; 4] = [512, 4096, 73_728, 16_384];
/// Bytes of what is written at once or not at all.
const SECTOR: u64 = 512;
/// What the number of every word is multiplied by.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// `FACTOR * INVERSE == 1`.
const INVERSE: u64 = 0xf1de_83e1_9937_733d;

/// The program, a static executable.
///
/// # Errors
///
/// When it cannot be compiled.
pub fn program() -> Result<Vec<u8>, CompileError> {
    compiler::compile("disk", include_str!("programs/disk.c"))
}

/// A line of the program: a worker ended a lap, which is flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLine {
    /// The worker, from 0.
    pub worker: u64,
    /// The lap, from 1.
    pub lap: u64,
    /// Writes so far.
    pub writes: u64,
    /// Reads so far.
    pub reads: u64,
    /// Flushes so far.
    pub flushes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Reads that gave other data than was written.
    pub wrong: u64,
}

impl DiskLine {
    /// Reads a line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut parts = line.trim().strip_prefix("disk: ")?.split(", ");
        let mut before = |prefix: &str| parts.next()?.strip_prefix(prefix)?.parse().ok();
        let (worker, lap) = (before("worker ")?, before("lap ")?);
        let mut behind = |suffix: &str| parts.next()?.strip_suffix(suffix)?.parse().ok();
        let line = Self {
            worker,
            lap,
            writes: behind(" writes")?,
            reads: behind(" reads")?,
            flushes: behind(" flushes")?,
            errors: parts.next()?.strip_prefix("errors ")?.parse().ok()?,
            wrong: parts.next()?.strip_prefix("wrong ")?.parse().ok()?,
        };
        parts.next().is_none().then_some(line)
    }
}

/// Looks at what a worker wrote on a disk, when the line of its lap `lap` was
/// seen: every sector holds what that lap or a later one wrote there. Tells the
/// newest lap that it finds.
///
/// The guest may have been stopped in the middle of a request: sectors of one
/// write may come from different laps.
///
/// # Errors
///
/// When a sector is of an earlier lap, or was not written by this worker there,
/// or the disk cannot be read.
pub fn check(disk: &File, worker: u64, lap: u64) -> Result<u64, DiskContentsError> {
    let mut newest = lap;
    for slot in 0..SLOTS {
        let start = worker * AREA + slot * STRIDE;
        let length = LENGTHS[(slot % 4) as usize];
        for sector in 0..length / SECTOR {
            let offset = start + sector * SECTOR;
            let mut bytes = [0; SECTOR as usize];
            disk.read_exact_at(&mut bytes, offset)
                .map_err(|source| DiskContentsError::Read { offset, source })?;
            let found = lap_of(&bytes, worker, slot, sector).ok_or(DiskContentsError::Foreign {
                worker,
                slot,
                offset,
            })?;
            match found {
                Written::Lap(found) if found < lap => {
                    return Err(DiskContentsError::Stale {
                        worker,
                        slot,
                        offset,
                        found,
                        lap,
                    });
                }
                Written::Lap(found) => newest = newest.max(found),
                Written::SomeOddLap => {}
            }
        }
    }
    Ok(newest)
}

/// Who wrote a sector.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    Lap(u64),
    /// Zeroes do not tell which.
    SomeOddLap,
}

fn lap_of(sector: &[u8; SECTOR as usize], worker: u64, slot: u64, number: u64) -> Option<Written> {
    let first_word = number * (SECTOR / 8);
    let (words, _) = sector.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    if sector.iter().all(|byte| *byte == 0) {
        return (slot % 8 == 7).then_some(Written::SomeOddLap);
    }
    let first = words.clone().next().unwrap_or_default();
    let seed = first.wrapping_mul(INVERSE).wrapping_sub(first_word);
    let lap = seed ^ (worker << 56) ^ (slot << 48);
    let right = lap != 0
        && lap < 1 << 48
        && (first_word..)
            .zip(words)
            .all(|(i, word)| word == seed.wrapping_add(i).wrapping_mul(FACTOR));
    right.then_some(Written::Lap(lap))
}

impl DiskContentsError {
    /// Whether the disk holds something else than it must, and not just cannot be read.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        !matches!(self, Self::Read { .. })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::{Command, Output};

    use super::*;

    fn run(directory: &Path, arguments: &[&str]) -> Output {
        let path = directory.join("disk");
        std::fs::write(&path, program().expect("it compiles")).expect("written");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, executable).expect("set");
        Command::new(&path)
            .args(arguments)
            .output()
            .expect("it runs")
    }

    #[test]
    fn the_factor_has_this_inverse() {
        assert_eq!(FACTOR.wrapping_mul(INVERSE), 1);
    }

    /// What the program writes is what is looked for: both know the constants.
    #[test]
    fn what_the_program_writes_is_found_and_what_is_lost_too() {
        // A file system that has direct writes: the one of the build, not a tmpfs.
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
        let image = directory.path().join("disk.raw");
        let disk = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&image)
            .expect("an image");
        disk.set_len(MIN_BYTES).expect("its size");
        let image = image.to_str().expect("text");

        // An odd lap is the last, so that there are zeroes, and an even one.
        for laps in [3, 4] {
            let output = run(directory.path(), &[image, "2", &laps.to_string()]);
            assert!(output.status.success(), "{output:?}");
            let text = String::from_utf8(output.stdout).expect("text");
            let lines: Vec<DiskLine> = text.lines().filter_map(DiskLine::parse).collect();
            assert_eq!(lines.len() as u64, WORKERS * laps, "{text}");
            for worker in 0..WORKERS {
                assert!(lines.contains(&DiskLine {
                    worker,
                    lap: laps,
                    writes: 16 * laps,
                    reads: 16 * laps,
                    flushes: 4 * laps,
                    errors: 0,
                    wrong: 0,
                }));
                assert_eq!(check(&disk, worker, laps).expect("all there"), laps);
                assert_eq!(check(&disk, worker, laps - 1).expect("newer"), laps);
                assert!(matches!(
                    check(&disk, worker, laps + 1),
                    Err(DiskContentsError::Stale { .. })
                ));
            }
        }
        // One byte in the middle of the last sector of the longest slot.
        disk.write_all_at(&[1], AREA + 2 * STRIDE + LENGTHS[2] - 200)
            .expect("a flipped byte");
        let error = check(&disk, 1, 1).expect_err("it is found");
        assert!(
            error.is_loss() && error.to_string().contains("slot 2"),
            "{error}"
        );
        assert!(check(&disk, 0, 4).is_ok());
    }

    #[test]
    fn a_disk_that_is_too_small_is_refused() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
        let image = directory.path().join("small.raw");
        std::fs::write(&image, vec![0; 4096]).expect("an image");
        let output = run(directory.path(), &[image.to_str().expect("text"), "1", "1"]);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("4096 bytes"), "{said}");
    }

    #[test]
    fn lines_are_read_whole() {
        let line =
            "disk: worker 1, lap 12, 192 writes, 191 reads, 48 flushes, errors 3, wrong 2\r\n";
        let read = DiskLine::parse(line).expect("a whole line");
        assert_eq!((read.worker, read.lap), (1, 12));
        assert_eq!((read.writes, read.reads, read.flushes), (192, 191, 48));
        assert_eq!((read.errors, read.wrong), (3, 2));
        for cut in [10, 20, 40, 55, 70] {
            assert_eq!(DiskLine::parse(&line[..cut]), None, "{}", &line[..cut]);
        }
        let failed = "disk: worker 0: write at byte 4096 failed: Input/output error";
        assert_eq!(DiskLine::parse(failed), None);
    }
}
