//! Tells the view service what a process does, as `roles::pinging` does.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use disk_server::arbiter::{Claimant, Record, VmName};
use disk_server::views::{
    Capabilities, Cause, PING_INTERVAL, Paging, Ping, Proposal, Role, Text, Wanted,
};
use ftvm_vmm::protocol::pings::Pings;

use crate::env::Env;
use crate::event::Timer;
use crate::message::{ProcessId, Question, process};

/// Where a primary takes backups.
const PORT: u16 = 7000;

/// A process's pings.
#[derive(Debug)]
pub(crate) struct Pinger {
    of: ProcessId,
    host: usize,
    pings: Pings,
    /// The last one, and its question, while that is not answered.
    asked: Option<(u64, Ping)>,
}

impl Pinger {
    pub(crate) fn new(me: Claimant, of: ProcessId, host: usize, env: &mut Env) -> Self {
        let first = env.jitter(PING_INTERVAL / 10);
        env.timer(of, first, Timer::Ping);
        Self {
            of,
            host,
            pings: Pings::new(me),
            asked: None,
        }
    }

    /// What an idle host says.
    pub(crate) fn idle(&self) -> Role {
        self.pings.idle(vm())
    }

    /// It is time for one, from a process that has something to say.
    pub(crate) fn ping(&mut self, role: Option<Role>, env: &mut Env) {
        env.timer(self.of, PING_INTERVAL, Timer::Ping);
        let Some(role) = role else { return };
        let ping = self.pings.next(carries(), role);
        let number = env.rng.u64(..);
        self.asked = Some((number, ping.clone()));
        let question = Question::Ping(Box::new(ping));
        env.ask(self.of, self.host, number, question);
    }

    /// An answer: what is to be tried now.
    pub(crate) fn hear(
        &mut self,
        number: u64,
        record: &Record,
        proposal: Option<Proposal>,
    ) -> Option<Proposal> {
        let (_, ping) = self.asked.take_if(|(asked, _)| *asked == number)?;
        self.pings.answered(&ping, record, proposal)
    }

    /// What was tried came to nothing.
    pub(crate) fn decline(&mut self, why: &str) {
        self.pings.decline(Cause::Other, why);
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
    let [.., host] = address.octets();
    (process(&proposal.primary), usize::from(host))
}
