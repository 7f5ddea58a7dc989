//! What a process says to the view service once in a while, and what it hears of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use disk_server::arbiter::{Claimant, VmName};
use disk_server::views::{Capabilities, PING_INTERVAL, Paging, Ping, Proposal, Role, Text, Wanted};

use crate::env::Env;
use crate::event::Timer;
use crate::message::{ProcessId, Question};

/// Where a primary takes backups.
const PORT: u16 = 7000;

/// A process's pings.
#[derive(Debug)]
pub(crate) struct Pinger {
    me: Claimant,
    of: ProcessId,
    host: usize,
    /// Of the last ping.
    number: u64,
    /// The one that is not answered yet.
    asked: Option<u64>,
}

impl Pinger {
    pub(crate) fn new(me: Claimant, of: ProcessId, host: usize, env: &mut Env) -> Self {
        let first = env.jitter(PING_INTERVAL / 10);
        env.timer(of, first, Timer::Ping);
        Self {
            me,
            of,
            host,
            number: 0,
            asked: None,
        }
    }

    /// It is time for one, from a process that has something to say.
    pub(crate) fn ping(&mut self, role: Option<Role>, env: &mut Env) {
        env.timer(self.of, PING_INTERVAL, Timer::Ping);
        let Some(role) = role else { return };
        self.number += 1;
        let ping = Ping {
            host: self.me.clone(),
            number: self.number,
            carries: carries(),
            role,
        };
        let asked = env.rng.u64(..);
        self.asked = Some(asked);
        env.ask(self.of, self.host, asked, Question::Ping(Box::new(ping)));
    }

    /// Whether the last ping is answered by this.
    pub(crate) fn is_answered(&mut self, number: u64) -> bool {
        self.asked.take_if(|asked| *asked == number).is_some()
    }
}

/// The guest.
pub(crate) fn vm() -> VmName {
    "guest".parse().expect("a name")
}

/// What a primary wants of a backup.
pub(crate) fn wanted(host: usize) -> Wanted {
    Wanted {
        address: SocketAddr::new(address(host), PORT),
        needs: carries(),
    }
}

/// A host's address.
pub(crate) fn address(host: usize) -> IpAddr {
    let host = u8::try_from(host).expect("few hosts");
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, host))
}

/// What every host can carry, and the guest needs.
fn carries() -> Capabilities {
    Capabilities {
        memory_mib: 1024,
        processor: Text::cut("a processor"),
        instructions: 0,
        paging: Paging::Shadow,
        exports: Default::default(),
    }
}

/// The process that is proposed as the primary, and its host.
pub(crate) fn primary(proposal: &Proposal) -> (ProcessId, usize) {
    let IpAddr::V4(address) = proposal.address.ip() else {
        panic!("{proposal:?} is of no host");
    };
    let (_, process) = (proposal.primary.as_str().rsplit_once('/')).expect("a claimant");
    let [.., host] = address.octets();
    (process.parse().expect("a process"), usize::from(host))
}
