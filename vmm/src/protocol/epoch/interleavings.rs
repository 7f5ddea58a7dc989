//! Every order in which two hosts can lose each other, end, fail, be killed and be answered, with
//! the disk server's own decision between them.

use std::collections::HashSet;

use disk_server::arbiter::{Answer, Claim, ClaimRequest, Claimant, Record, decide};

use super::{Core, Effect, Input, Task};
use crate::protocol::rights::STOPPED;

/// The epoch in which the pair runs.
const EPOCH: u64 = 1;
const PRIMARY: usize = 0;
const BACKUP: usize = 1;
const OPERATOR: &str = "hostc/3";

fn claimant(host: usize) -> Claimant {
    ["hosta/1", "hostb/2"][host].parse().expect("a claimant")
}

/// A claim that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flight {
    task: Task,
    /// Once the server has decided.
    answer: Option<Outcome>,
}

/// A [`Claim`] or a record, to be compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Outcome {
    won: bool,
    epoch: u64,
    holder: Option<Claimant>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Host {
    core: Core,
    flight: Option<Flight>,
    /// What the server had when the look that is under way was answered: epoch and holder.
    look: Option<(u64, Option<Claimant>)>,
    /// The process is there.
    alive: bool,
    /// It was told that the other one is lost.
    lost: bool,
    /// Its guest has ended, in order.
    guest_ended: bool,
    /// It was told to close.
    closing: bool,
    alone: bool,
    halted: bool,
    abandoned: bool,
}

/// How far the backup knows of the guest's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Shutdown {
    None,
    Logged,
    Received,
    /// The log ended in order.
    Goodbye,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    hosts: [Host; 2],
    epoch: u64,
    holder: Option<Claimant>,
    cut: bool,
    shutdown: Shutdown,
    killed: bool,
    unfit: bool,
    forced: bool,
}

/// What may happen besides the orderly.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    kill: bool,
    abandon: bool,
    unfit: bool,
    force: bool,
}

impl World {
    fn new() -> Self {
        let (a, b) = (claimant(PRIMARY), claimant(BACKUP));
        let mut primary = Core::holding(a.clone(), EPOCH);
        primary.take(Input::Paired);
        let host = |core| Host {
            core,
            flight: None,
            look: None,
            alive: true,
            lost: false,
            guest_ended: false,
            closing: false,
            alone: false,
            halted: false,
            abandoned: false,
        };
        Self {
            hosts: [host(primary), host(Core::following(b, EPOCH, a.clone()))],
            epoch: EPOCH,
            holder: Some(a),
            cut: false,
            shutdown: Shutdown::None,
            killed: false,
            unfit: false,
            forced: false,
        }
    }

    fn record(&self) -> Record {
        Record {
            epoch: self.epoch,
            holder: self.holder.clone(),
        }
    }

    /// Something happens on a host; what follows is checked against what the server has decided.
    fn happens(&mut self, host: usize, input: Input) {
        let record = self.record();
        let it = &mut self.hosts[host];
        match it.core.take(input) {
            Some(Effect::Alone(epoch)) => {
                it.alone = true;
                assert!(record.epoch >= epoch);
            }
            Some(Effect::Halt(reason)) => {
                it.halted = true;
                self.dies(host);
                assert!(!reason.is_empty());
                // Also long ago: an epoch never comes back.
                let mine = record.holder.as_ref() == Some(&claimant(host));
                assert!(record.epoch > EPOCH && !mine, "without a proof: {reason}");
            }
            Some(Effect::Unclear(reason)) => panic!("{reason}"),
            Some(Effect::PeerLost(_)) | None => {}
        }
        assert!(
            !self.hosts.iter().all(|host| host.alone),
            "both may run alone"
        );
    }

    fn claims(&mut self, expected: u64, claimant: Claimant) -> Outcome {
        let (answer, new) = decide(&self.record(), &ClaimRequest { expected, claimant });
        if let Some(new) = new {
            (self.epoch, self.holder) = (new.epoch, new.holder);
        }
        match answer {
            Answer::Won { epoch } => Outcome {
                won: true,
                epoch,
                holder: None,
            },
            Answer::Lost { epoch, holder } => Outcome {
                won: false,
                epoch,
                holder,
            },
        }
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut world = self.clone();
        change(&mut world);
        world
    }

    /// All worlds that may be next.
    fn successors(&self, faults: Faults) -> Vec<Self> {
        let mut next = Vec::new();
        for host in [PRIMARY, BACKUP] {
            let it = &self.hosts[host];
            if it.alive {
                self.disk_server(host, &mut next);
                self.process(host, faults, &mut next);
            } else if matches!(it.flight, Some(Flight { answer: None, .. })) {
                // What a process has sent outlives it.
                self.disk_server(host, &mut next);
            }
        }
        self.guest_of_the_pair(&mut next);
        if !self.cut && self.shutdown != Shutdown::Goodbye {
            next.push(self.with(|w| w.cut = true));
        }
        if faults.force && !self.forced {
            next.push(self.with(|w| {
                w.forced = true;
                w.claims(w.epoch, OPERATOR.parse().expect("a claimant"));
            }));
        }
        next
    }

    /// The questions of a host and their answers, each of which may be lost and is then asked again.
    fn disk_server(&self, host: usize, next: &mut Vec<Self>) {
        match &self.hosts[host].flight {
            None => {
                let mut asked = self.clone();
                match asked.hosts[host].core.task() {
                    // The process ends, and its connections.
                    Task::Nothing => next.push(self.with(|w| w.dies(host))),
                    Task::Watch { .. } => self.look(host, next),
                    task => {
                        let answer = None;
                        asked.hosts[host].flight = Some(Flight { task, answer });
                        asked.hosts[host].look = None;
                        next.push(asked);
                    }
                }
            }
            Some(Flight { task, answer: None }) => {
                let task = *task;
                next.push(self.with(|w| {
                    let outcome = match task {
                        Task::Contest(epoch) => w.claims(epoch, claimant(host)),
                        Task::Stop(epoch) => w.claims(epoch, STOPPED.parse().expect("valid")),
                        Task::Watch { .. } | Task::Nothing => unreachable!("no claim"),
                    };
                    let answer = Some(outcome);
                    w.hosts[host].flight = Some(Flight { task, answer });
                }));
            }
            Some(Flight {
                task,
                answer: Some(outcome),
            }) => {
                let (task, answer) = (*task, None);
                next.push(self.with(|w| w.hosts[host].flight = Some(Flight { task, answer })));
                let Outcome { won, epoch, holder } = outcome.clone();
                let claim = if won {
                    Claim::Won { epoch }
                } else {
                    Claim::Lost { epoch, holder }
                };
                let input = match task {
                    Task::Contest(_) => Input::Contested(claim),
                    _ => Input::Stopped(claim),
                };
                next.push(self.with(|w| {
                    w.hosts[host].flight = None;
                    w.happens(host, input);
                }));
            }
        }
    }

    /// The server answers a look, or a host hears the answer. Much may happen between the two.
    fn look(&self, host: usize, next: &mut Vec<Self>) {
        next.push(self.with(|w| match w.hosts[host].look.take() {
            None => w.hosts[host].look = Some((w.epoch, w.holder.clone())),
            Some((epoch, holder)) => w.happens(host, Input::Looked(Record { epoch, holder })),
        }));
    }

    /// What a process does and suffers. Inputs wait while a claim is under way.
    fn process(&self, host: usize, faults: Faults, next: &mut Vec<Self>) {
        let it = &self.hosts[host];
        if faults.kill && !self.killed {
            next.push(self.with(|w| {
                w.killed = true;
                w.dies(host);
            }));
        }
        if it.flight.is_some() {
            return;
        }
        let told = matches!(self.shutdown, Shutdown::Received | Shutdown::Goodbye);
        // The goodbye itself may be lost.
        let goodbye = host == BACKUP && self.shutdown == Shutdown::Goodbye;
        if (self.cut || goodbye) && !it.lost {
            next.push(self.with(|w| w.loses(host)));
        }
        if goodbye {
            next.push(self.with(|w| w.happens(host, Input::LogEnded)));
        }
        if it.closing {
            return;
        }
        if host == BACKUP && it.lost && !it.alone && !told {
            // It has replayed everything.
            next.push(self.with(|w| w.happens(host, Input::Ready)));
            if faults.unfit {
                next.push(self.with(|w| {
                    w.unfit = true;
                    w.happens(host, Input::Unfit);
                    w.close(host, Input::Abandon);
                }));
            }
        }
        if faults.abandon && !self.hosts.iter().any(|host| host.abandoned) {
            next.push(self.with(|w| {
                w.hosts[host].abandoned = true;
                w.close(host, Input::Abandon);
            }));
        }
        if it.alone {
            next.push(self.with(|w| w.close(host, Input::End)));
        }
    }

    fn dies(&mut self, host: usize) {
        self.hosts[host].alive = false;
        self.hosts[host].look = None;
        self.cut |= self.shutdown != Shutdown::Goodbye;
    }

    fn loses(&mut self, host: usize) {
        self.hosts[host].lost = true;
        self.happens(host, Input::PeerLost("cut".into()));
    }

    fn close(&mut self, host: usize, how: Input) {
        self.hosts[host].closing = true;
        self.happens(host, how);
    }

    /// The guest ends while its log has, or had, a reader.
    fn guest_of_the_pair(&self, next: &mut Vec<Self>) {
        let [primary, backup] = &self.hosts;
        let free = |host: &Host| host.alive && host.flight.is_none() && !host.closing;
        if free(primary) && !primary.guest_ended {
            next.push(self.with(|w| {
                w.hosts[PRIMARY].guest_ended = true;
                w.happens(PRIMARY, Input::GuestEnded);
                if !w.cut {
                    w.shutdown = Shutdown::Logged;
                }
            }));
        }
        if self.shutdown == Shutdown::Logged && !self.cut && backup.alive {
            next.push(self.with(|w| w.shutdown = Shutdown::Received));
        }
        if free(primary) && primary.guest_ended {
            if self.shutdown == Shutdown::Received && !self.cut && !primary.lost {
                next.push(self.with(|w| {
                    w.shutdown = Shutdown::Goodbye;
                    w.happens(PRIMARY, Input::LogEnded);
                    w.close(PRIMARY, Input::End);
                }));
            }
            if self.cut || primary.lost {
                next.push(self.with(|w| {
                    w.loses(PRIMARY);
                    w.close(PRIMARY, Input::End);
                }));
            }
        }
        let told = matches!(self.shutdown, Shutdown::Received | Shutdown::Goodbye);
        if free(backup) && told && !backup.alone {
            next.push(self.with(|w| w.close(BACKUP, Input::End)));
        }
    }

    /// Nobody is left who could do anything.
    fn is_over(&self) -> bool {
        !self.hosts.iter().any(|host| host.alive)
    }
}

/// Tries every order, and gives the worlds in which nobody is left. Until then something can happen.
fn explore(faults: Faults) -> Vec<World> {
    let mut seen = HashSet::from([World::new()]);
    let mut open: Vec<World> = seen.iter().cloned().collect();
    let mut over = Vec::new();
    while let Some(world) = open.pop() {
        if world.is_over() {
            over.push(world);
            continue;
        }
        let next = world.successors(faults);
        assert!(!next.is_empty(), "stuck: {world:?}");
        for next in next {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    assert!(!over.is_empty());
    over
}

fn is_stopped(world: &World) -> bool {
    world.holder.as_ref().map(Claimant::as_str) == Some(STOPPED)
}

#[test]
fn whoever_ends_last_leaves_no_holder_behind() {
    for world in explore(Faults::default()) {
        assert!(is_stopped(&world), "{world:?}");
        let [primary, backup] = &world.hosts;
        assert!(!(primary.halted && backup.halted), "{world:?}");
        // A host halts only because the other one won, or ended the guest.
        assert!(!primary.halted || backup.alone, "{world:?}");
        assert!(
            !backup.halted || primary.alone || primary.guest_ended,
            "{world:?}"
        );
    }
}

#[test]
fn a_host_that_fails_leaves_no_holder_behind_or_another_that_goes_on() {
    let faults = Faults {
        abandon: true,
        ..Faults::default()
    };
    for world in explore(faults) {
        assert!(is_stopped(&world), "{world:?}");
        let [primary, backup] = &world.hosts;
        // A host that gives up halts the other one only by a claim that it made before.
        assert!(
            !(backup.halted && primary.abandoned) || primary.lost,
            "{world:?}"
        );
        assert!(
            !(primary.halted && backup.abandoned) || backup.alone,
            "{world:?}"
        );
    }
}

#[test]
fn killed_and_unfit_hosts_never_make_two_run() {
    let faults = Faults {
        kill: true,
        unfit: true,
        ..Faults::default()
    };
    for world in explore(faults) {
        assert!(
            is_stopped(&world) || world.killed || world.unfit,
            "{world:?}"
        );
    }
}

/// Nothing that the pair does ends the life of the one that was forced.
#[test]
fn an_epoch_that_was_forced_stays() {
    let faults = Faults {
        force: true,
        ..Faults::default()
    };
    for world in explore(faults) {
        let holder = world.holder.as_ref().map(Claimant::as_str);
        let expected = if world.forced { OPERATOR } else { STOPPED };
        assert_eq!(holder, Some(expected), "{world:?}");
    }
}
