//! Every order in which a host can take a backup, and the two lose each other, end, fail, be killed and be
//! answered, with the disk server's own decisions between them.

use std::collections::HashSet;

use disk_server::arbiter::{
    Answer, Claim, ClaimRequest, Claimant, Next, Record, acknowledge, decide,
};

use super::{Core, Effect, Input, Task};

/// The epoch in which the primary starts.
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
enum Outcome {
    Won(u64),
    Lost(u64, Option<Claimant>),
    Noted(Record),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Host {
    core: Core,
    flight: Option<Flight>,
    /// What the server had when the look that is under way was answered.
    look: Option<Record>,
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

/// How far the backup is with its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Session {
    None,
    /// The primary has it admitted.
    Wanted,
    Joins,
    /// It has the state, and the primary knows.
    TakenOver,
    /// So does the disk server.
    Acknowledged,
    /// The primary lets nothing out without it.
    Paired,
    /// And it knows.
    Protects,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    hosts: [Host; 2],
    record: Record,
    session: Session,
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

impl Host {
    fn new(core: Core, alive: bool) -> Self {
        Self {
            core,
            flight: None,
            look: None,
            alive,
            lost: false,
            guest_ended: false,
            closing: false,
            alone: false,
            halted: false,
            abandoned: false,
        }
    }
}

impl World {
    fn new() -> Self {
        let (a, b) = (claimant(PRIMARY), claimant(BACKUP));
        let primary = Host::new(Core::holding(a.clone(), EPOCH), true);
        // It is not there before its session has begun.
        let backup = Host::new(Core::following(b, EPOCH, a.clone()), false);
        Self {
            hosts: [primary, backup],
            record: Record::held(EPOCH, a),
            session: Session::None,
            cut: false,
            shutdown: Shutdown::None,
            killed: false,
            unfit: false,
            forced: false,
        }
    }

    /// Something happens on a host; what follows is checked against what the server has decided.
    fn happens(&mut self, host: usize, input: Input) {
        let record = self.record.clone();
        let it = &mut self.hosts[host];
        match it.core.take(input) {
            Some(Effect::Alone(epoch)) => {
                it.alone = true;
                assert!(record.epoch >= epoch);
                assert!(host == PRIMARY || self.session == Session::Protects);
            }
            Some(Effect::Admitted(epoch, backup)) => {
                assert_eq!((host, &backup), (PRIMARY, &claimant(BACKUP)));
                assert!(record.epoch >= epoch);
                if !self.cut {
                    let core = Core::following(backup, epoch, claimant(PRIMARY));
                    self.hosts[BACKUP] = Host::new(core, true);
                    self.session = Session::Joins;
                }
            }
            Some(Effect::Acknowledged(_)) => self.session = Session::Acknowledged,
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

    fn claims(&mut self, expected: u64, claimant: Claimant, next: Next) -> Outcome {
        let request = ClaimRequest {
            expected,
            claimant,
            next,
        };
        let (answer, new) = decide(&self.record, &request);
        if let Some(new) = new {
            self.record = new;
        }
        match answer {
            Answer::Won { epoch } => Outcome::Won(epoch),
            Answer::Lost { epoch, holder } => Outcome::Lost(epoch, holder),
        }
    }

    /// What the server makes of a task of a host.
    fn answers(&mut self, host: usize, task: &Task) -> Outcome {
        let me = claimant(host);
        match task {
            Task::Claim { epoch, next } => self.claims(*epoch, me, next.clone()),
            Task::Acknowledge(epoch) => {
                if let Some(new) = acknowledge(&self.record, *epoch, &me) {
                    self.record = new;
                }
                Outcome::Noted(self.record.clone())
            }
            Task::Watch { .. } | Task::Nothing => unreachable!("nothing to answer"),
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
        self.session(&mut next);
        if self.session == Session::Paired && !self.cut && self.hosts[BACKUP].alive {
            next.push(self.with(|w| w.session = Session::Protects));
        }
        if !self.cut && self.shutdown != Shutdown::Goodbye {
            next.push(self.with(|w| w.cut = true));
        }
        if faults.force && !self.forced {
            next.push(self.with(|w| {
                w.forced = true;
                let operator = OPERATOR.parse().expect("a claimant");
                w.claims(w.record.epoch, operator, Next::Start);
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
                next.push(self.with(|w| {
                    let answer = Some(w.answers(host, task));
                    let task = task.clone();
                    w.hosts[host].flight = Some(Flight { task, answer });
                }));
            }
            Some(Flight {
                task,
                answer: Some(outcome),
            }) => {
                let again = Flight {
                    task: task.clone(),
                    answer: None,
                };
                next.push(self.with(|w| w.hosts[host].flight = Some(again)));
                let input = match outcome.clone() {
                    Outcome::Won(epoch) => Input::Claimed(Claim::Won { epoch }),
                    Outcome::Lost(epoch, holder) => Input::Claimed(Claim::Lost { epoch, holder }),
                    Outcome::Noted(record) => Input::Acknowledged(record),
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
            None => w.hosts[host].look = Some(w.record.clone()),
            Some(record) => w.happens(host, Input::Looked(record)),
        }));
    }

    /// A backup joins.
    fn session(&self, next: &mut Vec<Self>) {
        let [primary, backup] = &self.hosts;
        let free = primary.alive && primary.flight.is_none() && !primary.closing;
        if !free || self.cut || primary.guest_ended {
            return;
        }
        match self.session {
            Session::None => next.push(self.with(|w| {
                w.session = Session::Wanted;
                w.happens(PRIMARY, Input::Joins(claimant(BACKUP)));
            })),
            Session::Joins if backup.alive => next.push(self.with(|w| {
                w.session = Session::TakenOver;
                w.happens(PRIMARY, Input::TakenOver);
            })),
            Session::Acknowledged => next.push(self.with(|w| {
                w.session = Session::Paired;
                w.happens(PRIMARY, Input::Paired);
            })),
            _ => {}
        }
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
            if self.session >= self.protected_for(host) {
                next.push(self.with(|w| w.loses(host)));
            } else if host == BACKUP {
                next.push(self.with(|w| w.dies(BACKUP)));
            }
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

    /// From where on a loss may mean a failover to a host.
    fn protected_for(&self, host: usize) -> Session {
        [Session::Paired, Session::Protects][host]
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
        let paired = self.session >= Session::Paired;
        if free(primary) && !primary.guest_ended && !primary.alone {
            next.push(self.with(|w| {
                w.hosts[PRIMARY].guest_ended = true;
                w.happens(PRIMARY, Input::GuestEnded);
                if !paired {
                    w.close(PRIMARY, Input::End);
                } else if !w.cut {
                    w.shutdown = Shutdown::Logged;
                }
            }));
        }
        let protects = self.session == Session::Protects;
        if self.shutdown == Shutdown::Logged && !self.cut && backup.alive && protects {
            next.push(self.with(|w| w.shutdown = Shutdown::Received));
        }
        if free(primary) && primary.guest_ended && paired {
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
    world.record.is_stopped()
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
        let [primary, backup] = &world.hosts;
        // It has left the guest to a backup that does not know it.
        let nobody = primary.abandoned && world.session == Session::Paired;
        assert!(is_stopped(&world) || nobody, "{world:?}");
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
        let holder = world.record.holder.as_ref().map(Claimant::as_str);
        let operator = holder == Some(OPERATOR);
        assert!(
            if world.forced {
                operator
            } else {
                is_stopped(&world)
            },
            "{world:?}"
        );
    }
}
