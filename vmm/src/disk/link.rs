//! Keeps a connection to the disk server: opens it, hands its answers over, and opens it again
//! when it is lost, for as long as it takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use confinement::Calls;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use disk_server::nbd::client::{self, ConnectError, Connection, Export, Reply, Requests};
use logging_channel::DiskIdentity;
use parking_lot::Mutex;
use transport::Endpoint;

use super::target::DiskTarget;
use crate::threads;

/// A connection that held for so long was a good one: the next pause is a short one again.
const GOOD: Duration = Duration::from_secs(2);

/// How patient a link is.
#[derive(Debug, Clone, Copy)]
pub struct LinkSettings {
    /// For a connection to come about.
    pub connect_timeout: Duration,
    /// The pause after the first failure. It doubles with each further one.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            first_pause: Duration::from_millis(10),
            longest_pause: Duration::from_millis(500),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It was not opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It broke.
    #[error("the connection to {target} was lost: {reason}")]
    Lost {
        /// The disk.
        target: DiskTarget,
        /// Why.
        reason: String,
    },
    /// The export is not the one that the guest knows.
    #[error(
        "{target} has {found} bytes now, but the guest's disk has {expected}: a disk must keep its \
         size while a guest uses it"
    )]
    Resized {
        /// The disk.
        target: DiskTarget,
        /// Its size in bytes at the guest's start.
        expected: u64,
        /// Its size now.
        found: u64,
    },
    /// The export is another disk.
    #[error(
        "{target} is another disk now: {found:?} where the guest's is {expected:?}; bring its disk \
         server back there, with its state"
    )]
    Replaced {
        /// The disk.
        target: Box<DiskTarget>,
        /// What its server called it at the guest's start.
        expected: String,
        /// What this server calls it.
        found: String,
    },
}

/// Opens a disk, which must be `identity`; a name that is empty may be any.
pub(super) fn open(
    target: &DiskTarget,
    identity: &DiskIdentity,
    endpoint: &Endpoint,
    timeout: Duration,
) -> Result<Connection, LinkError> {
    let connection = client::connect(&target.server, &target.export_name(), endpoint, timeout)?;
    let (size, name) = (connection.export.size, &connection.name);
    let DiskIdentity {
        bytes,
        name: expected,
    } = identity;
    let wrong = if size != *bytes {
        LinkError::Resized {
            target: target.clone(),
            expected: *bytes,
            found: size,
        }
    } else if !expected.is_empty() && name.as_ref() != Some(expected) {
        LinkError::Replaced {
            target: Box::new(target.clone()),
            expected: expected.clone(),
            found: name.clone().unwrap_or_default(),
        }
    } else {
        return Ok(connection);
    };
    connection.requests.disconnect();
    Err(wrong)
}

/// What happens on a link.
pub(super) enum LinkEvent {
    /// There is a connection.
    Up(Box<Up>),
    /// A reply came on the connection of this generation.
    Reply(u64, Reply),
    /// The connection of this generation is lost. There will be another `Up`.
    Down(u64, LinkError),
    /// No connection came about. There will be another attempt.
    Failed(LinkError),
}

/// A new connection.
pub(super) struct Up {
    /// Counts connections.
    pub(super) generation: u64,
    /// As whom it was opened.
    pub(super) target: DiskTarget,
    /// What the server said of the export.
    pub(super) export: Export,
    /// The number of the server's start, if it has one.
    pub(super) boot: Option<u64>,
    /// The sending half. Dropped, it ends the connection, and the link opens another one.
    pub(super) requests: Requests,
}

/// A handle of the thread that keeps the connection. Dropped, it ends that when the connection has
/// ended.
pub(super) struct Link {
    target: Arc<Mutex<DiskTarget>>,
    hurry: Sender<()>,
}

impl Link {
    /// Starts the thread, which tells `post` of everything until that returns `false`. `identity`
    /// is what the disk must be, as for [`open`].
    pub(super) fn start(
        target: DiskTarget,
        identity: DiskIdentity,
        endpoint: Endpoint,
        settings: LinkSettings,
        post: impl Fn(LinkEvent) -> bool + Send + 'static,
    ) -> Self {
        let target = Arc::new(Mutex::new(target));
        // One place: a thread that was told twice to make haste does so once.
        let (hurry, pause) = crossbeam_channel::bounded(1);
        let keeper = Keeper {
            target: target.clone(),
            identity,
            endpoint,
            settings,
            generation: 0,
        };
        threads::insist("disk-link", &[Calls::Connect, Calls::Files], move || {
            keeper.run(&pause, post)
        });
        Self { target, hurry }
    }

    /// As whom the next connection is opened.
    pub(super) fn target(&self) -> DiskTarget {
        self.target.lock().clone()
    }

    /// Opens the next connection as `target`, and without a pause.
    pub(super) fn retarget(&self, target: DiskTarget) {
        *self.target.lock() = target;
        let _ = self.hurry.try_send(());
    }
}

struct Keeper {
    target: Arc<Mutex<DiskTarget>>,
    identity: DiskIdentity,
    endpoint: Endpoint,
    settings: LinkSettings,
    generation: u64,
}

impl Keeper {
    fn run(mut self, hurry: &Receiver<()>, post: impl Fn(LinkEvent) -> bool) {
        let mut pause = self.settings.first_pause;
        loop {
            let since = Instant::now();
            let going_on = match self.connect() {
                Ok((target, connection)) => self.serve(target, connection, &post),
                Err(error) => post(LinkEvent::Failed(error)),
            };
            if !going_on {
                return;
            }
            if since.elapsed() >= GOOD {
                pause = self.settings.first_pause;
            }
            match hurry.recv_timeout(pause) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => {
                    pause = (pause * 2).min(self.settings.longest_pause);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn connect(&self) -> Result<(DiskTarget, Connection), LinkError> {
        let target = self.target.lock().clone();
        let timeout = self.settings.connect_timeout;
        let connection = open(&target, &self.identity, &self.endpoint, timeout)?;
        Ok((target, connection))
    }

    /// Hands replies over until the connection ends. `false` when nobody wants them any more.
    fn serve(
        &mut self,
        target: DiskTarget,
        connection: Connection,
        post: &impl Fn(LinkEvent) -> bool,
    ) -> bool {
        self.generation += 1;
        let generation = self.generation;
        let Connection {
            export,
            requests,
            mut replies,
            boot,
            name: _,
        } = connection;
        let up = Up {
            generation,
            target: target.clone(),
            export,
            boot,
            requests,
        };
        if !post(LinkEvent::Up(Box::new(up))) {
            return false;
        }
        loop {
            match replies.next_reply() {
                Ok(reply) => {
                    if !post(LinkEvent::Reply(generation, reply)) {
                        return false;
                    }
                }
                Err(error) => {
                    let reason = error.to_string();
                    return post(LinkEvent::Down(
                        generation,
                        LinkError::Lost { target, reason },
                    ));
                }
            }
        }
    }
}
