//! Watches a load in the guest: reads its results out of the guest's Redis over
//! one connection, and compares each with what it must be.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use guest_images::load::{Kind, Load, TscLine};
use parking_lot::MutexGuard;

use super::redis::connect;
use super::resp::{Connection, RespError};
use crate::network::Position;
use crate::worker::{Desk, Worker};

/// Time between two looks for a result that is not there yet.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the last look at all results may wait for one reply.
const LAST: Duration = Duration::from_secs(30);

/// What was seen of a load.
#[derive(Debug, Clone, Default)]
pub struct LoadRecord {
    /// When each result was seen: kind, number, and what it was.
    pub results: Vec<(Instant, Kind, u64, String)>,
    /// The first result that is not what it must be.
    pub wrong: Option<String>,
    /// What went wrong with the watching.
    pub trouble: Option<String>,
}

impl LoadRecord {
    /// How many results were seen since a moment.
    #[must_use]
    pub fn since(&self, moment: Instant) -> usize {
        self.results.iter().filter(|(at, ..)| *at >= moment).count()
    }

    /// The number of the next result of a kind.
    fn next(&self, kind: Kind) -> u64 {
        let last = self.results.iter().rev().find(|(_, of, ..)| *of == kind);
        last.map_or(0, |(_, _, number, _)| *number) + 1
    }

    /// Takes in the next result of a kind.
    fn result(&mut self, kind: Kind, digest: String) {
        let number = self.next(kind);
        if self.wrong.is_none() {
            self.wrong = self.objection(kind, number, &digest);
        }
        self.results.push((Instant::now(), kind, number, digest));
    }

    fn objection(&self, kind: Kind, number: u64, digest: &str) -> Option<String> {
        if let Some(expected) = kind.digest(number) {
            return (digest != expected)
                .then(|| format!("load {kind} {number} gave `{digest}` instead of `{expected}`"));
        }
        let before = self.results.iter().rev().find(|(_, of, ..)| *of == kind);
        let before = before.map(|(.., line)| line.as_str());
        let follows = TscLine::parse(digest)
            .is_some_and(|line| line.follows(before.and_then(TscLine::parse).as_ref(), number));
        (!follows).then(|| {
            format!(
                "load {kind} {number}: `{digest}` cannot follow `{}`",
                before.unwrap_or("")
            )
        })
    }
}

/// A load that is watched, until this value is dropped.
#[derive(Debug)]
pub struct LoadWatcher(Worker<LoadRecord>);

impl LoadWatcher {
    /// Starts to connect from `position`, and goes on to read results.
    #[must_use]
    pub fn start(position: &Position, load: Load) -> Self {
        let position = position.clone();
        Self(Worker::start(move |desk| {
            work(desk, &position, load.kinds());
        }))
    }

    /// What was seen up to now.
    pub(crate) fn record(&self) -> MutexGuard<'_, LoadRecord> {
        self.0.record()
    }

    /// How many results were seen.
    #[must_use]
    pub fn results(&self) -> usize {
        self.record().results.len()
    }

    /// How many results were seen since a moment.
    #[must_use]
    pub fn since(&self, moment: Instant) -> usize {
        self.record().since(moment)
    }

    /// What went wrong, if something did: with a result, or with the watching.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let record = self.record();
        record.wrong.clone().or_else(|| record.trouble.clone())
    }

    /// Reads all results once more over the same connection, sees that they
    /// are still the same, and gives what was seen.
    #[must_use]
    pub fn finish(self) -> LoadRecord {
        self.0.finish()
    }

    /// Waits for nothing any more, and gives what was seen.
    #[must_use]
    pub fn abandon(self) -> LoadRecord {
        self.0.abandon()
    }
}

fn work(desk: &Desk<LoadRecord>, position: &Position, kinds: &[Kind]) {
    let Some(mut connection) = connect(position, || desk.goes_on()) else {
        return;
    };
    let outcome =
        follow(desk, &mut connection, kinds).and_then(|()| look_again(desk, &mut connection));
    if let Err(error) = outcome
        && !desk.abandoned()
    {
        desk.record().trouble = Some(format!("the load's results cannot be read: {error}"));
    }
}

/// The Redis hash with the results of a kind.
fn hash(kind: Kind) -> String {
    format!("load:{kind}")
}

fn follow(
    desk: &Desk<LoadRecord>,
    connection: &mut Connection<TcpStream>,
    kinds: &[Kind],
) -> Result<(), RespError> {
    while desk.goes_on() {
        let mut found = false;
        for kind in kinds {
            let number = desk.record().next(*kind).to_string();
            let digest = connection.field(&hash(*kind), &number, || desk.abandoned())?;
            if let Some(digest) = digest {
                found = true;
                desk.record().result(*kind, digest);
            }
        }
        if !found {
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}

fn look_again(
    desk: &Desk<LoadRecord>,
    connection: &mut Connection<TcpStream>,
) -> Result<(), RespError> {
    let results = desk.record().results.clone();
    for (_, kind, number, digest) in results {
        let asked = Instant::now();
        let give_up = || desk.abandoned() || asked.elapsed() > LAST;
        let now = connection.field(&hash(kind), &number.to_string(), give_up)?;
        if now.as_ref() != Some(&digest) {
            let mut record = desk.record();
            record.wrong.get_or_insert_with(|| {
                let now = now.as_deref().unwrap_or("nothing");
                format!("load {kind} {number} gave `{digest}`, and later it was `{now}`")
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_compared_with_what_they_must_be() {
        let mut record = LoadRecord::default();
        let digest = |number| Kind::Busy.digest(number).expect("it depends on the number");
        for number in [1, 2] {
            record.result(Kind::Busy, digest(number));
        }
        assert_eq!((record.results.len(), &record.wrong), (2, &None));
        assert_eq!(record.next(Kind::Busy), 3);
        assert_eq!(record.next(Kind::Stress), 1);
        record.result(Kind::Busy, digest(4));
        record.result(Kind::Busy, "failed".to_owned());
        let wrong = record.wrong.expect("a result of another number");
        assert!(wrong.starts_with("load busy 3 gave"), "{wrong}");
    }

    #[test]
    fn the_counter_of_a_load_must_not_go_back() {
        let line =
            |reads, last| format!("tsc: {reads} reads, last {last}, hash {last:016x}, backwards 0");
        let mut record = LoadRecord::default();
        record.result(Kind::Tsc, line(2000, 70));
        record.result(Kind::Tsc, line(4000, 71));
        assert_eq!(record.wrong, None);
        record.result(Kind::Tsc, line(6000, 69));
        assert!(record.wrong.is_some());
    }
}
