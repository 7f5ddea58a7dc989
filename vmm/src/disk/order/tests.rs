//! The order, against a list that remembers everything.

use proptest::prelude::*;

use super::*;

/// Few blocks, so that requests overlap often.
const BLOCKS: u64 = 6;

#[derive(Debug, Clone)]
enum Do {
    /// A request; a change of the disk is committed `commit_in` LSNs from now.
    Submit(Effect),
    /// The server answers one of those that are out.
    Answer(usize),
    /// The backup acknowledges so many further entries.
    Commit(u64),
    /// It executes so many.
    Execute(u64),
    /// The guest takes one of the answers to reads, and it is logged.
    Log(usize),
    Disconnect,
    /// The backup is lost, and this host goes on alone.
    GoAlone,
    /// Another one comes, which reads the disk itself or not.
    Begin(bool),
}

fn effect() -> impl Strategy<Value = Effect> {
    let extent = (0..BLOCKS, 1..=3u64).prop_map(|(start, len)| Extent::new(start, len));
    prop_oneof![
        3 => extent.clone().prop_map(Effect::Reads),
        3 => extent.prop_map(Effect::Modifies),
        1 => Just(Effect::Flushes),
    ]
}

fn step() -> impl Strategy<Value = Do> {
    prop_oneof![
        8 => effect().prop_map(Do::Submit),
        6 => any::<usize>().prop_map(Do::Answer),
        2 => (0..4u64).prop_map(Do::Commit),
        2 => (0..4u64).prop_map(Do::Execute),
        3 => any::<usize>().prop_map(Do::Log),
        1 => Just(Do::Disconnect),
        1 => Just(Do::GoAlone),
        1 => any::<bool>().prop_map(Do::Begin),
    ]
}

/// One request, as the rules see it.
#[derive(Debug)]
struct Known {
    effect: Effect,
    commit: Option<Lsn>,
    out: bool,
    answered: bool,
    /// A read that the backup is to do as well, if it is logged as such.
    held: bool,
    /// A read's completion in the log.
    logged: Option<Lsn>,
}

#[derive(Debug)]
struct World {
    order: Order,
    /// There is no backup.
    alone: bool,
    backup_reads: bool,
    known: Vec<Known>,
    appended: u64,
    committed: u64,
    executed: u64,
}

impl World {
    fn new(backup_reads: bool) -> Self {
        let mut order = Order::default();
        order.together(backup_reads);
        Self {
            order,
            alone: false,
            backup_reads,
            known: Vec::new(),
            appended: 0,
            committed: 0,
            executed: 0,
        }
    }

    fn append(&mut self) -> Lsn {
        self.appended += 1;
        Lsn(self.appended)
    }

    /// Why request `n` must not go out now, by looking at all the others.
    fn obstacle(&self, n: usize) -> Option<String> {
        let this = &self.known[n];
        if !self.alone && this.commit.is_some_and(|lsn| lsn.0 > self.committed) {
            return Some("not committed".into());
        }
        self.known[..n].iter().enumerate().find_map(|(m, earlier)| {
            let conflict = match (earlier.effect, this.effect) {
                (Effect::Flushes, _) | (_, Effect::Flushes) => false,
                (Effect::Reads(_), Effect::Reads(_)) => false,
                (
                    Effect::Reads(a) | Effect::Modifies(a),
                    Effect::Reads(b) | Effect::Modifies(b),
                ) => a.start < b.end && b.start < a.end,
            };
            let executed = earlier.logged.is_some_and(|lsn| lsn.0 <= self.executed);
            let held = earlier.held && !executed;
            (conflict && (!earlier.answered || held)).then(|| format!("behind {m}"))
        })
    }

    /// Everything that may go out does, and nothing else.
    fn send(&mut self) -> Result<(), TestCaseError> {
        while let Some(Ticket(n)) = self.order.next(|_| true) {
            let n = n as usize;
            prop_assert!(!self.known[n].out && !self.known[n].answered);
            prop_assert_eq!(self.obstacle(n), None, "request {}", n);
            self.known[n].out = true;
        }
        for n in 0..self.known.len() {
            let this = &self.known[n];
            if !this.out && !this.answered {
                prop_assert!(self.obstacle(n).is_some(), "request {} is kept back", n);
            }
        }
        let due: Vec<u64> = self.order.due().map(|ticket| ticket.0).collect();
        let out = (0..self.known.len()).filter(|&n| self.known[n].out);
        prop_assert_eq!(due, out.map(|n| n as u64).collect::<Vec<_>>());
        Ok(())
    }

    fn pick(&self, seed: usize, of: impl Fn(&Known) -> bool) -> Option<usize> {
        let some: Vec<usize> = (0..self.known.len())
            .filter(|&n| of(&self.known[n]))
            .collect();
        (!some.is_empty()).then(|| some[seed % some.len()])
    }

    fn answer(&mut self, n: usize) {
        self.known[n].out = false;
        self.known[n].answered = true;
        let is_read = matches!(self.known[n].effect, Effect::Reads(_));
        self.known[n].held = is_read && self.backup_reads && !self.alone;
        self.order.answered(Ticket(n as u64));
    }

    /// What was read for the backup is not held any more.
    fn let_go(&mut self) {
        for known in &mut self.known {
            known.held = false;
        }
    }

    fn log(&mut self, n: usize) {
        let lsn = self.append();
        self.known[n].logged = Some(lsn);
        self.order.logged(Ticket(n as u64), lsn);
    }

    fn step(&mut self, step: Do) -> Result<(), TestCaseError> {
        let unlogged_read = |known: &Known| known.held && known.logged.is_none();
        match step {
            Do::Submit(effect) => {
                let commit = effect.modifies().then(|| self.append());
                let ticket = self.order.submit(effect, commit);
                prop_assert_eq!(ticket.0 as usize, self.known.len());
                self.known.push(Known {
                    effect,
                    commit,
                    out: false,
                    answered: false,
                    held: false,
                    logged: None,
                });
            }
            Do::Answer(seed) => {
                if let Some(n) = self.pick(seed, |known| known.out) {
                    self.answer(n);
                }
            }
            Do::Commit(more) => {
                self.committed = (self.committed + more).min(self.appended);
                self.order.committed(Lsn(self.committed));
            }
            Do::Execute(more) => {
                self.executed = (self.executed + more).min(self.committed);
                self.order.executed(Lsn(self.executed));
            }
            Do::Log(seed) => {
                if let Some(n) = self.pick(seed, unlogged_read) {
                    self.log(n);
                }
            }
            Do::Disconnect => {
                self.order.put_all_back();
                for known in &mut self.known {
                    known.out = false;
                }
            }
            Do::GoAlone => {
                self.order.alone();
                self.alone = true;
                self.let_go();
            }
            Do::Begin(backup_reads) => {
                self.order.together(backup_reads);
                (self.alone, self.backup_reads) = (false, backup_reads);
                self.let_go();
                // It has the state with all that was done before.
                (self.committed, self.executed) = (self.appended, self.appended);
                self.order.committed(Lsn(self.committed));
                self.order.executed(Lsn(self.executed));
            }
        }
        self.send()
    }

    /// The backup and the server do what is asked of them, until nothing is left.
    fn finish(&mut self) -> Result<(), TestCaseError> {
        while self.known.iter().any(|known| !known.answered) {
            let mut moved = false;
            while let Some(n) = self.pick(0, |known| known.out) {
                self.answer(n);
                if self.known[n].held {
                    self.log(n);
                }
                moved = true;
            }
            // Only as far as the order says that it needs: it must not forget to say so.
            if let Some(lsn) = self.order.wants_commit() {
                self.committed = self.committed.max(lsn.0);
                self.order.committed(lsn);
                moved = true;
            }
            if let Some(lsn) = self.order.wants_executed() {
                prop_assert!(self.backup_reads);
                self.executed = self.executed.max(lsn.0);
                self.order.executed(lsn);
                moved = true;
            }
            self.send()?;
            moved |= self.known.iter().any(|known| known.out);
            prop_assert!(moved, "stuck: {:?}", self);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn exactly_what_may_go_out_does_and_all_of_it_in_the_end(
        backup_reads: bool,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(backup_reads);
        for step in steps {
            world.step(step)?;
        }
        let unlogged: Vec<usize> = (0..world.known.len())
            .filter(|&n| world.known[n].held && world.known[n].logged.is_none())
            .collect();
        for n in unlogged {
            world.log(n);
        }
        world.finish()?;
    }

    #[test]
    fn without_a_backup_only_what_overlaps_waits(
        backup_reads: bool,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(backup_reads);
        for step in steps {
            world.step(step)?;
        }
        world.step(Do::GoAlone)?;
        prop_assert_eq!(world.order.wants_commit(), None);
        prop_assert_eq!(world.order.wants_executed(), None);
        world.finish()?;
    }
}

fn write(start: u64, len: u64) -> Effect {
    Effect::Modifies(Extent::new(start, len))
}

fn read(start: u64, len: u64) -> Effect {
    Effect::Reads(Extent::new(start, len))
}

#[test]
fn a_read_waits_for_no_commit_but_for_that_of_a_write_before_it() {
    let mut order = Order::default();
    let first = order.submit(write(0, 8), Some(Lsn(1)));
    let behind = order.submit(read(4, 8), None);
    let elsewhere = order.submit(read(8, 8), None);
    assert_eq!(order.next(|_| true), Some(elsewhere));
    assert_eq!(order.next(|_| true), None);
    order.committed(Lsn(1));
    assert_eq!(order.next(|_| true), Some(first));
    assert_eq!(order.next(|_| true), None);
    order.answered(first);
    assert_eq!(order.next(|_| true), Some(behind));
}

#[test]
fn a_read_that_the_backup_need_not_do_holds_nothing_up() {
    let mut order = Order::default();
    order.together(true);
    let first = order.submit(read(0, 8), None);
    let second = order.submit(write(0, 8), None);
    assert_eq!(order.next(|_| true), Some(first));
    order.answered(first);
    assert!(order.holds(first));
    assert_eq!(order.next(|_| true), None);
    order.let_go_of(first);
    assert_eq!(order.next(|_| true), Some(second));
}

#[test]
fn requests_without_room_let_others_pass() {
    let mut order = Order::default();
    order.submit(write(0, 8), None);
    let other = order.submit(read(8, 8), None);
    assert_eq!(order.next(|effect| !effect.modifies()), Some(other));
    assert_eq!(order.next(|effect| !effect.modifies()), None);
}

#[test]
fn extents_that_touch_do_not_overlap() {
    assert!(!Extent::new(0, 4).overlaps(Extent::new(4, 4)));
    assert!(Extent::new(0, 5).overlaps(Extent::new(4, 4)));
    assert!(Extent::new(u64::MAX - 1, 10).overlaps(Extent::new(u64::MAX - 1, 1)));
}
