//! Whatever hosts do, and whenever: a guest is not started anew beside one that may run it.

use proptest::prelude::*;

use super::hosts::Process;
use super::world::*;
use crate::arbiter::{Claimant, HostName};
use crate::fleet::{HostVerb, Operation, Order, Reason, State, Verb};

/// What happens to hosts, the service, and what operators do.
#[derive(Debug, Clone)]
enum Happens {
    Nothing,
    PowerGoes(usize),
    PowerComes(usize),
    DaemonEnds(usize),
    DaemonStarts(usize),
    CutOff(usize, bool),
    ProcessCutOff(usize, bool),
    Freezes(usize, bool),
    Dies(usize),
    LoggingDown(usize, bool),
    ServiceRestarts,
    PowersOff,
    Asks(Verb),
    Drains(usize, bool),
    DrainsItself(usize, bool),
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn happens() -> impl Strategy<Value = Happens> {
    let which = || 0..NAMES.len();
    let to = || which().prop_map(|n| host(NAMES[n]));
    let verb = prop_oneof![
        3 => Just(Verb::Start { force: false }),
        1 => Just(Verb::Stop {}),
        2 => Just(Verb::Failover {}),
        2 => Just(Verb::TestFailover {}),
        1 => Just(Verb::RestartBackup {}),
        1 => to().prop_map(|to| Verb::MigrateBackup { to }),
        1 => to().prop_map(|to| Verb::MigratePrimary { to }),
        1 => Just(Verb::SuspendProtection {}),
        1 => Just(Verb::ResumeProtection {}),
    ];
    prop_oneof![
        6 => Just(Happens::Nothing),
        2 => which().prop_map(Happens::PowerGoes),
        3 => which().prop_map(Happens::PowerComes),
        2 => which().prop_map(Happens::DaemonEnds),
        3 => which().prop_map(Happens::DaemonStarts),
        3 => (which(), any::<bool>()).prop_map(|(n, is)| Happens::CutOff(n, is)),
        2 => (which(), any::<bool>()).prop_map(|(n, is)| Happens::ProcessCutOff(n, is)),
        3 => (which(), any::<bool>()).prop_map(|(n, is)| Happens::Freezes(n, is)),
        2 => which().prop_map(Happens::Dies),
        1 => (which(), any::<bool>()).prop_map(|(n, is)| Happens::LoggingDown(n, is)),
        2 => Just(Happens::ServiceRestarts),
        1 => Just(Happens::PowersOff),
        4 => verb.prop_map(Happens::Asks),
        1 => (which(), any::<bool>()).prop_map(|(n, is)| Happens::Drains(n, is)),
        1 => (which(), any::<bool>()).prop_map(|(n, is)| Happens::DrainsItself(n, is)),
    ]
}

fn happen(world: &mut World, what: Happens) {
    let processes = |world: &mut World, n: usize, change: &dyn Fn(&mut Process)| {
        world.at(NAMES[n]).processes.values_mut().for_each(change);
    };
    match what {
        Happens::Nothing => {}
        Happens::PowerGoes(n) => world.crash(NAMES[n]),
        Happens::PowerComes(n) | Happens::DaemonStarts(n) => {
            if world.at(NAMES[n]).daemon.is_none() {
                world.start_daemon(NAMES[n]);
            }
        }
        Happens::DaemonEnds(n) => world.at(NAMES[n]).daemon = None,
        Happens::CutOff(n, is) => world.at(NAMES[n]).is_cut_off = is,
        Happens::ProcessCutOff(n, is) => processes(world, n, &|it| it.is_cut_off = is),
        Happens::Freezes(n, is) => processes(world, n, &|it| it.is_frozen = is),
        Happens::Dies(n) => world.end(&host(NAMES[n]), &vm(), None, "killed"),
        Happens::LoggingDown(n, is) => world.at(NAMES[n]).logging_is_down = is,
        Happens::ServiceRestarts => world.restart_service(),
        Happens::PowersOff => {
            let holder = world.record().holder;
            if holder.is_some_and(|it| runs(world, &it)) {
                world.powers_off(0, "it powered off");
            }
        }
        Happens::Asks(verb) => drop(world.verb(verb)),
        Happens::Drains(n, is) => drop(world.host_verb(NAMES[n], drain(is))),
        Happens::DrainsItself(n, is) => {
            let (host, verb) = (host(NAMES[n]), drain(is));
            drop(world.ask(Operation::OwnHost { host, verb }));
        }
    }
}

fn drain(is: bool) -> HostVerb {
    match is {
        true => HostVerb::Drain,
        false => HostVerb::Undrain,
    }
}

/// Whether this process is there, frozen or not.
fn runs(world: &World, who: &Claimant) -> bool {
    let host = world.hosts.get(&who.host());
    let process = host.and_then(|host| host.processes.get(&vm()));
    process.is_some_and(|it| it.claimant == *who)
}

/// Who could go on with the guest, of those who are there.
fn members(world: &World) -> Vec<Claimant> {
    let record = world.record();
    let backup = record.backup.filter(|_| record.acknowledged);
    let members = record.holder.into_iter().chain(backup);
    members
        .filter(|it| !it.is_stopped() && runs(world, it))
        .collect()
}

/// Everything that was lost comes back. What operators want stays.
fn all_is_well(world: &mut World) {
    for name in NAMES {
        if world.at(name).daemon.is_none() {
            world.start_daemon(name);
        }
        let host = world.at(name);
        host.is_cut_off = false;
        host.logging_is_down = false;
        for process in host.processes.values_mut() {
            process.is_frozen = false;
            process.is_cut_off = false;
        }
        world.own_verb(name, HostVerb::Undrain);
    }
}

/// Whether operators want a host empty, and it has been.
fn has_been_emptied(world: &World, host: &HostName) -> bool {
    let drained = world.fleet.intents().drained.get(host);
    drained.is_some_and(|drained| drained.done)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_started_beside_one_that_may_run(
        steps in prop::collection::vec((happens(), 0..9_u32), 1..60),
    ) {
        let mut world = World::protected(&NAMES);
        for (what, seconds) in steps {
            happen(&mut world, what);
            for _ in 0..seconds {
                world.tick();
                for name in NAMES {
                    // Before it acts: whoever is there now must not be started beside.
                    let there = members(&world);
                    let epoch = world.record().epoch;
                    let starts = world.starts.len();
                    world.daemon_pings(&host(name));
                    if world.starts.len() > starts {
                        let (_, from, _) = world.starts.last().unwrap();
                        prop_assert!(
                            there.is_empty() || *from != epoch,
                            "{there:?} may run it, and it is started from {from}"
                        );
                    }
                    let vm = vm();
                    if world.hosts[&host(name)].processes.contains_key(&vm) {
                        world.process_acts(&host(name), &vm);
                        world.process_pings(&host(name), &vm);
                    }
                }
            }
        }
        // Everything comes back, and so does the guest, if that is wanted.
        all_is_well(&mut world);
        for name in NAMES {
            let _ = world.host_verb(name, HostVerb::Undrain);
        }
        world.pass(60);
        world.verb(Verb::ResumeProtection {}).unwrap();
        // One that was lost before its daemon had told of it stays unknown.
        world.verb(Verb::Start { force: true }).unwrap();
        world.until(|world| world.state() == State::Protected);
        // And then nothing moves any more.
        world.pass(40);
        world.orders.clear();
        world.pass(20);
        let moved: Vec<&(Claimant, Order)> = world.orders.iter().collect();
        prop_assert!(moved.is_empty(), "{moved:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// What is drained stays so, and all else is well: a guest without a backup has none only because every other
    /// host has been emptied.
    #[test]
    fn a_drain_keeps_no_guest_without_a_backup_that_some_host_had(
        steps in prop::collection::vec((happens(), 0..9_u32), 1..60),
    ) {
        let mut world = World::protected(&NAMES);
        for (what, seconds) in steps {
            happen(&mut world, what);
            world.pass(seconds);
        }
        all_is_well(&mut world);
        world.pass(130);
        let mut was_protected = false;
        for _ in 0..60 {
            world.second();
            was_protected |= world.state() == State::Protected;
        }
        let is_without = matches!(
            world.state(),
            State::NotProtected(ref reason) if !matches!(reason, Reason::Suspended { .. })
        );
        if is_without && !was_protected {
            let primary = world.places().0.expect("it runs");
            for other in NAMES.map(host).iter().filter(|other| **other != primary) {
                prop_assert!(
                    has_been_emptied(&world, other),
                    "{other} could have its backup: {}",
                    world.state()
                );
            }
        }
    }
}
