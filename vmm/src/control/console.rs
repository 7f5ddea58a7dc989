//! The guest's console, for those who ask for it at the control socket.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::io::ConsoleSink;
use crate::lines::write_line;
use crate::sources::Lane;

/// How long what is typed waits for a guest that does not read. Who types is not heard meanwhile, nor seen to go.
const PATIENCE: Duration = Duration::from_secs(1);

/// The guest's console on this host. A handle.
#[derive(Debug, Clone)]
pub struct Console {
    output: ConsoleSink,
    typed: Lane<Vec<u8>>,
    /// Whether the guest takes what is typed here.
    live: Arc<AtomicBool>,
    /// Who holds it types.
    keys: Arc<Mutex<()>>,
}

impl Console {
    /// What comes out goes to whoever is there, beside the terminal and the log of `output`; what one of them
    /// types goes to the guest while it is `live` here.
    #[must_use]
    pub fn new(output: ConsoleSink, typed: Lane<Vec<u8>>, live: Arc<AtomicBool>) -> Self {
        let keys = Arc::default();
        Self {
            output,
            typed,
            live,
            keys,
        }
    }

    /// Carries bytes both ways, behind this answer, until the other side closes. The first one who is there types.
    pub(super) fn relay(&self, mut stream: &UnixStream, answer: &impl Serialize) {
        let mut line = Vec::new();
        if let Err(error) = write_line(&mut line, answer) {
            return log::warn!("the console cannot be shown: {error}");
        }
        let _ = stream.set_read_timeout(None);
        let _ = stream.set_write_timeout(None);
        let shown = stream
            .try_clone()
            .and_then(|out| self.output.show(out, &line));
        let viewer = match shown {
            Ok(viewer) => viewer,
            Err(error) => return log::warn!("the console cannot be shown: {error}"),
        };
        let mut keys = self.keys.try_lock();
        if keys.is_none() {
            viewer.tell("\r\n[ftvm: another console has the keyboard; this one takes over when that is closed]\r\n");
        }
        let mut buffer = [0; 256];
        let mut reads = true;
        loop {
            let len = match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            keys = keys.or_else(|| self.keys.try_lock());
            if keys.is_some() && self.live.load(Ordering::Acquire) {
                let patience = if reads { PATIENCE } else { Duration::ZERO };
                let taken = self.typed.push_within(buffer[..len].to_vec(), patience);
                if reads && !taken {
                    viewer.tell("\r\n[ftvm: the guest does not read: what is typed is lost until it does]\r\n");
                }
                reads = taken;
            }
        }
        drop(viewer);
        let _ = stream.shutdown(Shutdown::Both);
    }
}
