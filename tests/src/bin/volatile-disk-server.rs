//! The disk server on a machine whose cache is lost with its power: killed, it has lost what was not
//! flushed. It takes the arguments of `disk-server`.
//!
//! For every image DISK there is a file DISK.cache with all that was written; a flush copies it to
//! DISK, and a start copies it back. While there is a file DISK.hold, only so many flushes succeed as
//! it says, and the others wait.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;
use std::{env, fs};

use disk_server::export::{Export, ExportSpec};
use disk_server::server::{Config, Limits, NbdConfig, Server};
use disk_server::storage::{Allocation, FileStorage, Storage, Zeroing};
use parking_lot::Mutex;
use transport::Endpoint;

/// How often the file with the number of flushes is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// An image with a cache.
#[derive(Debug)]
struct Volatile {
    cache: FileStorage,
    image: PathBuf,
    /// Flushes that were made.
    flushes: Mutex<u64>,
}

/// The file beside an image.
fn beside(image: &Path, ending: &str) -> PathBuf {
    let mut path = image.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

impl Volatile {
    fn open(image: &Path) -> Result<Self, Box<dyn Error>> {
        let cache = beside(image, ".cache");
        fs::copy(image, &cache)?;
        Ok(Self {
            cache: FileStorage::open(&cache, false)?,
            image: image.to_owned(),
            flushes: Mutex::default(),
        })
    }

    fn is_held(&self, flushes: u64) -> bool {
        // Nothing in it: it is just being written.
        fs::read_to_string(beside(&self.image, ".hold"))
            .is_ok_and(|text| text.trim().parse::<u64>().unwrap_or(0) <= flushes)
    }
}

impl Storage for Volatile {
    fn size(&self) -> u64 {
        self.cache.size()
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.cache.read(offset, data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.cache.write(offset, data)
    }

    fn zero(&self, offset: u64, length: u64, how: Zeroing) -> io::Result<()> {
        self.cache.zero(offset, length, how)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.cache.discard(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        let mut flushes = self.flushes.lock();
        while self.is_held(*flushes) {
            thread::sleep(LOOK);
        }
        let half_done = beside(&self.image, ".new");
        fs::copy(beside(&self.image, ".cache"), &half_done)?;
        fs::rename(half_done, &self.image)?;
        *flushes += 1;
        Ok(())
    }

    fn allocations(&self, offset: u64, length: u64, most: usize) -> io::Result<Vec<Allocation>> {
        self.cache.allocations(offset, length, most)
    }

    fn prefetch(&self, offset: u64, length: u64) {
        self.cache.prefetch(offset, length);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut listen, mut nbd_listen) = (None::<SocketAddr>, None::<SocketAddr>);
    let mut state = PathBuf::new();
    let (mut key, mut trust) = (PathBuf::new(), PathBuf::new());
    let mut exports = Vec::new();
    let mut arguments = env::args().skip(1);
    while let (Some(option), Some(value)) = (arguments.next(), arguments.next()) {
        match option.as_str() {
            "--listen" => listen = Some(value.parse()?),
            "--nbd-listen" => nbd_listen = Some(value.parse()?),
            "--state" => state = value.into(),
            "--key" => key = value.into(),
            "--trust" => trust = value.into(),
            "--export" => {
                let spec: ExportSpec = value.parse()?;
                let storage = Volatile::open(&spec.path)?;
                exports.push(Export::new(spec.name, spec.vm, false, Box::new(storage)));
            }
            other => return Err(format!("{other} is no option").into()),
        }
    }
    let nbd = nbd_listen.map(|listen| NbdConfig { listen, exports });
    let server = Server::bind(Config {
        listen: listen.ok_or("--listen is missing")?,
        state,
        endpoint: Endpoint::read(&key, &trust)?,
        nbd,
        metrics: None,
        limits: Limits::default(),
    })?;
    Ok(server.run()?)
}
