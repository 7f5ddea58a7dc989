//! The memory of one connection's requests. No connection ever waits for another one's.

use std::ops::{Deref, DerefMut};

use parking_lot::{Condvar, Mutex};

/// Room for the head of a reply in front of its data, in bytes.
pub(super) const HEADROOM: usize = 32;

/// Smaller buffers are not worth their bookkeeping.
const SMALLEST: usize = 4096;

/// Buffers of up to a number of bytes together. They are kept and used again: a large piece of
/// fresh memory costs a page fault every 4 KiB, which is more than copying into it.
#[derive(Debug)]
pub(super) struct Buffers {
    limit: usize,
    state: Mutex<State>,
    given_back: Condvar,
}

#[derive(Debug)]
struct State {
    /// What may still be taken, in bytes.
    free: usize,
    /// Buffers that nobody uses; never more than `free` together.
    idle: Vec<Vec<u8>>,
    idle_bytes: usize,
}

impl Buffers {
    pub(super) fn new(limit: usize) -> Buffers {
        Buffers {
            limit: limit.max(SMALLEST),
            state: Mutex::new(State {
                free: limit.max(SMALLEST),
                idle: Vec::new(),
                idle_bytes: 0,
            }),
            given_back: Condvar::new(),
        }
    }

    /// The most that a buffer has, without its headroom.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Waits until this connection's other requests leave room. The buffer has
    /// at least `bytes`, or [`Buffers::limit`] if that is less, and [`HEADROOM`] more; what they are
    /// is anything that this connection had before. For the connection's reader alone.
    pub(super) fn take(&self, bytes: usize) -> Buffer<'_> {
        let bytes = bytes.max(SMALLEST).next_power_of_two().min(self.limit);
        let mut state = self.state.lock();
        self.given_back
            .wait_while(&mut state, |state| state.free < bytes);
        state.free -= bytes;
        let size = bytes + HEADROOM;
        let fits = state.idle.iter().position(|idle| idle.len() == size);
        let memory = fits.map(|at| state.idle.swap_remove(at));
        if memory.is_some() {
            state.idle_bytes -= bytes;
        }
        while state.idle_bytes > state.free {
            let dropped = state.idle.pop().map_or(0, |idle| idle.len() - HEADROOM);
            state.idle_bytes -= dropped;
        }
        drop(state);
        Buffer {
            owner: self,
            memory: memory.unwrap_or_else(|| vec![0; size]),
        }
    }
}

/// Some of a connection's memory, given back when dropped.
#[derive(Debug)]
pub(super) struct Buffer<'a> {
    owner: &'a Buffers,
    memory: Vec<u8>,
}

impl Deref for Buffer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory
    }
}

impl DerefMut for Buffer<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        let mut state = self.owner.state.lock();
        let bytes = self.memory.len() - HEADROOM;
        state.free += bytes;
        state.idle_bytes += bytes;
        state.idle.push(std::mem::take(&mut self.memory));
        drop(state);
        self.owner.given_back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn memory_is_bounded_and_used_again() {
        let buffers = Buffers::new(64 << 10);
        let large = buffers.take(1 << 30);
        assert_eq!(large.len(), (64 << 10) + HEADROOM);
        let at = large.as_ptr();
        thread::scope(|scope| {
            let second = scope.spawn(|| buffers.take(40 << 10).as_ptr() as usize);
            drop(large);
            assert_eq!(second.join().unwrap(), at as usize);
        });
        let small: Vec<_> = (0..16).map(|_| buffers.take(1)).collect();
        {
            let state = buffers.state.lock();
            assert_eq!((state.free, state.idle_bytes), (0, 0));
        }
        drop(small);
        let state = buffers.state.lock();
        assert_eq!((state.free, state.idle_bytes), (64 << 10, 64 << 10));
    }
}
