//! Every order of what can happen to a few hosts, the disk server and a client: an exhaustive search.
//!
//! It drives the same machines as the schedules do, without time. What a lease, a timeout or a resend does is
//! a choice here: an answer of the disk server comes, is lost, or is asked for once more; what was asked once
//! may come to it again at any later time; a log that is cut has got as far as it has; a thread does later
//! what it has decided before. So are the orders of all that hosts do, within [`Bounds`]. What depends on
//! how long something takes is for schedules: here a backup that takes its primary for lost does that when
//! that one's lease is over.
//!
//! Each state is judged by what led to it, against the five rules ([`Rule`]). And from each the system must
//! be able to settle without another fault: so nothing waits for ever, and nothing goes round in circles.

mod bounds;
mod disk;
mod graph;
mod guest;
mod hand_over;
mod membership;
mod moves;
mod outlook;
mod pinger;
mod process;
mod questions;
mod server;
mod service;
mod session;
mod variants;
mod world;
mod writes;

use std::fmt;

pub use self::bounds::Bounds;
use self::graph::{Graph, Node};
use self::moves::Step;
pub use self::variants::{VARIANTS, Variant};
use self::world::World;
use crate::defect::Defect;
use crate::rule::Rule;

/// What was searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Searched {
    /// States.
    pub states: usize,
    /// The most that happened, one thing after the other, in the shortest way to a state.
    pub depth: usize,
    /// The most failovers on a way.
    pub failovers: u8,
}

/// A rule that was broken, and how it came to that.
#[derive(Debug, Clone)]
pub struct Broken {
    /// The rule.
    pub rule: Rule,
    /// What broke it.
    pub what: &'static str,
    /// What happened before, in order.
    pub steps: Vec<String>,
    /// States until then.
    pub states: usize,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, what, .. } = self;
        writeln!(f, "{rule}: {what} ({} states)", self.states)?;
        for step in &self.steps {
            writeln!(f, "    {step}")?;
        }
        Ok(())
    }
}

/// Looks at everything that can happen, the shortest first.
///
/// # Errors
/// A rule is broken.
pub fn search(bounds: Bounds, defect: Option<Defect>) -> Result<Searched, Box<Broken>> {
    let first = World::new(bounds, defect);
    let mut graph = Graph::default();
    let (number, _) = graph.find(&first, 0, 0);
    let mut open = vec![(number, first.clone())];
    let mut searched = Searched::default();
    while !open.is_empty() {
        let mut next = Vec::new();
        for (from, world) in open {
            let mut leads = Vec::new();
            for (nth, (step, world)) in world.successors().into_iter().enumerate() {
                if let Some((rule, what)) = world.broken {
                    let (mut steps, _) = graph.way(first, from);
                    steps.push(step);
                    return Err(broken(rule, what, &steps, graph.len()));
                }
                let (number, is_new) = graph.find(&world, from, nth);
                if !step.fault {
                    leads.push(number);
                }
                if is_new {
                    searched.failovers = searched.failovers.max(world.happened.failovers);
                    next.push((number, world));
                }
            }
            graph.leads(leads.into_iter());
        }
        searched.depth += usize::from(!next.is_empty());
        open = next;
    }
    if let Some(stuck) = graph.stuck() {
        return Err(gets_nowhere(&graph, first, stuck));
    }
    searched.states = graph.len();
    Ok(searched)
}

fn gets_nowhere(graph: &Graph, first: World, stuck: Node) -> Box<Broken> {
    let (steps, world) = graph.way(first, stuck);
    broken(Rule::Progress, world.judge_the_end(), &steps, graph.len())
}

fn broken(rule: Rule, what: &'static str, steps: &[Step], states: usize) -> Box<Broken> {
    let tell = |step: &Step| match step.run {
        Some(run) => format!("run {run} {}", step.what),
        None => step.what.to_owned(),
    };
    Box::new(Broken {
        rule,
        what,
        steps: steps.iter().map(tell).collect(),
        states,
    })
}
