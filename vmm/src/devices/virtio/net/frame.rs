//! Frames, and what their senders left to others.
//!
//! A sender that hands a frame over in memory can leave its checksum open, and can make it larger
//! than the network carries: whoever puts it on a wire completes it and cuts it into segments.
//! Guests and TAP interfaces do, and say so in the header before the frame. A frame to another
//! guest on the same machine is never cut at all.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
};

/// Bytes of [`Header`].
pub const HEADER_BYTES: usize = 10;

/// Largest Ethernet frame on a wire, with a VLAN tag, without its checksum.
pub const MAX_WIRE_BYTES: usize = 1518;
/// Largest frame that is yet to be cut: the largest IP packet, and an Ethernet header with a VLAN
/// tag.
pub const MAX_BYTES: usize = 65_535 + 18;

/// `struct virtio_net_hdr` (virtio 1.2, section 5.1.6) without `num_buffers`, as a TAP interface has
/// it too: flags, type of segmentation, length of headers, size of segments, where a checksum begins
/// and where in that it goes; the last four 16 bits wide, little-endian.
pub type Header = [u8; HEADER_BYTES];

/// Nothing was left to others.
const COMPLETE: Header = [0; HEADER_BYTES];

/// A frame's first byte in the log: it is complete.
const IS_COMPLETE: u8 = 0;
/// A frame's first byte in the log: its header follows.
const HAS_HEADER: u8 = 1;

/// An Ethernet frame without its checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// What was left to others.
    pub header: Header,
    /// The frame.
    pub bytes: Vec<u8>,
}

impl From<Vec<u8>> for Frame {
    /// A frame of which nothing was left to others.
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            header: COMPLETE,
            bytes,
        }
    }
}

impl Frame {
    /// Splits what a TAP interface with this header gives. `None` if it is no frame.
    #[must_use]
    pub fn from_tap(packet: &[u8]) -> Option<Self> {
        let (header, bytes) = packet.split_first_chunk()?;
        Some(Self {
            header: *header,
            bytes: bytes.to_vec(),
        })
    }

    /// As the log has it: in most of its frames nothing is left open.
    #[must_use]
    pub fn to_log(&self) -> Vec<u8> {
        if self.header == COMPLETE {
            [&[IS_COMPLETE][..], &self.bytes].concat()
        } else {
            [&[HAS_HEADER][..], &self.header, &self.bytes].concat()
        }
    }

    /// The reverse of [`Frame::to_log`]; `None` if that never makes such bytes.
    #[must_use]
    pub fn from_log(logged: &[u8]) -> Option<Self> {
        match logged.split_first()? {
            (&IS_COMPLETE, bytes) => Some(bytes.to_vec().into()),
            (&HAS_HEADER, packet) => {
                Self::from_tap(packet).filter(|frame| frame.header != COMPLETE)
            }
            _ => None,
        }
    }

    fn segmentation(&self) -> u32 {
        self.header[1].into()
    }

    /// The largest that it may be.
    #[must_use]
    pub fn limit(&self) -> usize {
        if self.segmentation() == VIRTIO_NET_HDR_GSO_NONE {
            MAX_WIRE_BYTES
        } else {
            MAX_BYTES
        }
    }
}

/// What a guest's driver takes of what a sender leaves to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Offloads {
    /// Checksums.
    pub checksum: bool,
    /// TCP over IPv4, yet to be cut into segments.
    pub tcp4: bool,
    /// TCP over IPv6, yet to be cut into segments.
    pub tcp6: bool,
}

impl Offloads {
    /// What a driver takes that has negotiated `features`.
    #[must_use]
    pub fn of_features(features: u64) -> Self {
        let has = |bit: u32| features & 1 << bit != 0;
        let checksum = has(VIRTIO_NET_F_GUEST_CSUM);
        Self {
            checksum,
            // Section 5.1.3.1: these need the checksum.
            tcp4: checksum && has(VIRTIO_NET_F_GUEST_TSO4),
            tcp6: checksum && has(VIRTIO_NET_F_GUEST_TSO6),
        }
    }

    /// Whether it takes this frame.
    #[must_use]
    pub fn take(self, frame: &Frame) -> bool {
        const CHECKSUM_FLAGS: u32 = VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID;
        let flags = u32::from(frame.header[0]);
        let checksum = flags == 0 || (self.checksum && flags & !CHECKSUM_FLAGS == 0);
        let segmentation = match frame.segmentation() {
            VIRTIO_NET_HDR_GSO_NONE => true,
            VIRTIO_NET_HDR_GSO_TCPV4 => self.tcp4,
            VIRTIO_NET_HDR_GSO_TCPV6 => self.tcp6,
            _ => false,
        };
        checksum && segmentation && frame.bytes.len() <= frame.limit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP4: u8 = VIRTIO_NET_HDR_GSO_TCPV4 as u8;

    fn with_header(flags: u8, segmentation: u8, len: usize) -> Frame {
        let mut frame = Frame::from(vec![7; len]);
        frame.header[..2].copy_from_slice(&[flags, segmentation]);
        frame
    }

    #[test]
    fn the_log_has_a_header_where_it_says_something() {
        let plain = Frame::from(vec![1, 2, 3]);
        assert_eq!(plain.to_log(), [0, 1, 2, 3]);
        let open = with_header(1, 0, 60);
        assert_eq!(open.to_log().len(), 1 + HEADER_BYTES + 60);
        for frame in [plain, open] {
            assert_eq!(Frame::from_log(&frame.to_log()), Some(frame));
        }
    }

    #[test]
    fn what_no_log_has_is_refused() {
        let complete_with_header = [&[HAS_HEADER][..], &COMPLETE, &[7; 60]].concat();
        let cut = [HAS_HEADER, 1, 0];
        for logged in [&complete_with_header[..], &cut, &[2, 0, 0], &[]] {
            assert_eq!(Frame::from_log(logged), None, "{logged:?}");
        }
    }

    #[test]
    fn a_guest_takes_what_it_asked_for() {
        let nothing = Offloads::default();
        let tcp4 = 1 << VIRTIO_NET_F_GUEST_TSO4;
        let checksum = 1 << VIRTIO_NET_F_GUEST_CSUM;
        assert_eq!(Offloads::of_features(tcp4), nothing, "without checksums");
        let both = Offloads::of_features(tcp4 | checksum);
        let only_checksum = Offloads::of_features(checksum);
        for (frame, takers) in [
            (with_header(0, 0, 60), [true, true, true]),
            (with_header(0, 0, MAX_WIRE_BYTES + 1), [false, false, false]),
            (with_header(1, 0, 60), [false, true, true]),
            (with_header(2, 0, 60), [false, true, true]),
            (with_header(4, 0, 60), [false, false, false]),
            (with_header(1, TCP4, MAX_BYTES), [false, false, true]),
            (with_header(1, TCP4, MAX_BYTES + 1), [false, false, false]),
            (with_header(1, 4, 9000), [false, false, false]),
            (with_header(1, TCP4 | 0x80, 9000), [false, false, false]),
        ] {
            let takes = [nothing, only_checksum, both].map(|offloads| offloads.take(&frame));
            assert_eq!(takes, takers, "{:?}", frame.header);
        }
    }
}
