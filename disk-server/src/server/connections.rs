//! The open connections of one listener, so that they can be counted and closed.
//!
//! Who has not shown a key yet is a *stranger*. Strangers have places of their own, so that they take none of those
//! that hosts need, and a new one is always let in: where there are too many, the oldest one goes of the network
//! address that has most of them. So whoever keeps calling from one address keeps out nobody but himself.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::logging::Limited;

/// How many connections there may be at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places {
    /// Of those who are known, or all in plain mode.
    pub(crate) known: usize,
    /// Of strangers. As many again may be about to end.
    pub(crate) strangers: usize,
}

/// The open connections.
#[derive(Debug)]
pub(super) struct Connections {
    local: SocketAddr,
    places: Places,
    open: Mutex<Open>,
    left: Condvar,
    turned_away: Limited,
}

#[derive(Debug, Default)]
struct Open {
    connections: BTreeMap<u64, Connection>,
    next: u64,
}

#[derive(Debug)]
struct Connection {
    /// Shared with its session: a descriptor of its own would halve what there is room for.
    socket: Arc<TcpStream>,
    from: IpAddr,
    standing: Standing,
}

/// What the other end of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has not shown a key yet.
    Stranger,
    /// It was one, and is about to end.
    Ousted,
    /// It is known, or nobody is asked for a key.
    Known,
}

impl Connections {
    /// Those of a listener at the address `local`.
    pub(super) fn new(local: SocketAddr, places: Places) -> Self {
        Self {
            local,
            places,
            open: Mutex::default(),
            left: Condvar::new(),
            turned_away: Limited::new(),
        }
    }

    /// Takes a connection in; `None` when there is no room for it.
    pub(super) fn register(
        &self,
        socket: &Arc<TcpStream>,
        from: IpAddr,
        standing: Standing,
    ) -> Option<Registration<'_>> {
        let mut open = self.open.lock();
        let has_room = match standing {
            Standing::Known => self.has_room(&open),
            Standing::Stranger | Standing::Ousted => {
                if open.count(Standing::Stranger) >= self.places.strangers {
                    open.oust();
                }
                open.count(Standing::Ousted) <= self.places.strangers
            }
        };
        if !has_room {
            return None;
        }
        let id = open.next;
        open.next += 1;
        let connection = Connection {
            socket: Arc::clone(socket),
            from: network(from),
            standing,
        };
        open.connections.insert(id, connection);
        Some(Registration {
            connections: self,
            id,
        })
    }

    /// How many there are, whoever they are.
    pub(super) fn count(&self) -> usize {
        self.open.lock().connections.len()
    }

    /// Whether there is a place for one more who is known, which is told in the log if there is not.
    fn has_room(&self, open: &Open) -> bool {
        let has_room = open.count(Standing::Known) < self.places.known;
        if !has_room && let Some(left_out) = self.turned_away.let_through() {
            log::warn!(
                "{}: there are {} connections: closed a new one{left_out}",
                self.local,
                self.places.known
            );
        }
        has_room
    }

    /// Ends all connections: readers see the end of their streams, and what is under way is
    /// finished. Clients that do not take their answers are cut off after `grace`.
    pub(super) fn end_all(&self, grace: Duration) {
        let mut open = self.open.lock();
        // Only the reading half: the answer to a request under way may still leave.
        open.shutdown(Shutdown::Read);
        self.left
            .wait_while_for(&mut open, |open| !open.connections.is_empty(), grace);
        open.shutdown(Shutdown::Both);
    }
}

impl Open {
    fn count(&self, standing: Standing) -> usize {
        let all = self.connections.values();
        all.filter(|it| it.standing == standing).count()
    }

    /// Ends the oldest connection of the network address that has most strangers.
    fn oust(&mut self) {
        let mut strangers: BTreeMap<IpAddr, (usize, u64)> = BTreeMap::new();
        for (id, it) in &self.connections {
            if it.standing == Standing::Stranger {
                strangers.entry(it.from).or_insert((0, *id)).0 += 1;
            }
        }
        let oldest = strangers.values().max_by_key(|(count, _)| *count);
        if let Some(it) = oldest.and_then(|(_, id)| self.connections.get_mut(id)) {
            it.standing = Standing::Ousted;
            // It may be closed already.
            let _ = it.socket.shutdown(Shutdown::Both);
        }
    }

    fn shutdown(&self, how: Shutdown) {
        for connection in self.connections.values() {
            // It may be closed already.
            let _ = connection.socket.shutdown(how);
        }
    }
}

/// What one caller has all of: an IPv4 address, or the 64 bits that a network of IPv6 shares.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => IpAddr::V4(address),
            None => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        },
    }
}

/// A connection among the open ones, until its session ends.
#[derive(Debug)]
pub(crate) struct Registration<'a> {
    connections: &'a Connections,
    id: u64,
}

impl Registration<'_> {
    /// Its other end has shown a key that is trusted. Whether there is a place for it: otherwise it is to be closed.
    pub(super) fn let_in(&self) -> bool {
        let mut open = self.connections.open.lock();
        let standing = |open: &Open| open.connections.get(&self.id).map(|it| it.standing);
        match standing(&open) {
            Some(Standing::Known) => true,
            Some(Standing::Stranger) if self.connections.has_room(&open) => {
                if let Some(it) = open.connections.get_mut(&self.id) {
                    it.standing = Standing::Known;
                }
                true
            }
            _ => false,
        }
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.connections.open.lock().connections.remove(&self.id);
        self.connections.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::*;

    const PLACES: Places = Places {
        known: 2,
        strangers: 4,
    };

    /// A listener, and what has come in at it.
    struct Scene {
        listener: TcpListener,
        connections: Connections,
    }

    impl Scene {
        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let connections = Connections::new(listener.local_addr().unwrap(), PLACES);
            Self {
                listener,
                connections,
            }
        }

        /// Somebody who calls, as if from this address.
        fn call(&self, from: &str) -> (TcpStream, Registration<'_>) {
            let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            let socket = Arc::new(self.listener.accept().unwrap().0);
            let from = from.parse().unwrap();
            let entry = self.connections.register(&socket, from, Standing::Stranger);
            (client, entry.expect("strangers are let in"))
        }
    }

    fn is_open(client: &TcpStream) -> bool {
        client.set_nonblocking(true).unwrap();
        let read = { client }.read(&mut [0]);
        matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    #[test]
    fn who_calls_again_and_again_keeps_out_nobody_else() {
        let scene = Scene::new();
        let host = scene.call("192.0.2.1");
        let known = scene.call("192.0.2.9");
        assert!(known.1.let_in());
        let mut flood = Vec::new();
        for n in 1..=20 {
            // All of one network.
            flood.push(scene.call(&format!("2001:db8::{n}")));
            // Those that are ousted leave.
            flood.retain(|(client, _)| is_open(client));
            assert!(flood.len() <= PLACES.strangers, "{n}");
        }
        assert!(is_open(&host.0) && host.1.let_in());
        assert!(is_open(&known.0));
        let (late, late_entry) = scene.call("192.0.2.2");
        assert!(is_open(&late), "a new one is let in");
        assert!(!late_entry.let_in(), "the two places are taken");
        drop(known);
        assert!(late_entry.let_in());
    }

    #[test]
    fn those_that_are_about_to_end_are_bounded_too() {
        let scene = Scene::new();
        let mut calls = Vec::new();
        for _ in 0..2 * PLACES.strangers {
            calls.push(scene.call("192.0.2.1"));
        }
        let socket = TcpStream::connect(scene.listener.local_addr().unwrap()).unwrap();
        let from = "192.0.2.1".parse().unwrap();
        let mut entries = (0..2).map(|_| {
            let socket = Arc::new(socket.try_clone().unwrap());
            (scene.connections).register(&socket, from, Standing::Stranger)
        });
        assert!(entries.any(|entry| entry.is_none()));
    }
}
