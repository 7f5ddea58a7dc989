//! The addresses of servers whose names are configured.
//!
//! Where no name server answers, the C library gives up after half a minute or several, which is more than anybody who
//! looks a name up may wait, and cannot be told to end. So each lookup is done on a thread of its own. Who does not
//! get its answer in time, or gets none, has the last one: a name server must not be needed at the very moment when
//! hosts fail.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::thread;
use std::time::Instant;

use confinement::Calls;
use parking_lot::{Condvar, Mutex};

use crate::arbiter::ServerAddress;

static NAMES: Names = Names::new();

/// The addresses of a server, by `deadline`.
///
/// # Errors
/// The system's, of a name that never had an answer; [`io::ErrorKind::TimedOut`].
pub(crate) fn addresses(server: &ServerAddress, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
    match server.as_str().parse() {
        Ok(address) => Ok(vec![address]),
        Err(_) => NAMES.look_up(server.as_str(), deadline, |name| {
            Ok(name.to_socket_addrs()?.collect())
        }),
    }
}

/// What is known of names.
#[derive(Debug)]
struct Names {
    known: Mutex<BTreeMap<String, Known>>,
    /// Something else is.
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    /// The last answer; none at first.
    addresses: Vec<SocketAddr>,
    /// Why the last lookup had none.
    failure: Option<(io::ErrorKind, String)>,
    /// A lookup is under way.
    is_asked: bool,
}

impl Names {
    const fn new() -> Self {
        Self {
            known: Mutex::new(BTreeMap::new()),
            answered: Condvar::new(),
        }
    }

    /// Looks a name up, or waits for the lookup that is under way.
    fn look_up(
        &'static self,
        name: &str,
        deadline: Instant,
        ask: impl FnOnce(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> io::Result<Vec<SocketAddr>> {
        let mut names = self.known.lock();
        let known = names.entry(name.to_owned()).or_default();
        if !known.is_asked {
            let asked = name.to_owned();
            let thread = thread::Builder::new().name("lookup".to_owned());
            let run = move || self.answer(&asked, ask(&asked));
            match confinement::spawn(thread, &[Calls::Connect, Calls::Files], run) {
                Ok(_) => known.is_asked = true,
                Err(error) => known.failure = Some((error.kind(), error.to_string())),
            }
        }
        let mut is_late = false;
        loop {
            let known = &names[name];
            if known.is_asked && !is_late {
                is_late = (self.answered.wait_until(&mut names, deadline)).timed_out();
                continue;
            }
            return match &known.failure {
                _ if !known.addresses.is_empty() => Ok(known.addresses.clone()),
                Some((kind, text)) if !known.is_asked => Err(io::Error::new(*kind, text.clone())),
                _ => {
                    let text = "no name server answers yet";
                    Err(io::Error::new(io::ErrorKind::TimedOut, text))
                }
            };
        }
    }

    fn answer(&self, name: &str, answer: io::Result<Vec<SocketAddr>>) {
        let mut names = self.known.lock();
        let known = names.entry(name.to_owned()).or_default();
        known.is_asked = false;
        match answer {
            Ok(addresses) => {
                known.addresses = addresses;
                known.failure = None;
            }
            Err(error) => {
                if known.failure.is_none() && !known.addresses.is_empty() {
                    log::warn!("{name} has no address any more, its last ones are tried: {error}");
                }
                known.failure = Some((error.kind(), error.to_string()));
            }
        }
        self.answered.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const NAME: &str = "disk.example:7420";

    fn names() -> &'static Names {
        Box::leak(Box::new(Names::new()))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn address(number: u8) -> Vec<SocketAddr> {
        vec![([192, 0, 2, number], 7420).into()]
    }

    #[test]
    fn nobody_waits_for_a_name_server_that_does_not_answer() {
        let names = names();
        let (answers, answer) = mpsc::channel();
        let silent = move |_: &str| answer.recv().expect("it answers at last");
        let late = names.look_up(NAME, Instant::now(), silent);
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // Others are answered meanwhile, and nobody asks a second time.
        let other = names.look_up("b.example:1", soon(), |_| Ok(address(2)));
        assert_eq!(other.unwrap(), address(2));
        let again = names.look_up(NAME, Instant::now(), |_| unreachable!("it is asked"));
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::TimedOut);
        answers.send(Ok(address(1))).expect("it waits");
        let asks = |_: &str| Ok(address(1));
        assert_eq!(names.look_up(NAME, soon(), asks).unwrap(), address(1));
    }

    #[test]
    fn the_last_answer_is_had_where_there_is_no_newer_one() {
        let names = names();
        let gone = |_: &str| Err(io::Error::other("there is no such name"));
        let failed = names.look_up(NAME, soon(), gone).unwrap_err();
        assert_eq!(failed.to_string(), "there is no such name");
        for number in [1, 2] {
            let answer = names.look_up(NAME, soon(), move |_| Ok(address(number)));
            assert_eq!(answer.unwrap(), address(number));
        }
        assert_eq!(names.look_up(NAME, soon(), gone).unwrap(), address(2));
        let (_open, silent) = mpsc::channel::<()>();
        let waits = move |_: &str| {
            let _ = silent.recv();
            Ok(address(3))
        };
        let late = names.look_up(NAME, Instant::now(), waits);
        assert_eq!(late.unwrap(), address(2));
    }

    #[test]
    fn a_name_of_this_machines_is_looked_up() {
        let server = "localhost:7420".parse().unwrap();
        let found = addresses(&server, soon()).unwrap();
        assert!(found.iter().all(|it| it.ip().is_loopback()), "{found:?}");
        assert!(!found.is_empty());
    }
}
