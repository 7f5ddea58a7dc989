//! Requests that a client keeps under way.

use disk_server::nbd::client::Connection;

/// What requests do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Read,
    Write,
    /// Writes, and waits until that is on stable storage.
    WriteDurably,
}

/// Requests of one kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) kind: Kind,
    /// Bytes of each, a divisor of the disk's.
    pub(crate) len: u32,
    /// How many are under way at a time.
    pub(crate) depth: u64,
}

impl Load {
    /// Makes so many requests, anywhere on a disk of `size` bytes, and waits for them.
    pub(crate) fn run(&self, to: &mut Connection, size: u64, count: u64) {
        let mut dice = fastrand::Rng::with_seed(count);
        let data = vec![0xa5; self.len as usize];
        let mut begin = |to: &mut Connection, cookie| {
            let offset = dice.u64(..size / u64::from(self.len)) * u64::from(self.len);
            let sent = match self.kind {
                Kind::Read => to.requests.read(cookie, offset, self.len),
                Kind::Write | Kind::WriteDurably => to.requests.write(cookie, offset, &data),
            };
            sent.expect("the server is there");
        };
        let ahead = self.depth.min(count);
        (0..ahead).for_each(|cookie| begin(to, cookie));
        for cookie in ahead..count + ahead {
            to.requests.flush_buffer().expect("the server is there");
            done(to);
            if let Kind::WriteDurably = self.kind {
                to.requests.flush(u64::MAX).expect("the server is there");
                to.requests.flush_buffer().expect("the server is there");
                done(to);
            }
            if cookie < count {
                begin(to, cookie);
            }
        }
    }
}

fn done(at: &mut Connection) {
    let reply = at.replies.next_reply().expect("the server is there");
    assert!(reply.result.is_ok(), "{reply:?}");
}
