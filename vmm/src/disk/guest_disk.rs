//! The disk of one guest, from the configuration to its service.

use disk_server::arbiter::ServerNumber;
use disk_server::nbd::ClientTag;
use disk_server::nbd::client::{self, ConnectError, Connection};
use disk_server::nbd::protocol::TransmissionFlags;
use logging_channel::DiskIdentity;
use transport::Endpoint;

use super::followed::Followed;
use super::link::LinkSettings;
use super::reader::DiskReader;
use super::service::DiskService;
use super::serving::{DiskSettings, Serving};
use super::target::DiskTarget;
use super::uri::DiskUri;
use super::{DiskCompletion, SECTOR_BYTES};
use crate::events::Events;

/// Why a disk cannot be a guest's.
#[derive(Debug, thiserror::Error)]
pub enum DiskOpenError {
    /// It cannot be opened.
    #[error("cannot open the guest's disk {uri}")]
    Connect {
        /// The disk.
        uri: DiskUri,
        /// Why not.
        #[source]
        source: Box<ConnectError>,
    },
    /// This guest's connections cannot be given a name.
    #[error("cannot draw a random name for the connections to the guest's disk {uri}")]
    Tag {
        /// The disk.
        uri: DiskUri,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not what a guest needs.
    #[error("the guest's disk {uri} cannot be used: {what}")]
    Unsuitable {
        /// The disk.
        uri: DiskUri,
        /// What is wrong, and what to do.
        what: String,
    },
}

/// The disk of a guest that is not served yet.
#[derive(Debug, Clone)]
pub struct GuestDisk {
    uri: DiskUri,
    /// What this guest's plain connections have in common, if the server takes such names.
    client: Option<ClientTag>,
    vm: String,
    identity: DiskIdentity,
    /// Number of the server's start when it was opened, before this guest wrote anything.
    boot: Option<u64>,
    read_only: bool,
    endpoint: Endpoint,
    settings: DiskSettings,
}

fn connect(
    uri: &DiskUri,
    target: &DiskTarget,
    endpoint: &Endpoint,
    settings: DiskSettings,
) -> Result<Connection, DiskOpenError> {
    let timeout = settings.link.connect_timeout;
    client::connect(&target.server, &target.export_name(), endpoint, timeout).map_err(|source| {
        DiskOpenError::Connect {
            uri: uri.clone(),
            source: Box::new(source),
        }
    })
}

/// Opens a disk as this guest's, where the server knows client tags, and plainly elsewhere.
fn find(
    uri: &DiskUri,
    endpoint: &Endpoint,
    settings: DiskSettings,
) -> Result<(Option<ClientTag>, Connection), DiskOpenError> {
    let plain = uri.target();
    let client = ClientTag::generate().map_err(|source| DiskOpenError::Tag {
        uri: uri.clone(),
        source,
    })?;
    let tagged = DiskTarget {
        client: Some(client),
        ..plain.clone()
    };
    match connect(uri, &tagged, endpoint, settings) {
        Ok(connection) if connection.name.is_some() => return Ok((Some(client), connection)),
        // It takes any name.
        Ok(connection) => connection.requests.disconnect(),
        Err(DiskOpenError::Connect { source, .. })
            if matches!(*source, ConnectError::NoExport { .. }) => {}
        Err(error) => return Err(error),
    }
    let connection = connect(uri, &plain, endpoint, settings)?;
    log::warn!(
        "the server of {uri} is no disk-server, or an older one, and does not tell this guest's \
         connections from others: what it has in its queue when a connection is lost may still be \
         done after newer writes, and it keeps no other client from writing"
    );
    Ok((None, connection))
}

impl GuestDisk {
    /// Asks the server for the disk of the virtual machine `vm`.
    ///
    /// # Errors
    /// [`DiskOpenError`].
    pub fn open(
        uri: &DiskUri,
        vm: &str,
        endpoint: &Endpoint,
        settings: DiskSettings,
    ) -> Result<Self, DiskOpenError> {
        let (client, connection) = find(uri, endpoint, settings)?;
        let export = connection.export;
        let name = connection.name.unwrap_or_default();
        let boot = connection.boot;
        connection.requests.disconnect();
        let unsuitable = |what| {
            Err(DiskOpenError::Unsuitable {
                uri: uri.clone(),
                what,
            })
        };
        if export.size == 0 || !export.size.is_multiple_of(SECTOR_BYTES) {
            return unsuitable(format!(
                "it has {} bytes, but a disk has sectors of {SECTOR_BYTES}: `truncate` its file to \
                 a multiple",
                export.size
            ));
        }
        if u64::from(export.blocks.minimum) > SECTOR_BYTES {
            return unsuitable(format!(
                "its blocks have {} bytes, but a guest reads and writes single sectors of \
                 {SECTOR_BYTES}",
                export.blocks.minimum
            ));
        }
        if !export.flags.contains(TransmissionFlags::SEND_FLUSH) {
            return unsuitable("its server cannot flush: nothing on it would be safe".into());
        }
        Ok(Self {
            uri: uri.clone(),
            client,
            vm: vm.to_owned(),
            identity: DiskIdentity {
                bytes: export.size,
                name,
            },
            boot,
            read_only: export.flags.contains(TransmissionFlags::READ_ONLY),
            endpoint: endpoint.clone(),
            settings,
        })
    }

    /// Its size in bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.identity.bytes
    }

    /// What it is, for a peer to compare.
    #[must_use]
    pub fn identity(&self) -> DiskIdentity {
        self.identity.clone()
    }

    /// The disk for a backup that follows what its guest does with it, from the guest's begin on unless
    /// it is said that it [joined](Followed::joined) later.
    #[must_use]
    pub fn followed(&self) -> Followed {
        Followed::new(self.boot)
    }

    /// Whether the disk server `arbiter`, which decides who runs the guest, keeps all others from
    /// writing: whether the disk is one of its own.
    ///
    /// # Errors
    /// [`DiskOpenError::Unsuitable`].
    pub fn require_fenced_by(&self, arbiter: ServerNumber) -> Result<(), DiskOpenError> {
        let what = match self.identity.name.split_once('/') {
            Some((server, _)) if server == arbiter.to_string() => return Ok(()),
            Some((server, _)) => format!(
                "it is of disk server {server}, but --disk-server is {arbiter}, which cannot keep a \
                 host from writing that lost the right to run: name the same disk-server for both"
            ),
            None => format!(
                "its server is no disk-server of ftvm, or an older one, and would let a host write \
                 that lost the right to run: serve the disk from the disk-server that \
                 --disk-server names, with --nbd-listen and --export NAME=PATH,vm={}",
                self.vm
            ),
        };
        Err(DiskOpenError::Unsuitable {
            uri: self.uri.clone(),
            what,
        })
    }

    /// Whether a guest that is not one of a pair can have it.
    ///
    /// # Errors
    /// [`DiskOpenError::Unsuitable`]: it could not write.
    pub fn require_writable(&self) -> Result<(), DiskOpenError> {
        if !self.read_only {
            return Ok(());
        }
        let what = "it is read-only, or the virtual machine that owns it runs elsewhere: \
                    `disk-server status` shows where; stop it there";
        Err(DiskOpenError::Unsuitable {
            uri: self.uri.clone(),
            what: what.into(),
        })
    }

    /// Whether this host can be its writer in `epoch`, which it has just won: a wrong owner is found
    /// before the guest runs, and not at its first write.
    ///
    /// # Errors
    /// [`DiskOpenError::Connect`].
    pub fn require_writer(&self, epoch: u64) -> Result<(), DiskOpenError> {
        let target = self.target(Some(epoch));
        let connection = connect(&self.uri, &target, &self.endpoint, self.settings)?;
        connection.requests.disconnect();
        Ok(())
    }

    /// Begins to serve: `complete` gets the completions, on the service's thread.
    #[must_use]
    pub fn serve(
        &self,
        serving: Serving,
        events: &Events,
        complete: impl Fn(DiskCompletion) + Send + 'static,
    ) -> DiskService {
        let target = self.target(serving.epoch);
        log::info!("the guest's disk is {target}, {} bytes", self.capacity());
        DiskService::start(
            target,
            self.identity(),
            self.endpoint.clone(),
            self.settings,
            serving,
            events.clone(),
            complete,
        )
    }

    fn target(&self, epoch: Option<u64>) -> DiskTarget {
        let plain = self.uri.target();
        match epoch {
            None => DiskTarget {
                client: self.client,
                ..plain
            },
            Some(epoch) => plain.in_epoch(&self.vm, epoch),
        }
    }

    /// The disk for a backup that reads it itself.
    #[must_use]
    pub fn reader(&self) -> DiskReader {
        let link: LinkSettings = self.settings.link;
        let endpoint = self.endpoint.clone();
        DiskReader::new(self.uri.target(), self.identity(), endpoint, link)
    }
}
