//! One case, from its calm before to its calm after.

use std::time::Duration;

use super::case::Case;
use crate::defect::Defect;
use crate::place::Place;
use crate::world::World;
use crate::world::chosen::Standing;

/// How often is looked.
const TICK: Duration = Duration::from_millis(2);
/// How long all is well before.
const CALM: Duration = Duration::from_secs(8);
/// The guest has let something out this lately if it goes on.
const LATELY: Duration = Duration::from_secs(2);
/// When all is healed the guest is protected again by then.
const BOUND: Duration = Duration::from_secs(60);

/// What was seen of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// How the guest stood before it was healed.
    pub(super) meanwhile: Option<Standing>,
    /// Where replies left meanwhile, in this order.
    pub(super) answered: Vec<Place>,
    /// The longest time without a reply.
    pub(super) silence: Duration,
    /// The client had none any more before it was healed.
    pub(super) cut_off: bool,
    /// How long it took until the guest was protected again, if it was not meanwhile.
    pub(super) unprotected: Duration,
    /// How it stood in the end; nothing where it is gone.
    pub(super) finally: Option<Standing>,
    /// How long after the healing it was protected again.
    pub(super) again: Duration,
}

struct Watch {
    world: World,
    seen: Seen,
    acknowledged: u64,
    last_reply: Duration,
    outputs: u64,
    last_output: Duration,
    /// When something went wrong the last time, and when the guest was seen without protection since.
    struck: Duration,
    unprotected_at: Option<Duration>,
    gone: bool,
}

/// Runs a case with delays of a seed.
pub(super) fn measure(case: &Case, seed: u64, defect: Option<Defect>) -> Result<Seen, String> {
    let mut world = World::calm(seed, defect);
    world.run_until(CALM);
    let start = Standing {
        on: Place::Primary,
        backup: Some(Place::Backup),
    };
    if world.standing() != Some(start) {
        return Err(format!("before it: {:?}", world.standing()));
    }
    let mut watch = Watch::new(world);
    watch.go_through(case)?;
    if let Some(next) = case.next {
        let case = Case::crashes(&[watch.who(next)?]);
        watch.go_through(&case)?;
    }
    Ok(watch.seen)
}

impl Watch {
    fn new(world: World) -> Self {
        let now = world.env.now;
        Self {
            acknowledged: world.acknowledged()[0],
            last_reply: now,
            outputs: world.outputs().0,
            last_output: now,
            struck: now,
            unprotected_at: None,
            gone: false,
            seen: Seen {
                meanwhile: None,
                answered: Vec::new(),
                silence: Duration::ZERO,
                cut_off: false,
                unprotected: Duration::ZERO,
                finally: None,
                again: Duration::ZERO,
            },
            world,
        }
    }

    /// What a place is now.
    fn who(&self, place: Place) -> Result<Place, String> {
        let standing = self.world.standing();
        let Some(Standing {
            on,
            backup: Some(backup),
        }) = standing
        else {
            return Err(format!("before the next one: {standing:?}"));
        };
        Ok(match place {
            Place::Primary => on,
            Place::Backup => backup,
            Place::Idle => Place::HOSTS
                .into_iter()
                .find(|host| ![on, backup].contains(host))
                .expect("a third one"),
            other => other,
        })
    }

    /// Looks on for a while, or until the guest is gone.
    fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = self.world.env.now + time;
        while self.world.env.now < until && !self.gone {
            let tick = self.world.env.now + TICK;
            self.gone = !self.world.run_until(tick);
            if let Some(broken) = self.world.env.checks.broken.take() {
                return Err(broken);
            }
            self.look();
        }
        Ok(())
    }

    fn look(&mut self) {
        let now = self.world.env.now;
        let acknowledged = self.world.acknowledged()[0];
        if acknowledged > self.acknowledged {
            self.acknowledged = acknowledged;
            self.last_reply = now;
        }
        self.seen.silence = self.seen.silence.max(now - self.last_reply);
        if !self.world.is_protected() {
            self.unprotected_at = Some(now);
        }
        let (outputs, from) = self.world.outputs();
        if outputs > self.outputs {
            self.outputs = outputs;
            self.last_output = now;
            if self.seen.answered.last() != from.as_ref() {
                self.seen.answered.extend(from);
            }
        }
    }

    /// Something goes wrong, stays so, and is healed.
    fn go_through(&mut self, case: &Case) -> Result<(), String> {
        self.struck = self.world.env.now;
        self.unprotected_at = None;
        for trouble in &case.troubles {
            self.world.strike(*trouble);
        }
        self.pass(case.held)?;
        self.judge(case)?;
        self.heal(case)?;
        if let Some(last) = self.unprotected_at {
            // The longest, where one thing goes wrong after the other.
            self.seen.unprotected = self.seen.unprotected.max(last - self.struck);
        }
        Ok(())
    }

    /// Before it is healed.
    fn judge(&mut self, case: &Case) -> Result<(), String> {
        let standing = self.world.standing();
        self.seen.meanwhile = standing;
        self.seen.cut_off = self.world.env.now - self.last_reply > LATELY;
        if self.gone || !case.must_go_on() {
            return Ok(());
        }
        let Some(Standing { on, .. }) = standing else {
            return Err("nobody runs the guest, and a host that is up to date could".into());
        };
        let silent = self.world.env.now - self.last_output > LATELY;
        if silent && case.hears_client(on) {
            return Err(format!("the {on} runs the guest, which says nothing"));
        }
        Ok(())
    }

    /// All is well again, and the guest has to be, unless both hosts were lost that had it.
    fn heal(&mut self, case: &Case) -> Result<(), String> {
        for trouble in &case.troubles {
            self.world.heal(*trouble);
        }
        if self.gone {
            return match case.may_end_it() {
                true => Ok(()),
                false => Err("the guest is gone, and a host that had it was left".into()),
            };
        }
        let healed = self.world.env.now;
        let wanted = self.acknowledged + 3;
        while self.acknowledged < wanted || !self.world.is_protected() {
            if self.world.env.now > healed + BOUND {
                let standing = self.world.standing();
                return Err(format!("a minute after it was healed: {standing:?}"));
            }
            self.pass(TICK)?;
            if !self.world.is_protected() {
                self.seen.again = self.seen.again.max(self.world.env.now - healed);
            }
            if self.gone {
                return Err("the guest is gone, and all was well again".into());
            }
        }
        let Some(standing) = self.world.standing() else {
            return Err("nobody runs the guest in the end".into());
        };
        self.seen.finally = Some(standing);
        let counted = self.world.counted_on(standing.on).unwrap_or_default();
        let acknowledged = self.acknowledged;
        if !(acknowledged..=acknowledged + 1).contains(&counted) {
            return Err(format!(
                "the client has the reply to {acknowledged}, and the guest has counted {counted}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Rule;
    use crate::world::chosen::Trouble;

    const PAIR_PARTED: [Trouble; 2] = [
        Trouble::Cut(Place::Primary, Place::Backup),
        Trouble::Cut(Place::Backup, Place::Primary),
    ];

    fn failures(case: &Case, defect: Option<Defect>) -> Vec<String> {
        let measured = (0..20).map(|seed| measure(case, seed, defect));
        measured.filter_map(Result::err).collect()
    }

    #[test]
    fn an_output_that_leaves_too_soon_is_found() {
        let frozen = Case::at_once(vec![Trouble::Freeze(Place::Primary)]);
        assert_eq!(failures(&frozen, None), Vec::<String>::new());
        let found = failures(&frozen, Some(Defect::OutputBeforeAcknowledgement));
        let rule = Rule::OutputAfterAcceptance.to_string();
        assert!(
            found.iter().any(|what| what.starts_with(&rule)),
            "{found:?}"
        );
    }

    #[test]
    fn nobody_goes_on_who_cannot_ask() {
        let mut case = Case::at_once(PAIR_PARTED.to_vec());
        for host in [Place::Primary, Place::Backup] {
            case.troubles.push(Trouble::Cut(host, Place::Service));
        }
        let silent = measure(&case, 0, None).expect("nobody could go on");
        assert!(silent.cut_off && silent.meanwhile.is_none(), "{silent:?}");
        assert!(silent.silence > case.held, "{silent:?}");
    }
}
