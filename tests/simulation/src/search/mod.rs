//! Every order of what can happen to a few hosts, the disk server and a client: an exhaustive search.
//!
//! It drives the same machines as the schedules do, without time. What a lease, a timeout or a resend does is
//! a choice here: an answer of the disk server comes, is lost, or is asked for once more; what was asked once
//! may come to it again at any later time; a log that is cut has got as far as it has; a thread does later
//! what it has decided before. So are the orders of all that hosts do, within [`Bounds`]. What depends on
//! how long something takes is for schedules: here a backup that takes its primary for lost does that when
//! that one's lease is over.

mod bounds;
mod host;
mod moves;
mod world;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

pub use self::bounds::Bounds;
use self::moves::Step;
use self::world::World;
use crate::defect::Defect;

/// What was searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Searched {
    /// States.
    pub states: usize,
    /// The most that happened, one thing after the other.
    pub depth: usize,
    /// The most failovers in one of them.
    pub failovers: u8,
    /// States in which nothing can happen any more.
    pub ends: usize,
}

/// A rule that was broken, and how it came to that.
#[derive(Debug, Clone)]
pub struct Broken {
    /// The rule.
    pub what: String,
    /// What happened before, in order.
    pub steps: Vec<String>,
    /// States until then.
    pub states: usize,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({} states)", self.what, self.states)?;
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
    // Where each state came from.
    let mut seen: HashMap<u64, (u64, Step)> = HashMap::from([(print(&first), (0, ("", 0)))]);
    let mut open = vec![first];
    let mut searched = Searched::default();
    while !open.is_empty() {
        let mut next = Vec::new();
        for world in &open {
            let from = print(world);
            let successors = world.successors();
            if successors.is_empty() {
                searched.ends += 1;
            }
            let stuck = successors
                .is_empty()
                .then(|| world.judge_the_end())
                .flatten();
            if let Some(what) = stuck {
                return Err(broken(what, &seen, from, None));
            }
            for (step, world) in successors {
                if let Some(what) = world.broken() {
                    return Err(broken(what.to_owned(), &seen, from, Some(step)));
                }
                if let Entry::Vacant(place) = seen.entry(print(&world)) {
                    place.insert((from, step));
                    searched.failovers = searched.failovers.max(world.failovers());
                    next.push(world);
                }
            }
        }
        searched.depth += usize::from(!next.is_empty());
        open = next;
    }
    searched.states = seen.len();
    Ok(searched)
}

fn print(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

fn broken(
    what: String,
    seen: &HashMap<u64, (u64, Step)>,
    mut at: u64,
    last: Option<Step>,
) -> Box<Broken> {
    let mut steps: Vec<Step> = last.into_iter().collect();
    while let Some((from, step)) = seen.get(&at)
        && *from != 0
    {
        steps.push(*step);
        at = *from;
    }
    let steps = steps.into_iter().rev();
    Box::new(Broken {
        what,
        steps: steps
            .map(|(what, host)| format!("host {host}: {what}"))
            .collect(),
        states: seen.len(),
    })
}
