//! What the thread does that reads acknowledgements.

use std::io::{self, Read};
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Shared;
use crate::codec::HEADER_LEN;
use crate::control::Control;
use crate::loss::LossReason;
use crate::protocol::PrimaryEnd;

impl Shared {
    /// Reads acknowledgements until the session is over.
    pub(in crate::sender) fn ack_loop(&self) {
        let mut buffer = [0; HEADER_LEN * 64];
        let mut have = 0;
        loop {
            match (&self.stream).read(&mut buffer[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
            self.traffic.set();
            let (messages, rest) = buffer[..have].as_chunks();
            if let Err(what) = self.take_acks(messages) {
                return self.lose(LossReason::Protocol(what));
            }
            let (taken, left) = (messages.len() * HEADER_LEN, rest.len());
            buffer.copy_within(taken..have, 0);
            have = left;
        }
        let reason = self.lock_end().closed();
        self.lose(reason);
    }

    fn take_acks(&self, messages: &[[u8; HEADER_LEN]]) -> Result<(), String> {
        let messages: Result<Vec<Control>, _> = messages.iter().map(Control::decode).collect();
        let messages = messages.map_err(|error| error.to_string())?;
        let news = {
            let mut end = self.lock_end();
            let news = end.hear(messages, Instant::now())?;
            self.publish(&end);
            news
        };
        if news {
            // Also what an acknowledgement did not let out that had come too late by itself.
            self.release(self.permit());
            self.announce_progress();
        }
        Ok(())
    }

    /// Has those who look often see what is known now.
    pub(in crate::sender) fn publish(&self, end: &PrimaryEnd) {
        // Before the request with which it comes, and that before what was executed with it: who sees
        // the latter knows that it was of no use.
        self.uncounted.store(!end.takes_counts(), Ordering::Relaxed);
        self.state_wanted
            .store(end.wants_state(), Ordering::Release);
        self.renewal_wanted
            .store(end.wants_renewal(), Ordering::Relaxed);
        self.executed.store(end.executed().0, Ordering::Release);
        self.acked.store(end.acked().0, Ordering::Release);
        self.behind.store(end.is_behind(), Ordering::Relaxed);
    }
}
