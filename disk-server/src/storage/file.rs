//! Raw image files and block devices.

use std::fs::{File, TryLockError};
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::unistd::{Whence, lseek};
use rustix::io::{ReadWriteFlags, preadv2};

use super::regions::Regions;
use super::{Allocation, Storage, Zeroing};

/// What is written where a file cannot do zeroes by itself, in bytes at a time.
const ZEROES: &[u8] = &[0; 256 << 10];

/// Why a file or device cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum OpenStorageError {
    /// It cannot be opened.
    #[error("cannot open {}{}", path.display(), hint(source))]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is neither a file nor a block device.
    #[error("{} is neither a file nor a block device", path.display())]
    Kind {
        /// What it is called.
        path: PathBuf,
    },
    /// Somebody else has it.
    #[error("{} is exported already, by another disk-server or under another name: two writers of one image destroy it. Stop the other one, or export it read-only in both places", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY) => ": is it mounted, or in use by another program?",
        Some(Errno::ENOENT) => ": make it first, with truncate or qemu-img create -f raw",
        _ => "",
    }
}

/// A raw image file or a block device, through the page cache.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    size: u64,
    is_device: bool,
    /// Where there is known to be data.
    data: Regions,
    /// The file system cannot read without waiting.
    always_waits: AtomicBool,
}

impl FileStorage {
    /// Opens and locks it. To write, nobody else may export it; to read, others may read too.
    ///
    /// # Errors
    /// See [`OpenStorageError`].
    pub fn open(path: &Path, read_only: bool) -> Result<FileStorage, OpenStorageError> {
        let failed = |source| OpenStorageError::Open {
            path: path.to_owned(),
            source,
        };
        // Opening a pipe or a terminal could wait for ever, and a device that is mounted must not
        // be opened for writing: look first.
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        let is_device = kind.is_block_device();
        if !kind.is_file() && !is_device {
            return Err(OpenStorageError::Kind {
                path: path.to_owned(),
            });
        }
        let mut options = File::options();
        options.read(true).write(!read_only);
        if is_device && !read_only {
            // Without O_CREAT: fails while the device is mounted (open(2)).
            options.custom_flags(OFlag::O_EXCL.bits());
        }
        let mut file = options.open(path).map_err(failed)?;
        let locked = if read_only {
            file.try_lock_shared()
        } else {
            file.try_lock()
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenStorageError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // A device has no length in its metadata.
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(FileStorage {
            file,
            size,
            is_device,
            data: Regions::default(),
            always_waits: AtomicBool::new(false),
        })
    }

    /// Changes what is allocated; `Ok(false)` when the file system or device cannot.
    fn fallocate(&self, mode: FallocateFlags, offset: u64, length: u64) -> io::Result<bool> {
        loop {
            let done = fallocate(&self.file, mode, signed(offset)?, signed(length)?);
            return match done {
                Ok(()) => Ok(true),
                Err(Errno::EINTR) => continue,
                // EINVAL: a block device and a range that is not of whole blocks.
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENODEV) => Ok(false),
                Err(Errno::EINVAL) if self.is_device => Ok(false),
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Makes a hole; `Ok(false)` when the file system or device cannot.
    fn punch(&self, offset: u64, length: u64) -> io::Result<bool> {
        let done = self.fallocate(PUNCH, offset, length);
        // Behind it: who looked before must not say later that there is data. Also after an error,
        // which may have come in the middle.
        self.data.forget(offset, offset + length);
        done
    }

    fn write_zeroes(&self, mut offset: u64, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let piece = length.min(ZEROES.len() as u64);
            self.file.write_all_at(&ZEROES[..piece as usize], offset)?;
            offset += piece;
            length -= piece;
        }
        Ok(())
    }

    /// Where data (or a hole) next begins, at `offset` or behind it; `None` when there is none.
    fn next(&self, whence: Whence, offset: u64) -> io::Result<Option<u64>> {
        // The file's position is shared and moves. Nobody uses it: all else names its offset.
        match lseek(&self.file, signed(offset)?, whence) {
            Ok(found) => Ok(u64::try_from(found).ok()),
            Err(Errno::ENXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn signed(number: u64) -> io::Result<i64> {
    i64::try_from(number).map_err(|_| Errno::EFBIG.into())
}

const PUNCH: FallocateFlags =
    FallocateFlags::FALLOC_FL_PUNCH_HOLE.union(FallocateFlags::FALLOC_FL_KEEP_SIZE);
const ZERO: FallocateFlags =
    FallocateFlags::FALLOC_FL_ZERO_RANGE.union(FallocateFlags::FALLOC_FL_KEEP_SIZE);

impl Storage for FileStorage {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(data, offset)
    }

    fn read_at_hand(&self, offset: u64, data: &mut [u8]) -> io::Result<bool> {
        if self.always_waits.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let buffers = &mut [io::IoSliceMut::new(data)];
        match preadv2(&self.file, buffers, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(read == data.len()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                self.always_waits.store(true, Ordering::Relaxed);
                Ok(false)
            }
            Err(_) => Ok(false),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn zero(&self, offset: u64, length: u64, how: Zeroing) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        if how.may_punch && self.punch(offset, length)? {
            return Ok(());
        }
        if how.only_if_fast && self.is_device {
            // The kernel may write zeroes to it, block by block.
            return Err(io::ErrorKind::Unsupported.into());
        }
        // Where it is room that was never written, some file systems tell it as a hole.
        if self.fallocate(ZERO, offset, length)? {
            self.data.forget(offset, offset + length);
            return Ok(());
        }
        if how.only_if_fast {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.write_zeroes(offset, length)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        if length > 0 {
            self.punch(offset, length)?;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn allocations(&self, offset: u64, length: u64, most: usize) -> io::Result<Vec<Allocation>> {
        let end = offset + length;
        let all_data = Allocation {
            length,
            hole: false,
        };
        if self.is_device {
            return Ok(vec![all_data]);
        }
        let mut found = Vec::new();
        let mut at = offset;
        while at < end && found.len() < most {
            if let Some(known) = self.data.end_of(at) {
                let next = known.min(end);
                found.push(Allocation {
                    length: next - at,
                    hole: false,
                });
                at = next;
                continue;
            }
            let looked = self.data.look();
            let data = match self.next(Whence::SeekData, at) {
                Ok(data) => data.unwrap_or(end).clamp(at, end),
                // A file system that cannot tell.
                Err(_) if found.is_empty() => return Ok(vec![all_data]),
                Err(error) => return Err(error),
            };
            let (next, hole) = if data > at {
                (data, true)
            } else {
                // Somebody may have made a hole of it by now: go on by a byte at least.
                let hole = self.next(Whence::SeekHole, at)?.unwrap_or(end);
                self.data.learn(looked, at, hole);
                (hole.clamp(at + 1, end), false)
            };
            found.push(Allocation {
                length: next - at,
                hole,
            });
            at = next;
        }
        Ok(found)
    }

    fn prefetch(&self, offset: u64, length: u64) {
        let (Ok(offset), Ok(length)) = (signed(offset), signed(length)) else {
            return;
        };
        let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
        if let Err(error) = posix_fadvise(&self.file, offset, length, advice) {
            log::debug!("cannot prefetch from {}: {error}", self.file.as_raw_fd());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_data_is_looked_for_once() {
        const MIB: u64 = 1 << 20;
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(4 * MIB).unwrap();
        let disk = FileStorage::open(image.path(), false).unwrap();
        disk.write(0, &vec![7; 2 << 20]).unwrap();
        let holes = |offset: u64, length: u64| {
            let found = disk.allocations(offset, length, 100).unwrap();
            assert_eq!(found.iter().map(|a| a.length).sum::<u64>(), length);
            found
                .iter()
                .filter(|a| a.hole)
                .map(|a| a.length)
                .sum::<u64>()
        };
        assert_eq!(holes(0, 4 * MIB), 2 * MIB);
        // A hole that another program makes is not seen: nobody looks.
        let punched = fallocate(image.as_file(), PUNCH, 0, MIB as i64);
        punched.unwrap();
        assert_eq!(holes(0, MIB), 0);
        // Those that are made here are.
        disk.discard(MIB, MIB / 2).unwrap();
        assert_eq!(holes(MIB, MIB), MIB / 2);
        let how = Zeroing {
            may_punch: true,
            only_if_fast: true,
        };
        disk.zero(MIB + MIB / 2, MIB / 2, how).unwrap();
        assert_eq!(holes(MIB, MIB), MIB);
        disk.write(MIB, &[1; 4096]).unwrap();
        assert_eq!(holes(MIB, MIB), MIB - 4096);
    }
}
