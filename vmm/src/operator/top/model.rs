//! What is on the screen.

use std::collections::BTreeMap;

use disk_server::arbiter::VmName;
use disk_server::fleet::{Entry, HostVerb, OrderNumber, Reason, State, Verb, VmStatus};

use super::keys::{Action, Key};
use super::trend::Trend;
use crate::operator::hosts::HostSummary;

/// What the service said of everything at one time.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The guests, in the order of names.
    pub vms: Vec<VmStatus>,
    /// The hosts, in the order of names.
    pub hosts: Vec<HostSummary>,
    /// When, by this host's clock, in milliseconds since 1970.
    pub unix_ms: u64,
}

/// What is on the screen.
#[derive(Debug)]
pub struct Model {
    /// Where the service is.
    pub(super) server: String,
    pub(super) snapshot: Snapshot,
    pub(super) trends: BTreeMap<VmName, Trends>,
    /// Why there is nothing newer, if the service does not answer.
    pub(super) lost: Option<String>,
    pub(super) selected: Selected,
    /// The guest for which a host is sought.
    pub(super) moving: Option<VmName>,
    pub(super) shown: Shown,
    pub(super) message: Option<Message>,
}

/// How a guest went lately.
#[derive(Debug, Clone, Default)]
pub(super) struct Trends {
    pub(super) lag: Trend,
    pub(super) log: Trend,
}

/// The line that keys are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Selected {
    Guest(usize),
    Host(usize),
}

/// What is in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shown {
    /// Guests and hosts alone.
    Fleet,
    /// A question before this.
    Question(Action),
    /// What happened, the latest first, from this line on; `None` while it is asked for.
    History {
        title: String,
        entries: Option<Vec<Entry>>,
        from: usize,
    },
}

/// The last thing that a key came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) text: String,
    pub(super) bad: bool,
}

/// Whether an operator has a guest run without a backup.
pub(super) fn is_suspended(state: &State) -> bool {
    matches!(state, State::NotProtected(Reason::Suspended { .. }))
}

impl Model {
    /// A screen on which nothing is known yet, for the service at `server`.
    #[must_use]
    pub fn new(server: String) -> Self {
        Self {
            server,
            snapshot: Snapshot::default(),
            trends: BTreeMap::new(),
            lost: Some("connecting".into()),
            selected: Selected::Guest(0),
            moving: None,
            shown: Shown::Fleet,
            message: None,
        }
    }

    /// The service answered.
    pub fn see(&mut self, snapshot: Snapshot) {
        let (guest, host) = (self.guest().cloned(), self.host().cloned());
        self.trends
            .retain(|vm, _| snapshot.vms.iter().any(|status| status.vm == *vm));
        for status in &snapshot.vms {
            let trends = self.trends.entry(status.vm.clone()).or_default();
            trends.lag.push(status.lag_ms);
            trends.log.push(status.log_bytes_per_second);
        }
        self.snapshot = snapshot;
        self.lost = None;
        // The selection stays on what it was on, wherever that is now.
        let Snapshot { vms, hosts, .. } = &self.snapshot;
        let same = match self.selected {
            Selected::Guest(_) => (vms.iter())
                .position(|it| guest.as_ref().is_some_and(|guest| it.vm == guest.vm))
                .map(Selected::Guest),
            Selected::Host(_) => (hosts.iter())
                .position(|it| host.as_ref().is_some_and(|host| it.host == host.host))
                .map(Selected::Host),
        };
        self.selected = same.unwrap_or(self.selected);
        self.step(0);
    }

    /// The service did not answer, and why.
    pub fn lose(&mut self, why: String) {
        self.lost = Some(why);
    }

    /// What an order came to.
    pub fn told(&mut self, action: &Action, outcome: Result<OrderNumber, String>) {
        let words = action.words();
        self.message = Some(match outcome {
            Ok(order) => Message {
                text: format!("{words}: accepted as order {order}"),
                bad: false,
            },
            Err(why) => Message {
                text: format!("{words}: {why}"),
                bad: true,
            },
        });
    }

    /// What happened, if somebody still wants to know.
    pub fn remember(&mut self, history: Result<Vec<Entry>, String>) {
        let Shown::History { entries, .. } = &mut self.shown else {
            return;
        };
        match history {
            Ok(history) => *entries = Some(history),
            Err(why) => {
                self.shown = Shown::Fleet;
                self.complain(format!("history: {why}"));
            }
        }
    }

    /// Says what went wrong.
    pub fn complain(&mut self, text: String) {
        self.message = Some(Message { text, bad: true });
    }

    /// A key was hit: what is to be done outside of the screen.
    pub fn hit(&mut self, key: Key) -> Option<Action> {
        match &mut self.shown {
            Shown::Fleet => self.hit_fleet(key),
            Shown::Question(action) => {
                let action = action.clone();
                self.shown = Shown::Fleet;
                // Whatever else is hit is a no.
                matches!(key, Key::Letter('y') | Key::Enter).then_some(action)
            }
            Shown::History { entries, from, .. } => {
                let last = entries
                    .as_ref()
                    .map_or(0, |all| all.len().saturating_sub(1));
                match key {
                    Key::Up => *from = from.saturating_sub(1),
                    Key::Down => *from = (*from + 1).min(last),
                    _ => self.shown = Shown::Fleet,
                }
                None
            }
        }
    }

    fn hit_fleet(&mut self, key: Key) -> Option<Action> {
        self.message = None;
        let action = match key {
            Key::Up => return self.step(-1),
            Key::Down => return self.step(1),
            Key::Tab => {
                self.moving = None;
                self.selected = match self.selected {
                    Selected::Guest(_) => Selected::Host(0),
                    Selected::Host(_) => Selected::Guest(0),
                };
                return self.step(0);
            }
            Key::Letter(letter @ ('m' | 'M')) => match (self.guest(), self.host(), &self.moving) {
                (Some(status), ..) => {
                    self.moving = Some(status.vm.clone());
                    self.selected = Selected::Host(0);
                    return self.step(0);
                }
                (None, Some(host), Some(vm)) => {
                    let (vm, to) = (vm.clone(), host.host.clone());
                    self.moving = None;
                    Action::Guest(
                        vm,
                        match letter {
                            'm' => Verb::MigrateBackup { to },
                            _ => Verb::MigratePrimary { to },
                        },
                    )
                }
                _ => return self.hint("m moves a guest: Tab goes to the guests"),
            },
            Key::Letter('q') => return Some(Action::Quit),
            Key::Letter('h') => {
                let vm = self.guest().map(|status| status.vm.clone());
                self.shown = Shown::History {
                    title: vm.as_ref().map_or("all".into(), VmName::to_string),
                    entries: None,
                    from: 0,
                };
                return Some(Action::History(vm));
            }
            Key::Letter('d') => match self.host() {
                None => return self.hint("d empties a host: Tab goes to the hosts"),
                Some(host) if host.draining => Action::Host(host.host.clone(), HostVerb::Undrain),
                Some(host) => Action::Host(host.host.clone(), HostVerb::Drain),
            },
            Key::Letter(letter @ ('f' | 't' | 's' | 'b' | 'p' | 'c')) => {
                let Some(status) = self.guest() else {
                    return self.hint("that is for a guest: Tab goes to the guests");
                };
                let vm = status.vm.clone();
                match (letter, &status.state) {
                    ('f', _) => Action::Guest(vm, Verb::Failover {}),
                    ('t', _) => Action::Guest(vm, Verb::TestFailover {}),
                    ('s', state) if is_suspended(state) => {
                        Action::Guest(vm, Verb::ResumeProtection {})
                    }
                    ('s', _) => Action::Guest(vm, Verb::SuspendProtection {}),
                    ('b', _) => Action::Guest(vm, Verb::RestartBackup {}),
                    ('p', State::Stopped { .. }) => Action::Guest(vm, Verb::Start { force: false }),
                    ('p', _) => Action::Guest(vm, Verb::Stop {}),
                    _ => Action::Console(vm),
                }
            }
            Key::Enter | Key::Escape | Key::Letter(_) => return None,
        };
        match action.question() {
            Some(_) => {
                self.shown = Shown::Question(action);
                None
            }
            None => Some(action),
        }
    }

    fn hint(&mut self, text: &str) -> Option<Action> {
        self.message = Some(Message {
            text: text.into(),
            bad: false,
        });
        None
    }

    /// Moves the selection by so many lines: guests come first, then hosts.
    fn step(&mut self, by: isize) -> Option<Action> {
        let (guests, hosts) = (self.snapshot.vms.len(), self.snapshot.hosts.len());
        let line = match self.selected {
            Selected::Guest(at) => at.min(guests.saturating_sub(1)),
            Selected::Host(at) => guests + at.min(hosts.saturating_sub(1)),
        };
        let last = (guests + hosts).saturating_sub(1);
        let line = line.saturating_add_signed(by).min(last);
        self.selected = match line < guests || hosts == 0 {
            true => Selected::Guest(line),
            false => Selected::Host(line - guests),
        };
        None
    }

    /// The guest that keys are about.
    pub(super) fn guest(&self) -> Option<&VmStatus> {
        match self.selected {
            Selected::Guest(at) => self.snapshot.vms.get(at),
            Selected::Host(_) => None,
        }
    }

    /// The host that keys are about.
    pub(super) fn host(&self) -> Option<&HostSummary> {
        match self.selected {
            Selected::Guest(_) => None,
            Selected::Host(at) => self.snapshot.hosts.get(at),
        }
    }
}
