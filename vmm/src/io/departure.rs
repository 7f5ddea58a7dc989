//! Frames that come for a guest while it changes its host by plan.
//!
//! From when the guest stands still on the old host until switches know the new one, they still come to the old one.
//! They would be lost, and their senders would wait for their own timeouts, which are longer than the pause. So the old
//! host keeps them, and gives them back to the network when the new one announces the guest: behind that announcement,
//! switches lead them there.
//!
//! They leave with another sender's address, since switches would look for the real one here from then on, and for the
//! guest alone, as others have got them. Guests take no notice of both: ARP and neighbour discovery have addresses of
//! their own. This is done once: no network that gives back what it gets makes more of it. Who announces is not proven;
//! somebody who speaks with the guest's address on its own network can have its frames at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::announce::is_announcement;
use crate::devices::virtio::net::frame::Frame;

/// For how long a host that handed its guest over waits for the other one's announcement, which comes when that one
/// goes live.
const PATIENCE: Duration = Duration::from_secs(1);

/// A guest's departure from this host. A handle.
#[derive(Debug, Clone)]
pub struct Departure(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    mac: [u8; 6],
    /// There is one. As in `stage`, for who looks at each frame.
    begun: AtomicBool,
    stage: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Here,
    Leaves,
    /// What came meanwhile has followed it.
    Left,
}

impl Departure {
    /// Of the guest with this address, which is here yet.
    #[must_use]
    pub fn new(mac: [u8; 6]) -> Self {
        Self(Arc::new(Shared {
            mac,
            begun: AtomicBool::new(false),
            stage: Mutex::new(Stage::Here),
            changed: Condvar::new(),
        }))
    }

    /// The guest takes nothing any more, and may go on elsewhere.
    pub fn begin(&self) {
        self.enter(Stage::Leaves);
    }

    /// It goes on here.
    pub fn cancel(&self) {
        self.enter(Stage::Here);
    }

    /// Waits until what came for a guest that leaves has followed it, unless nobody announces it.
    pub fn wait_over(&self) {
        let mut stage = self.0.stage.lock();
        let leaves = |stage: &mut Stage| *stage == Stage::Leaves;
        self.0.changed.wait_while_for(&mut stage, leaves, PATIENCE);
    }

    /// Whether the guest takes nothing any more.
    pub(super) fn is_begun(&self) -> bool {
        self.0.begun.load(Ordering::Acquire)
    }

    /// A frame has come. If it announces that the guest is elsewhere, what `waits` for it goes back to the network by
    /// `send`. Gives the frame back if it is for the guest.
    pub(super) fn meet(
        &self,
        frame: Frame,
        waits: impl Iterator<Item = Frame>,
        send: impl Fn(&Frame),
    ) -> Option<Frame> {
        if !self.is_begun() {
            return Some(frame);
        }
        let mut stage = self.0.stage.lock();
        match *stage {
            Stage::Leaves if is_announcement(&frame.bytes, self.0.mac) => {}
            Stage::Here | Stage::Leaves => return Some(frame),
            // It comes there by itself.
            Stage::Left => return None,
        }
        let follow = waits.filter_map(|frame| self.redirected(frame));
        let count = follow.inspect(|frame| send(frame)).count();
        if count > 0 {
            log::info!("{count} frames that came for the guest on its way follow it");
        }
        *stage = Stage::Left;
        self.0.changed.notify_all();
        None
    }

    /// The same frame as this host gives it back.
    fn redirected(&self, mut frame: Frame) -> Option<Frame> {
        const LOCALLY_ADMINISTERED: u8 = 2;
        let mut sender = self.0.mac;
        sender[0] = (sender[0] | LOCALLY_ADMINISTERED) ^ 4;
        let (to, rest) = frame.bytes.split_first_chunk_mut::<6>()?;
        *to = self.0.mac;
        *rest.first_chunk_mut()? = sender;
        Some(frame)
    }

    fn enter(&self, stage: Stage) {
        let mut entered = self.0.stage.lock();
        *entered = stage;
        self.0.begun.store(stage != Stage::Here, Ordering::Release);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::io::announce::announcement;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
    const CLIENT: [u8; 6] = [0x52, 0x54, 0, 9, 9, 9];

    fn frame(to: [u8; 6], from: [u8; 6], number: u8) -> Frame {
        [&to[..], &from, &[8, 0, number]].concat().into()
    }

    /// What goes back to the network when `came` comes and `waits` waits, and whether the guest gets `came`.
    fn met(departure: &Departure, came: Frame, waits: Vec<Frame>) -> (Vec<Frame>, bool) {
        let sent = RefCell::new(Vec::new());
        let send = |frame: &Frame| sent.borrow_mut().push(frame.clone());
        let kept = departure.meet(came, waits.into_iter(), send);
        (sent.into_inner(), kept.is_some())
    }

    #[test]
    fn frames_follow_the_guest_behind_its_announcement() {
        let departure = Departure::new(MAC);
        let request = |number| frame(MAC, CLIENT, number);
        let announced = || announcement(MAC).into();
        // Somebody who speaks with its address while it is here.
        assert_eq!(met(&departure, announced(), vec![]), (vec![], true));

        departure.begin();
        // The network may give back what the guest has said itself.
        for frame in [
            request(2),
            frame([0xff; 6], MAC, 0),
            announcement(CLIENT).into(),
        ] {
            assert_eq!(met(&departure, frame, vec![request(1)]), (vec![], true));
        }
        let waits = vec![request(1), frame([0xff; 6], CLIENT, 2), request(3)];
        let (sent, kept) = met(&departure, announced(), waits);
        let numbers: Vec<u8> = sent.iter().map(|frame| frame.bytes[14]).collect();
        assert_eq!((numbers, kept), (vec![1, 2, 3], false));
        for frame in sent {
            let (to, from) = (&frame.bytes[..6], &frame.bytes[6..12]);
            assert_eq!(to, MAC);
            assert!(
                from != MAC && from != CLIENT,
                "switches would look for it here"
            );
            assert_eq!(from[0] & 3, 2, "locally administered, of one station");
            // And once only, whatever comes.
            assert_eq!(met(&departure, frame, vec![]), (vec![], false));
        }
        departure.wait_over();
        assert_eq!(met(&departure, announced(), vec![]), (vec![], false));
    }

    #[test]
    fn a_guest_that_goes_on_here_gets_its_frames() {
        let departure = Departure::new(MAC);
        departure.wait_over();
        departure.begin();
        departure.cancel();
        let announced = announcement(MAC).into();
        assert_eq!(met(&departure, announced, vec![]), (vec![], true));
        let request = frame(MAC, CLIENT, 1);
        assert_eq!(met(&departure, request, vec![]), (vec![], true));
    }
}
