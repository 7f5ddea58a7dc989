//! The memory of a transfer of the whole state, as a cold backup keeps it: each page at its place in a file, as
//! it came last. So the file never takes more room than the guest's memory, however often a page was sent, and a
//! replay reads no page twice. Pages that did not come are zero, and take none.
//!
//! The checksums of pages are kept in memory: the file is of no use to another process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::error::SpoolError;
use crate::memory::{PAGE, PutPage, ReadBlock};

/// No guest has as many pages.
const MOST_PAGES: u64 = 1 << 26;

/// So many pages are read at once.
const AT_ONCE: usize = 64;

/// So many bytes are written behind the disk's back: what has to be on the disk soon, or the log whose writes
/// wait for the same disk, would wait for all of them.
const UNSYNCED: u64 = 8 << 20;

/// The memory of a transfer.
#[derive(Debug)]
pub(in crate::receiver) struct MemoryFile {
    file: File,
    path: PathBuf,
    read_block: ReadBlock,
    table: Mutex<Table>,
    /// Bytes that were written and are not known to be on the disk; for a file that gets there by and by.
    unsynced: Option<AtomicU64>,
}

/// What is in the file.
#[derive(Debug, Default)]
struct Table {
    /// CRC-32 of each page that came.
    pages: Vec<Option<u32>>,
    count: u64,
    blocks: u64,
}

/// Pages that follow one another.
#[derive(Default)]
struct Run {
    first: u64,
    bytes: Vec<u8>,
}

impl Run {
    fn end(&self) -> u64 {
        self.first + (self.bytes.len() / PAGE) as u64
    }
}

impl MemoryFile {
    /// A new file, which gets to the disk `by_and_by`, or when the host pleases.
    pub(super) fn create(
        path: PathBuf,
        read_block: ReadBlock,
        by_and_by: bool,
    ) -> Result<Self, SpoolError> {
        let new = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        match new {
            Ok(file) => Ok(Self {
                file,
                path,
                read_block,
                table: Mutex::default(),
                unsynced: by_and_by.then(AtomicU64::default),
            }),
            Err(source) => Err(SpoolError::Write { path, source }),
        }
    }

    /// Keeps the pages of a block. Several threads may, of which each has pages of its own.
    pub(in crate::receiver) fn put(&self, block: &[u8]) -> Result<(), SpoolError> {
        let (mut run, mut sums) = (Run::default(), Vec::new());
        let mut failed = None;
        let read = (self.read_block)(block, &mut |page, content| {
            if page >= MOST_PAGES {
                return Err(format!("no guest has a page {page}"));
            }
            if page != run.end() {
                failed = failed.take().or(self.write(&run).err());
                run.first = page;
                run.bytes.clear();
            }
            run.bytes.extend_from_slice(content);
            sums.push((page as usize, crc32fast::hash(content)));
            Ok(())
        });
        read.map_err(|reason| SpoolError::Memory { reason })?;
        failed.map_or_else(|| self.write(&run), Err)?;
        let mut table = self.table.lock();
        for (page, sum) in &sums {
            if table.pages.len() <= *page {
                table.pages.resize(page + 1, None);
            }
            let is_new = table.pages[*page].replace(*sum).is_none();
            table.count += u64::from(is_new);
        }
        table.blocks += 1;
        drop(table);
        self.sync_by_and_by((sums.len() * PAGE) as u64)
    }

    fn write(&self, run: &Run) -> Result<(), SpoolError> {
        let written = self.file.write_all_at(&run.bytes, run.first * PAGE as u64);
        written.map_err(|source| SpoolError::Write {
            path: self.path.clone(),
            source,
        })
    }

    fn sync_by_and_by(&self, bytes: u64) -> Result<(), SpoolError> {
        let Some(unsynced) = &self.unsynced else {
            return Ok(());
        };
        if unsynced.fetch_add(bytes, Ordering::Relaxed) + bytes < UNSYNCED {
            return Ok(());
        }
        unsynced.store(0, Ordering::Relaxed);
        self.sync()
    }

    /// Waits until it is on the disk.
    pub(in crate::receiver) fn sync(&self) -> Result<(), SpoolError> {
        self.file.sync_data().map_err(|source| SpoolError::Write {
            path: self.path.clone(),
            source,
        })
    }

    /// How many blocks came.
    pub(in crate::receiver) fn blocks(&self) -> u64 {
        self.table.lock().blocks
    }

    /// How many bytes of memory there are.
    pub(in crate::receiver) fn bytes(&self) -> u64 {
        self.table.lock().count * PAGE as u64
    }

    /// Gives all pages, once. Also what `put` says when it does not take one.
    pub(in crate::receiver) fn read(
        &self,
        put: PutPage<'_>,
    ) -> Result<Result<(), String>, SpoolError> {
        let pages = std::mem::take(&mut self.table.lock().pages);
        let mut room = vec![0; AT_ONCE * PAGE];
        let mut page = 0;
        while page < pages.len() {
            let ahead = pages[page..].iter().take(AT_ONCE);
            let sums: Vec<u32> = ahead.map_while(|sum| *sum).collect();
            let offset = (page * PAGE) as u64;
            let bytes = &mut room[..sums.len() * PAGE];
            let failed = |source| SpoolError::Read {
                path: self.path.clone(),
                offset,
                source,
            };
            self.file.read_exact_at(bytes, offset).map_err(failed)?;
            let (contents, _) = bytes.as_chunks::<PAGE>();
            for (n, (content, sum)) in contents.iter().zip(&sums).enumerate() {
                if crc32fast::hash(content) != *sum {
                    let what = format!("the checksum of page {} is wrong", page + n);
                    return Err(failed(io::Error::new(io::ErrorKind::InvalidData, what)));
                }
                if let Err(reason) = put((page + n) as u64, content) {
                    return Ok(Err(reason));
                }
            }
            page += sums.len().max(1);
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::MetadataExt as _;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    /// A block of a page: its number and what fills it.
    fn read_block(block: &[u8], put: PutPage<'_>) -> Result<(), String> {
        for page in block.chunks(2) {
            put(page[0].into(), &[page[1]; PAGE])?;
        }
        Ok(())
    }

    fn file(directory: &TempDir) -> MemoryFile {
        let path = directory.path().join("memory");
        MemoryFile::create(path, read_block, true).expect("written")
    }

    fn pages(file: &MemoryFile) -> Result<BTreeMap<u64, u8>, SpoolError> {
        let mut pages = BTreeMap::new();
        let put = &mut |page, content: &[u8; PAGE]| {
            assert_eq!(pages.insert(page, content[7]), None);
            Ok(())
        };
        file.read(put)?.expect("it takes all");
        Ok(pages)
    }

    proptest! {
        #[test]
        fn each_page_is_as_it_came_last(
            blocks in prop::collection::vec(prop::collection::vec(any::<(u8, u8)>(), 1..40), 0..8),
        ) {
            let directory = TempDir::new().expect("a directory");
            let file = file(&directory);
            let mut last = BTreeMap::new();
            for block in &blocks {
                last.extend(block.iter().map(|&(page, fill)| (u64::from(page), fill)));
                let block: Vec<u8> = block.iter().flat_map(|&(page, fill)| [page, fill]).collect();
                file.put(&block).expect("written");
            }
            prop_assert_eq!(file.blocks(), blocks.len() as u64);
            prop_assert_eq!(file.bytes(), (last.len() * PAGE) as u64);
            prop_assert_eq!(pages(&file).expect("read"), last);
        }
    }

    /// A guest that goes on writing has its pages sent again and again.
    #[test]
    fn a_page_takes_its_room_once() {
        let directory = TempDir::new().expect("a directory");
        let file = file(&directory);
        for round in 0..50 {
            let block: Vec<u8> = (0..32).flat_map(|page| [page * 2, round]).collect();
            file.put(&block).expect("written");
        }
        let room = file.file.metadata().expect("there").blocks() * 512;
        assert!(room <= 2 * 32 * PAGE as u64, "{room} bytes");
        assert!(pages(&file).expect("read").values().all(|fill| *fill == 49));
    }

    #[test]
    fn what_was_damaged_meanwhile_is_found() {
        let directory = TempDir::new().expect("a directory");
        let file = file(&directory);
        file.put(&[3, 1, 4, 2]).expect("written");
        file.file
            .write_all_at(&[9], 4 * PAGE as u64 + 100)
            .expect("written");
        match pages(&file) {
            Err(SpoolError::Read { source, .. }) => assert!(source.to_string().contains("page 4")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_does_not_come_whole_is_not_kept() {
        fn damaged(_: &[u8], _: PutPage<'_>) -> Result<(), String> {
            Err("its table is damaged".into())
        }
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("memory");
        let file = MemoryFile::create(path, damaged, false).expect("written");
        let error = file.put(&[1]).expect_err("it is damaged").to_string();
        assert!(error.contains("its table is damaged"), "{error}");
        assert_eq!(file.blocks(), 0);
    }
}
