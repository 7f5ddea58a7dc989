//! Messages to the disk's thread.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use logging_channel::entry::Lsn;

use super::DiskRequest;
use super::link::LinkEvent;
use crate::bell::Bell;

/// A message to the disk's thread.
pub(super) enum Message {
    /// A request, and the log entry that has to be committed before it goes out.
    Submit(DiskRequest, Option<Lsn>),
    /// The completion of this request is in the log. The backup is to read the disk itself when it
    /// executes that entry, if there is an LSN.
    Logged(u64, Option<Lsn>),
    /// Something happened on the link.
    Link(LinkEvent),
    /// The log has come to where it was wanted.
    LogMoved,
    /// Nobody wants the disk any more.
    Stop,
}

/// Where messages are put. A handle.
#[derive(Clone)]
pub(super) struct Post {
    sender: Sender<Message>,
    bell: Bell,
}

/// Where they are taken out.
pub(super) struct Inbox {
    receiver: Receiver<Message>,
    bell: Bell,
}

/// Both ends. Without a bound: what waits is bounded by the guest's queue, and the guest's thread must
/// not wait for a service that waits for the guest's thread to take a completion.
pub(super) fn inbox() -> (Post, Inbox) {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let bell = Bell::default();
    let post = Post {
        sender,
        bell: bell.clone(),
    };
    (post, Inbox { receiver, bell })
}

impl Post {
    /// Sends a message. `false` when nobody takes any more.
    pub(super) fn send(&self, message: Message) -> bool {
        let sent = self.sender.send(message).is_ok();
        self.bell.ring();
        sent
    }
}

impl Inbox {
    /// The next message; none if none comes until `deadline`.
    pub(super) fn next(&self, deadline: Option<Instant>) -> Option<Message> {
        loop {
            match self.receiver.try_recv() {
                Ok(message) => return Some(message),
                // Nobody is left who could say it.
                Err(TryRecvError::Disconnected) => return Some(Message::Stop),
                Err(TryRecvError::Empty) => {}
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return None;
            }
            self.bell.wait(deadline);
        }
    }

    /// The messages that are there.
    pub(super) fn rest(&self) -> impl Iterator<Item = Message> + '_ {
        self.receiver.try_iter()
    }
}
