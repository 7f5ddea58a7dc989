//! A disk for the guest to swap to: an export of a disk server within this process.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread::{self, JoinHandle};

use disk_server::export::Export;
use disk_server::nbd::ExportName;
use disk_server::server::{Config, Limits, NbdConfig, Server, StartError};
use disk_server::storage::{FileStorage, OpenStorageError};
use transport::Endpoint;

const EXPORT: &str = "swap";
/// More than the guest's memory: its load touches less than that beyond it.
const BYTES: u64 = 192 << 20;

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// Its file cannot be made.
    #[error("cannot make a disk for the test guest to swap to")]
    File(#[source] std::io::Error),
    /// Its file cannot be served.
    #[error("cannot serve the test guest's disk")]
    Storage(#[from] OpenStorageError),
    /// It cannot be served.
    #[error("cannot serve the test guest's disk on the loopback interface: is it up?")]
    Serve(#[from] StartError),
    /// There is no thread for it.
    #[error("cannot start a thread for the test guest's disk")]
    Thread(#[source] std::io::Error),
}

/// The disk, served until this is dropped.
pub(super) struct Swap {
    uri: String,
    stop: disk_server::server::StopHandle,
    serving: Option<JoinHandle<()>>,
}

impl Swap {
    /// Serves a file in `directory` on the loopback interface. It takes no room before it is written to.
    pub(super) fn serve(directory: &Path) -> Result<Self, SwapError> {
        let image = directory.join("swap.raw");
        let file = File::create(&image).and_then(|file| file.set_len(BYTES));
        file.map_err(SwapError::File)?;
        let name: ExportName = EXPORT.parse().expect("a name for an export");
        let storage = Box::new(FileStorage::open(&image, false)?);
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::bind(Config {
            listen: anywhere,
            state: directory.join("disk-server"),
            endpoint: Endpoint::plain(),
            nbd: Some(NbdConfig {
                listen: anywhere,
                exports: vec![Export::new(name, None, false, storage)],
            }),
            metrics: None,
            limits: Limits::default(),
        })?;
        let address = server.nbd_addr().expect("there is an export");
        let stop = server.stop_handle();
        let serving = thread::Builder::new()
            .name("swap".into())
            .spawn(move || {
                if let Err(error) = server.run() {
                    log::error!("the test guest's disk is gone: {error}");
                }
            })
            .map_err(SwapError::Thread)?;
        Ok(Self {
            uri: format!("nbd://{address}/{EXPORT}"),
            stop,
            serving: Some(serving),
        })
    }

    /// What `ftvm record --disk` is told.
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(serving) = self.serving.take() {
            // If it panicked, the message is printed.
            let _ = serving.join();
        }
    }
}
