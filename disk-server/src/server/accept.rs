//! The accept loop: any number of listening sockets, a thread for each connection.

use std::fmt;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use confinement::Calls;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::connections::{Connections, Places, Registration, Standing};
use super::error::StartError;
use crate::logging::Limited;

/// How long clients may take to accept their last answers when the server ends.
const GRACE: Duration = Duration::from_secs(5);

/// What a listener's clients are served.
pub(crate) trait Service: fmt::Debug + Sync {
    /// The name of its sessions' threads.
    fn thread_name(&self) -> &'static str;

    /// The system calls that these make beside those that every thread makes.
    fn calls(&self) -> &'static [Calls];

    /// Serves a client until it leaves. Anything may come from it. `registration` is to be asked whether there is a
    /// place for it as soon as it is known who it is.
    fn serve(&self, socket: Arc<TcpStream>, registration: &Registration<'_>);

    /// The server ends: sessions begin nothing new. What is under way is finished.
    fn end(&self);
}

/// A listening socket, and its connections.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    local: SocketAddr,
    connections: Arc<Connections>,
    /// As what somebody comes.
    newcomers: Standing,
    not_accepted: Limited,
}

impl Listener {
    /// Listens on an address. `option` is what the user can choose another one with.
    pub(crate) fn bind(
        address: SocketAddr,
        option: &'static str,
        newcomers: Standing,
        places: Places,
    ) -> Result<Listener, StartError> {
        let socket = TcpListener::bind(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => StartError::AddressInUse { address, option },
            _ => StartError::Listen { address, source },
        })?;
        Self::new(socket, newcomers, places).map_err(StartError::Setup)
    }

    /// Of a socket that listens.
    pub(crate) fn new(
        socket: TcpListener,
        newcomers: Standing,
        places: Places,
    ) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        Ok(Listener {
            socket,
            local,
            connections: Arc::new(Connections::new(local, places)),
            newcomers,
            not_accepted: Limited::new(),
        })
    }

    /// Where it listens, with the real port.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What is connected to it.
    pub(super) fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// Accepts the connection that waits, if one does.
    fn accept(&self) -> Accepted {
        match self.socket.accept() {
            Ok((stream, from)) => Accepted::Client(stream, from.ip()),
            Err(error) => match kind(&error) {
                Failure::OfClient => Accepted::Nobody,
                Failure::Passing => {
                    if let Some(left_out) = self.not_accepted.let_through() {
                        log::warn!("cannot accept connections for now: {error}{left_out}");
                    }
                    Accepted::NotNow
                }
                Failure::OfSocket => Accepted::Failed(error),
            },
        }
    }

    fn start_session<'scope>(
        &'scope self,
        service: &'scope dyn Service,
        scope: &'scope thread::Scope<'scope, '_>,
        (stream, from): (TcpStream, IpAddr),
    ) {
        if let Err(error) = stream.set_nonblocking(false) {
            dropped(&error);
            return;
        }
        let stream = Arc::new(stream);
        let registered = self.connections.register(&stream, from, self.newcomers);
        let Some(registration) = registered else {
            return;
        };
        let spawned = thread::Builder::new()
            .name(service.thread_name().to_owned())
            .spawn_scoped(scope, move || {
                confinement::narrow(service.calls());
                service.serve(stream, &registration);
                // Named, so that the closure owns the whole registration and not a field of it: one
                // that was dropped at once let any number of clients in.
                drop(registration);
            });
        if let Err(error) = spawned {
            dropped(&error);
        }
    }
}

/// A thread could not be had, or the connection was lost already.
fn dropped(error: &io::Error) {
    static DROPPED: Limited = Limited::new();
    if let Some(left_out) = DROPPED.let_through() {
        log::warn!("dropped a new connection: {error}{left_out}");
    }
}

enum Accepted {
    Client(TcpStream, IpAddr),
    Nobody,
    /// It fails, which passes.
    NotNow,
    Failed(io::Error),
}

/// Serves the clients of all listeners until a byte comes from `wake`. When this returns, all
/// sessions have ended.
pub(crate) fn accept_until_woken(
    wake: &UnixStream,
    services: &[(&Listener, &dyn Service)],
) -> io::Result<()> {
    thread::scope(|scope| {
        let result = accept_in(scope, wake, services);
        for (_, service) in services {
            service.end();
        }
        for (listener, _) in services {
            listener.connections.end_all(GRACE);
        }
        result
    })
}

fn accept_in<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    wake: &UnixStream,
    services: &[(&'scope Listener, &'scope dyn Service)],
) -> io::Result<()> {
    loop {
        let mut fds = vec![PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        let sockets = services.iter().map(|(listener, _)| &listener.socket);
        fds.extend(sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[0].any().unwrap_or(false) {
            return Ok(());
        }
        for (listener, service) in services {
            match listener.accept() {
                Accepted::Client(stream, from) => {
                    listener.start_session(*service, scope, (stream, from));
                }
                Accepted::Nobody => {}
                Accepted::NotNow => {
                    if woken_within(wake, Duration::from_millis(100)) {
                        return Ok(());
                    }
                }
                Accepted::Failed(error) => return Err(error),
            }
        }
    }
}

/// Waits, and says whether the server was stopped meanwhile.
fn woken_within(mut wake: &UnixStream, time: Duration) -> bool {
    let mut byte = [0];
    let waited = wake
        .set_read_timeout(Some(time))
        .and_then(|()| wake.read(&mut byte));
    matches!(waited, Ok(n) if n > 0)
}

/// What a failure to accept says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// There is nobody, or somebody who left before he was accepted.
    OfClient,
    /// The process or the system lacks something now: file descriptors, memory, a network.
    Passing,
    /// The socket is none.
    OfSocket,
}

/// Whatever is not known to be for ever passes: the arbiter's end would stop the failovers of all
/// machines. Linux passes errors of the network on that were pending on the new connection, and a
/// firewall's (accept(2), "Error handling").
fn kind(error: &io::Error) -> Failure {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED | Errno::EPROTO) => {
            Failure::OfClient
        }
        Some(Errno::EBADF | Errno::EFAULT | Errno::EINVAL | Errno::ENOTSOCK) => Failure::OfSocket,
        _ => Failure::Passing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_may_pass_does_not_end_the_server() {
        let kind = |errno: Errno| kind(&io::Error::from(errno));
        for errno in [
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOBUFS,
            Errno::ENOMEM,
            Errno::EPERM,
            Errno::ENETDOWN,
            Errno::EHOSTUNREACH,
            Errno::ENETUNREACH,
            Errno::EHOSTDOWN,
            Errno::ENONET,
            Errno::ENOPROTOOPT,
            Errno::EOPNOTSUPP,
            Errno::ETIMEDOUT,
            Errno::ENOSR,
        ] {
            assert_eq!(kind(errno), Failure::Passing, "{errno}");
        }
        assert_eq!(kind(Errno::ECONNABORTED), Failure::OfClient);
        assert_eq!(kind(Errno::EBADF), Failure::OfSocket);
    }
}
