//! How a process comes to a session with a primary.

use disk_server::views::Proposal;
use logging_channel::handshake::Title;

use super::handshake::{HANDSHAKE, Handshake};
use super::{Process, Role};
use crate::env::Env;
use crate::event::Timer;
use crate::keeper::PATIENCE;
use crate::message::{Item, Question};
use crate::pinger;

impl Process {
    /// The view service proposes a primary to an idle host.
    pub(super) fn try_out(&mut self, proposal: &Proposal, env: &mut Env) {
        let (primary, of) = pinger::primary(proposal);
        let (id, view) = (self.id, proposal.view);
        env.note(|| format!("{id}: joins process {primary}, as was proposed in view {view}"));
        let line = env.connect([id, primary], [self.host, of]);
        self.role = Role::Joining { proposed: true };
        self.hello(line, env);
    }

    pub(super) fn hello(&mut self, line: usize, env: &mut Env) {
        env.send(line, 1, Item::Hello);
        env.timer(self.id, HANDSHAKE, Timer::Handshake(line));
        let title = Title {
            epoch: 0,
            holder: String::new(),
        };
        self.handshake = Some(Handshake {
            line,
            session: 0,
            title,
            question: None,
            backup: None,
        });
    }

    /// No session came about. One that tried what was proposed says so, and waits on.
    pub(super) fn not_taken(&mut self, why: &str, env: &mut Env) {
        match self.role {
            Role::Joining { proposed: true } => {
                let id = self.id;
                env.note(|| format!("{id}: declines: {why}"));
                self.pinger.decline(why);
                self.role = Role::Idle;
            }
            Role::Joining { proposed: false } => self.exit(why, env),
            _ => {}
        }
    }

    /// The other side has said what the disk server is asked of now.
    pub(super) fn confirm(&mut self, env: &mut Env) {
        if let Some(handshake) = &mut self.handshake {
            let number = env.rng.u64(..);
            handshake.question = Some(number);
            env.ask(self.id, self.host, number, Question::Read);
            env.timer(self.id, PATIENCE, Timer::Unanswered(number));
        }
    }
}
