//! The TAP interface that joins the guest to the client network.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use crate::devices::virtio::net::frame::{self, Frame, HEADER_BYTES, Offloads};
use crate::sources::Lane;
use crate::threads;

use super::{Announcer, Departure};

/// A TAP interface.
#[derive(Debug, Clone)]
pub struct Tap {
    file: Arc<File>,
    name: String,
    /// Of the guest's address, since it is here.
    announcer: Arc<OnceLock<Announcer>>,
    departure: Departure,
}

/// Why a TAP interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// `/dev/net/tun` cannot be opened.
    #[error("cannot open /dev/net/tun: load the kernel module tun and run as root")]
    Open(#[source] io::Error),
    /// No interface can have this name.
    #[error(
        "\"{0}\" is no interface name: give 1 to 15 letters, digits and signs, without white space, \
         '/', ':' and '%'"
    )]
    Name(String),
    /// There is no interface of this name.
    #[error(
        "there is no interface {0}: make it with `ip tuntap add dev {0} mode tap`, put it into the \
         client network's bridge with `ip link set {0} master BRIDGE`, and `ip link set {0} up`"
    )]
    Missing(String),
    /// It cannot be told whether the interface is up.
    #[error("cannot tell whether the interface {name} is up")]
    State {
        /// Interface name.
        name: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The interface cannot be attached.
    #[error(
        "cannot attach to the interface {name}: see that it is a TAP interface \
         (`ip -details link show {name}`), that no other program uses it, and run as root"
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
    /// Attaches to the interface `name`, for the guest with this address. One that is down is told in the log.
    ///
    /// # Errors
    /// [`TapError`].
    pub fn open(name: &str, mac: [u8; 6]) -> Result<Self, TapError> {
        if !is_interface_name(name) {
            return Err(TapError::Name(name.to_owned()));
        }
        // Linux would make one that is missing, which is down and leads nowhere.
        if !is_up(name)? {
            log::warn!(
                "the interface {name} is down: the guest has no network until `ip link set {name} up`"
            );
        }
        let file = attached(name)?;
        adjust(&file).map_err(not_attached(name))?;
        Ok(Self {
            file: Arc::new(file),
            name: name.to_owned(),
            announcer: Arc::default(),
            departure: Departure::new(mac),
        })
    }

    /// Tells the network, from now on, that the guest with this address is here, where this host `may`.
    pub fn announce(&self, mac: [u8; 6], may: impl Fn() -> bool + Send + 'static) {
        let tap = self.clone();
        let announce = move |frame: &[u8]| tap.send(&frame.to_vec().into());
        (self.announcer).get_or_init(|| Announcer::start(mac, may, announce));
    }

    /// How the guest leaves this host by plan.
    #[must_use]
    pub fn departure(&self) -> &Departure {
        &self.departure
    }

    /// Sends a frame. A frame that the network does not take is lost, as on a wire.
    pub fn send(&self, frame: &Frame) {
        let packet = [IoSlice::new(&frame.header), IoSlice::new(&frame.bytes)];
        if let Err(e) = (&*self.file).write_vectored(&packet) {
            log::debug!(
                "{}: frame of {} bytes not sent: {e}",
                self.name,
                frame.bytes.len()
            );
        }
    }

    /// Receives frames of which senders may have left this to others. Those that are on the way are
    /// as they were.
    pub fn receive_with(&self, offloads: Offloads) {
        if let Err(e) = set_offloads(&self.file, offloads) {
            // Nothing is lost by that but speed.
            log::debug!("{}: {offloads:?} not set: {e}", self.name);
        }
    }

    /// Starts a thread that hands received frames to the guest while `live`, and drops them
    /// otherwise (a backup's guest gets the primary's frames from the log). Those of a guest that leaves follow it.
    pub fn receive_into(&self, lane: Lane<Frame>, live: Arc<AtomicBool>) {
        let tap = self.clone();
        let receive = move || tap.receive_loop(&lane, &live);
        threads::start("tap", &[], receive).expect("a thread can be started");
    }

    fn receive_loop(&self, lane: &Lane<Frame>, live: &AtomicBool) {
        let mut buffer = vec![0; HEADER_BYTES + frame::MAX_BYTES];
        loop {
            let read = (&*self.file).read(&mut buffer);
            confinement::catch_up();
            match read {
                Ok(len) => {
                    if live.load(Ordering::Acquire)
                        && let Some(frame) = Frame::from_tap(&buffer[..len])
                    {
                        if let Some(announcer) = self.announcer.get() {
                            announcer.listen(&frame.bytes);
                        }
                        let waits = std::iter::from_fn(|| lane.take(None));
                        let send = |frame: &Frame| self.send(frame);
                        if let Some(frame) = self.departure.meet(frame, waits, send) {
                            // One that leaves takes none of a full lane, behind which its announcement may come.
                            lane.push_unless(frame, || self.departure.is_begun());
                        }
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

// Linux, include/uapi/linux/if_tun.h.
nix::ioctl_write_ptr_bad!(tun_set_interface, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_write_int!(tun_set_offload, b'T', 208);
nix::ioctl_write_ptr!(tun_set_header_size, b'T', 216, libc::c_int);
// sockios.h.
nix::ioctl_read_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);

/// The TAP interface of this name, which Linux makes if there is none.
pub(super) fn attached(name: &str) -> Result<File, TapError> {
    if !is_interface_name(name) {
        return Err(TapError::Name(name.to_owned()));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(TapError::Open)?;
    let mut request = named(name);
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF takes an ifreq.
    unsafe { tun_set_interface(file.as_raw_fd(), &request) }.map_err(not_attached(name))?;
    Ok(file)
}

fn not_attached(name: &str) -> impl Fn(nix::Error) -> TapError + '_ {
    move |error| TapError::Attach {
        name: name.to_owned(),
        source: error.into(),
    }
}

/// A request about the interface of this name.
pub(super) fn named(name: &str) -> libc::ifreq {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_ifindex: 0 },
    };
    // The last byte stays zero.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1]
        .iter_mut()
        .zip(name.bytes())
    {
        *to = from as libc::c_char;
    }
    request
}

fn adjust(file: &File) -> nix::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads a number.
    unsafe { tun_set_header_size(file.as_raw_fd(), &(HEADER_BYTES as libc::c_int)) }?;
    // An interface remembers what the program before it could do, and would leave checksums and
    // segmentation to a guest that was never asked.
    set_offloads(file, Offloads::default())
}

/// Whether an interface can have this name (Linux, `net/core/dev.c`, `dev_valid_name`). One with '%' is
/// a pattern there: Linux would make another interface than the one that is named.
fn is_interface_name(name: &str) -> bool {
    (1..libc::IFNAMSIZ).contains(&name.len())
        && ![".", ".."].contains(&name)
        && (name.bytes()).all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte))
}

/// Whether the interface is up.
pub(super) fn is_up(name: &str) -> Result<bool, TapError> {
    let flags = flags(name).map_err(|error| match error {
        Errno::ENODEV => TapError::Missing(name.to_owned()),
        error => TapError::State {
            name: name.to_owned(),
            source: error.into(),
        },
    })?;
    Ok(flags & libc::IFF_UP as libc::c_short != 0)
}

/// An interface's flags: not by netlink, which the daemon's unit leaves to nobody.
pub(super) fn flags(name: &str) -> Result<libc::c_short, Errno> {
    let mut request = named(name);
    // SAFETY: SIOCGIFFLAGS fills an ifreq with flags.
    unsafe { get_flags(socket()?.as_raw_fd(), &mut request) }?;
    // SAFETY: these flags were just filled in.
    Ok(unsafe { request.ifr_ifru.ifru_flags })
}

/// Requests about interfaces go to any socket.
pub(super) fn socket() -> Result<UnixDatagram, Errno> {
    UnixDatagram::unbound()
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// Tells the system what it may leave to the reader of the interface's frames.
fn set_offloads(file: &File, offloads: Offloads) -> nix::Result<()> {
    const TUN_F_CSUM: libc::c_ulong = 1;
    const TUN_F_TSO4: libc::c_ulong = 2;
    const TUN_F_TSO6: libc::c_ulong = 4;
    let flags = [
        (offloads.checksum, TUN_F_CSUM),
        (offloads.tcp4, TUN_F_TSO4),
        (offloads.tcp6, TUN_F_TSO6),
    ];
    let flags = flags
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(0, |flags, (_, bit)| flags | bit);
    // SAFETY: TUNSETOFFLOAD takes a plain number.
    unsafe { tun_set_offload(file.as_raw_fd(), flags) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_an_interface_can_have() {
        for name in ["tap-db", "tap0", "a.b_c", "123456789012345"] {
            assert!(is_interface_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "a b",
            "tap%d",
            "a/b",
            "eth0:1",
            "1234567890123456",
        ] {
            let error = Tap::open(name, [0; 6]).expect_err(name);
            assert!(matches!(error, TapError::Name(_)), "{name}: {error}");
        }
    }

    #[test]
    fn an_interface_that_is_missing_is_not_made() {
        let error = Tap::open("ftvm-missing", [0; 6]).expect_err("there is none");
        assert!(matches!(error, TapError::Missing(_)), "{error}");
        assert!(is_up("lo").is_ok());
    }
}
