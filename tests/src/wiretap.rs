//! A look at the wire: the frames that come out of a host.

use std::io::{self, IoSliceMut};
use std::mem;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, SystemTime};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrLike as _, bind, recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike as _};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::network::{Network, link_name};
use crate::testbed::Testbed;
use crate::worker::{Desk, Worker};

/// How often the thread looks whether anybody is still interested, in milliseconds.
const LOOK: i64 = 100;
/// A frame begins with the destination's address, and then has the source's.
const SOURCE: Range<usize> = 6..12;
/// What is looked at of a frame: its headers.
const HEADERS: usize = 128;

/// Counts frames that a host sends to a network. It looks at the other end of the host's link
/// (packet(7)), so that nothing in the host has a say in it.
#[derive(Debug)]
pub struct Wiretap {
    what: String,
    worker: Worker<Seen>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    /// When each came out, by the kernel's clock: so those of several hosts can be put in order.
    frames: Vec<SystemTime>,
    /// Why nothing more is seen, if so.
    trouble: Option<Errno>,
}

impl Wiretap {
    /// Begins to count those that come from the MAC address `source`.
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
        let is_from = move |frame: &[u8]| frame.get(SOURCE) == Some(&source);
        Self::counting(testbed, host, network, is_from)
    }

    /// Begins to count TCP segments with data.
    ///
    /// # Errors
    ///
    /// As [`Wiretap::start`].
    pub fn of_tcp_data(testbed: &Testbed, host: &Host, network: Network) -> Result<Self> {
        Self::counting(testbed, host, network, has_tcp_data)
    }

    fn counting(
        testbed: &Testbed,
        host: &Host,
        network: Network,
        is_meant: impl Fn(&[u8]) -> bool + Send + 'static,
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
            let mut headers = [0; HEADERS];
            while desk.goes_on() {
                match next_frame(&wire, &mut headers) {
                    Ok(Some((at, frame))) if is_meant(frame) => desk.record().frames.push(at),
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
        self.look(|times| times.len() as u64)
    }

    /// When each of them came out of the host, in this order.
    ///
    /// # Errors
    ///
    /// As [`Wiretap::frames`].
    pub fn times(&self) -> Result<Vec<SystemTime>> {
        self.look(<[_]>::to_vec)
    }

    fn look<T>(&self, look: impl FnOnce(&[SystemTime]) -> T) -> Result<T> {
        let seen = self.worker.record();
        match seen.trouble {
            None => Ok(look(&seen.frames)),
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
    setsockopt(&wire, sockopt::ReceiveTimestampns, &true)?;
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

/// The next frame that came out of the host, as far as there is room, and when it did; none if there was none
/// for a while, or it went to the host.
fn next_frame<'a>(
    wire: &OwnedFd,
    room: &'a mut [u8],
) -> nix::Result<Option<(SystemTime, &'a [u8])>> {
    let mut stamp = cmsg_space!(TimeSpec);
    let mut pieces = [IoSliceMut::new(room)];
    let message = recvmsg::<LinkAddr>(
        wire.as_raw_fd(),
        &mut pieces,
        Some(&mut stamp),
        MsgFlags::empty(),
    );
    let message = match message {
        Ok(message) => message,
        // The link of a frozen namespace is down, and comes up again.
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return Ok(None),
        Err(error) => return Err(error),
    };
    let came_out = |from: &LinkAddr| from.pkttype() != libc::PACKET_OUTGOING;
    if !message.address.as_ref().is_some_and(came_out) {
        return Ok(None);
    }
    let at = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmTimestampns(at) => {
            Some(SystemTime::UNIX_EPOCH + Duration::from(at))
        }
        _ => None,
    });
    let (at, length) = (at.ok_or(Errno::ENODATA)?, message.bytes);
    Ok(Some((at, &room[..length])))
}

/// Whether a frame is a TCP segment over IPv4 that carries data.
fn has_tcp_data(frame: &[u8]) -> bool {
    const TCP: u8 = 6;
    let Some((&[0x08, 0x00], packet)) = frame
        .get(SOURCE.end..)
        .and_then(|rest| rest.split_first_chunk())
    else {
        return false;
    };
    let words = |header: Option<&u8>| header.map(|byte| usize::from(byte & 15) * 4);
    let data = || {
        let length = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
        let ip = words(packet.first())?;
        let tcp = words(packet.get(ip + 12).map(|byte| byte >> 4).as_ref())?;
        Some(length > ip + tcp)
    };
    packet.get(9) == Some(&TCP) && data().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_what_follows_the_headers() {
        let segment = |data: u8| {
            let mut frame = vec![0; 60];
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            frame[14] = 0x45;
            frame[17] = 20 + 32 + data;
            frame[23] = 6;
            frame[14 + 20 + 12] = 8 << 4;
            frame
        };
        assert!(has_tcp_data(&segment(1)));
        // A short frame is filled up.
        assert!(!has_tcp_data(&segment(0)));
        assert!(!has_tcp_data(&segment(1)[..30]));
        assert!(!has_tcp_data(&[]));
        let mut udp = segment(1);
        udp[23] = 17;
        assert!(!has_tcp_data(&udp));
    }
}
