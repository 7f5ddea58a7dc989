//! A look at the wire: the frames that come out of a host.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, SockaddrLike as _, bind, recvfrom,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::network::{Network, link_name};
use crate::testbed::Testbed;
use crate::worker::{Desk, Worker};

/// How often the thread looks whether anybody is still interested, in milliseconds.
const LOOK: i64 = 100;
/// A frame begins with the destination's address, and then has the source's.
const SOURCE: std::ops::Range<usize> = 6..12;

/// Counts frames that a host sends to a network, by the MAC address that they come from. It looks
/// at the other end of the host's link (packet(7)), so that nothing in the host has a say in it.
#[derive(Debug)]
pub struct Wiretap {
    what: String,
    worker: Worker<Seen>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    frames: u64,
    /// Why nothing more is seen, if so.
    trouble: Option<Errno>,
}

impl Wiretap {
    /// Begins to count those from `source`.
    ///
    /// # Errors
    ///
    /// When the host is gone, or we may not look.
    pub fn start(
        testbed: &Testbed,
        host: &Host,
        network: Network,
        source: [u8; 6],
    ) -> Result<Self> {
        let namespace = testbed.fabric().namespace();
        let link = link_name(host.name(), network);
        let what = format!("a look at {link} in {}", namespace.name());
        let wire = namespace.within(|| open(&link)).and_then(|wire| wire);
        let wire = wire.map_err(|source| Error::Start {
            command: what.clone(),
            source,
        })?;
        let worker = Worker::start(move |desk: &Desk<Seen>| {
            while desk.goes_on() {
                match sender(&wire) {
                    Ok(sender) if sender == Some(source) => desk.record().frames += 1,
                    Ok(_) => {}
                    Err(error) => {
                        desk.record().trouble = Some(error);
                        return;
                    }
                }
            }
        });
        Ok(Self { what, worker })
    }

    /// How many there were up to now.
    ///
    /// # Errors
    ///
    /// When there may have been more, because nothing more can be seen.
    pub fn frames(&self) -> Result<u64> {
        let seen = self.worker.record();
        match seen.trouble {
            None => Ok(seen.frames),
            Some(error) => Err(Error::Start {
                command: self.what.clone(),
                source: error.into(),
            }),
        }
    }
}

/// A socket that gets every frame of one interface.
fn open(link: &str) -> io::Result<OwnedFd> {
    // Without a protocol it gets nothing before it is bound: else it would begin with frames of
    // other interfaces.
    let wire = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let index = if_nametoindex(link)?;
    let index = i32::try_from(index).map_err(io::Error::other)?;
    bind(wire.as_raw_fd(), &every_frame_of(index))?;
    setsockopt(&wire, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOOK))?;
    Ok(wire)
}

/// The address that stands for all that comes through an interface.
fn every_frame_of(index: i32) -> LinkAddr {
    let raw = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (SockProtocol::EthAll as i32) as u16,
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = mem::size_of_val(&raw) as libc::socklen_t;
    // SAFETY: the pointer is to a whole `sockaddr_ll` that outlives the call, of this length and
    // with the family that says so.
    let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) };
    address.expect("an address of this family")
}

/// Who sent the next frame that came out of the host; `None` if there was none for a while, or it
/// went to the host.
fn sender(wire: &OwnedFd) -> nix::Result<Option<[u8; 6]>> {
    let mut frame = [0; SOURCE.end];
    match recvfrom::<LinkAddr>(wire.as_raw_fd(), &mut frame) {
        Ok((length, Some(from)))
            if length == frame.len() && from.pkttype() != libc::PACKET_OUTGOING =>
        {
            Ok(frame[SOURCE].try_into().ok())
        }
        // The link of a frozen namespace is down, and comes up again.
        Ok(_) | Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => Ok(None),
        Err(error) => Err(error),
    }
}
