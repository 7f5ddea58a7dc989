//! Tells the network where the guest now is.

/// A RARP request from the guest's own address to everybody (RFC 903): any switch that sees it
/// learns the port behind which the address now is. It needs no IP address, so it works for every
/// guest; hypervisors use the same frame after a migration.
#[must_use]
pub fn announcement(mac: [u8; 6]) -> Vec<u8> {
    const ETHERTYPE_RARP: u16 = 0x8035;
    const REVERSE_REQUEST: u16 = 3;
    let mut frame = Vec::with_capacity(60);
    frame.extend_from_slice(&[0xff; 6]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&ETHERTYPE_RARP.to_be_bytes());
    frame.extend_from_slice(&1u16.to_be_bytes()); // hardware: Ethernet
    frame.extend_from_slice(&0x0800u16.to_be_bytes()); // protocol: IPv4
    frame.extend_from_slice(&[6, 4]); // address lengths
    frame.extend_from_slice(&REVERSE_REQUEST.to_be_bytes());
    for _sender_then_target in 0..2 {
        frame.extend_from_slice(&mac);
        frame.extend_from_slice(&[0; 4]);
    }
    frame.resize(60, 0); // shortest Ethernet frame without its checksum
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_broadcast_from_the_guest() {
        let mac = [0x52, 0x54, 0, 1, 2, 3];
        let frame = announcement(mac);
        assert_eq!(frame.len(), 60);
        assert_eq!(&frame[..6], &[0xff; 6]);
        assert_eq!(&frame[6..12], &mac);
        assert_eq!(&frame[12..14], &[0x80, 0x35]);
        assert_eq!(&frame[20..22], &[0, 3]);
        assert_eq!(&frame[32..38], &mac);
    }
}
