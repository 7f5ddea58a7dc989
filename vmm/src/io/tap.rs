//! The TAP interface that joins the guest to the client network.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::devices::virtio::net::MAX_FRAME_BYTES;
use crate::sources::Lane;

/// A TAP interface.
#[derive(Debug, Clone)]
pub struct Tap {
    file: Arc<File>,
    name: String,
}

/// Why a TAP interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// `/dev/net/tun` cannot be opened.
    #[error("cannot open /dev/net/tun: load the kernel module tun and run as root")]
    Open(#[source] io::Error),
    /// The name is too long.
    #[error("\"{0}\" is no interface name: at most 15 characters")]
    Name(String),
    /// The interface cannot be attached.
    #[error(
        "cannot attach to the TAP interface {name}: make it with `ip tuntap add {name} mode tap`, \
         and see that no other program uses it"
    )]
    Attach {
        /// Interface name.
        name: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl Tap {
    /// Attaches to the interface `name`; makes it where it does not exist.
    ///
    /// # Errors
    /// [`TapError`].
    pub fn open(name: &str) -> Result<Self, TapError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .map_err(TapError::Open)?;
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(TapError::Name(name.to_owned()));
        }
        // SAFETY: all-zero is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the descriptor is open, TUNSETIFF takes an ifreq, and `request` outlives the call.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) } < 0 {
            return Err(TapError::Attach {
                name: name.to_owned(),
                source: io::Error::last_os_error(),
            });
        }
        // An interface remembers what the program before could do: without this, the system leaves
        // checksums and segmentation to a guest that was never asked.
        // SAFETY: the descriptor is open, and TUNSETOFFLOAD takes a plain number.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, 0) } < 0 {
            return Err(TapError::Attach {
                name: name.to_owned(),
                source: io::Error::last_os_error(),
            });
        }
        Ok(Self {
            file: Arc::new(file),
            name: name.to_owned(),
        })
    }

    /// Sends a frame. A frame that the network does not take is lost, as on a wire.
    pub fn send(&self, frame: &[u8]) {
        if let Err(e) = (&*self.file).write(frame) {
            log::debug!(
                "{}: frame of {} bytes not sent: {e}",
                self.name,
                frame.len()
            );
        }
    }

    /// Starts a thread that hands received frames to the guest while `live`, and drops them
    /// otherwise (a backup's guest gets the primary's frames from the log).
    pub fn receive_into(&self, lane: Lane<Vec<u8>>, live: Arc<AtomicBool>) {
        let tap = self.clone();
        thread::Builder::new()
            .name("tap".into())
            .spawn(move || tap.receive_loop(&lane, &live))
            .expect("a thread can be started");
    }

    fn receive_loop(&self, lane: &Lane<Vec<u8>>, live: &AtomicBool) {
        let mut buffer = [0; MAX_FRAME_BYTES + 1];
        loop {
            match (&*self.file).read(&mut buffer) {
                Ok(len) if len > MAX_FRAME_BYTES => {
                    log::debug!("{}: frame of {len} bytes dropped: too long", self.name);
                }
                Ok(len) => {
                    if live.load(Ordering::Acquire) {
                        lane.push(buffer[..len].to_vec());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    // The interface is down: there is no event to wait for.
                    log::debug!("{}: {e}", self.name);
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}
