//! A guest that is alone gets a new backup, on the host that was killed.

use std::time::Instant;

use super::judge::Observations;
use super::kill_plan::Plan;
use super::progress::{Meter, State};
use super::scene::{Outcome, Scene, Trouble};
use crate::fleet::side_of;
use crate::pair::{JoinProgress, Side};
use crate::wait::LIMIT;

/// How often it is tried to kill a host in the middle of its join: one that is quick may be complete
/// before.
const TRIES: u32 = 3;

impl Scene<'_> {
    /// The other host boots again if it is dead, and a backup joins there. If the join shall be cut,
    /// its host is killed when it has come so far, and joins again. The disk server may go in the one that is
    /// to be complete.
    pub(super) fn protect_again(&mut self, plan: &Plan, seen: &mut Observations) -> Outcome {
        if let Some(percent) = plan.cut {
            seen.joins_cut = self.cut_a_join(percent)?;
        }
        self.start_joining()?;
        let began = Instant::now();
        if self.options.restart_disk_server {
            self.disturb_the_join(began, plan.join_server);
        }
        self.wait_for_protection()?;
        let killed = self.server_is_back()?;
        seen.server_restarted_in_join = killed.map(|at| at.saturating_duration_since(began));
        match self.protected_at() {
            Some(at) => self.join = self.join.min(at.saturating_duration_since(began)),
            None => {
                self.start_joining()?;
                self.wait_for_protection()?;
            }
        }
        let before = self.before_join;
        let joined = self.told().joined(before);
        seen.protected = self.protected_at().zip(joined);
        let told =
            |side: &mut Option<Side>| side.as_mut().map_or(0, |side| side.told().events.len());
        self.protected = Some([0, 1].map(|which| told(&mut self.sides[which])));
        self.log = Meter::default();
        Ok(())
    }

    /// Waits until the backup that joins protects the guest, or found no disk server at its start.
    fn wait_for_protection(&mut self) -> Outcome {
        let joiner = self.other();
        self.wait("a backup's protection", LIMIT, &self.joins(), |scene| {
            let has_ended = scene.daemons.is_none() && scene.sides[joiner].is_none();
            has_ended || scene.protected_at().is_some()
        })?;
        if self.daemons.is_some() {
            self.sides[joiner] = Some(side_of(&self.hosts[joiner], &self.guest.name)?);
        }
        Ok(())
    }

    /// Kills a host in the middle of its join; how often.
    fn cut_a_join(&mut self, mut percent: f64) -> Result<u32, Trouble> {
        for _ in 0..TRIES {
            self.start_joining()?;
            self.wait("the middle of a join", LIMIT, &self.joins(), |scene| {
                let progress = scene.join_progress();
                progress.is_some_and(|now| now.percent >= percent) || scene.protected_at().is_some()
            })?;
            let joiner = self.other();
            // A host without power says no farewell.
            self.kill(joiner);
            self.sides[joiner] = None;
            let state = State::JoinCut(self.hosts[joiner].name().to_owned());
            self.wait("the loss of a backup that joins", LIMIT, &state, |scene| {
                scene.has_said("join-cut") || scene.has_said("live")
            })?;
            if self.has_said("join-cut") {
                return Ok(1);
            }
            // It was complete.
            percent = 0.0;
        }
        Err(Trouble(format!(
            "{TRIES} joins were complete before their host could be killed"
        )))
    }

    /// Has the other host up, and a backup there that connects: by its daemon, if it has one.
    fn start_joining(&mut self) -> Outcome {
        let joiner = self.other();
        if !self.hosts[joiner].is_alive() {
            self.show(&State::Returning(self.hosts[joiner].name().to_owned()));
            self.testbed.boot_again(&mut self.hosts[joiner])?;
            self.options
                .provide_images(&self.hosts[joiner], &mut self.guest)?;
        }
        let before_join = self.told().events.len();
        if let Some(daemons) = &mut self.daemons {
            if daemons.start(joiner, &self.hosts[joiner], self.disk_server)? {
                self.before_join = before_join;
            }
            return Ok(());
        }
        self.before_join = before_join;
        let [primary, backup] = [self.primary, joiner].map(|which| &self.hosts[which]);
        let options = self.options.backup();
        let side = self
            .guest
            .backup_with(backup, primary, self.disk_server, &options)?;
        self.sides[joiner] = Some(side);
        Ok(())
    }

    fn joins(&self) -> State {
        State::Joining(self.hosts[self.other()].name().to_owned())
    }

    /// How far the join is.
    pub(super) fn join_progress(&mut self) -> Option<JoinProgress> {
        let before = self.before_join;
        self.told().joining(before)
    }

    /// When the host said that the guest is protected again.
    fn protected_at(&mut self) -> Option<Instant> {
        let before = self.before_join;
        self.told()
            .after(before, "protected")
            .next()
            .map(|(at, _)| at)
    }

    /// Whether the host has said so since the join began.
    fn has_said(&mut self, kind: &str) -> bool {
        let before = self.before_join;
        self.told().after(before, kind).next().is_some()
    }
}
