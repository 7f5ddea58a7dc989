//! Until an order is done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use disk_server::fleet::{Entry, OrderNumber, State, Subject, VmStatus, What};

use super::client::{Client, ClientError};

/// Between two looks at the service.
const INTERVAL: Duration = Duration::from_millis(500);

/// How soon a wait ends that is cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// An order that is being carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered {
    /// Its number.
    pub order: OrderNumber,
    /// Whom it is about.
    pub subject: Subject,
    /// The number of the journal's last entry before it; 0 if there was none.
    pub since: u64,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done(Report),
    /// It is not, and why.
    Failed(String),
    /// Nobody waits any more.
    Cancelled,
}

/// How it went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In the service's words.
    pub how: String,
    /// For how long the guest stood still, in milliseconds, if another host went live with it.
    pub outage_ms: Option<u64>,
    /// For how long it was not protected, in milliseconds, if it was not and is again.
    pub unprotected_ms: Option<u64>,
}

/// How an order is going.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// In a line.
    pub words: String,
    /// How its guest is.
    pub status: Option<VmStatus>,
}

/// The number of the journal's last entry.
///
/// # Errors
/// See [`ClientError`].
pub fn latest(client: &Client, subject: &Subject) -> Result<u64, ClientError> {
    let mut first = true;
    let entries = client.history(guest_of(subject), |_| std::mem::take(&mut first))?;
    Ok(entries.first().map_or(0, |entry| entry.number))
}

/// Asks the service until it answers, unless that is cancelled. `on_silence` hears each time that it does not.
///
/// # Errors
/// See [`ClientError`]; the last one, where it is cancelled.
pub fn insist<T>(
    cancel: &AtomicBool,
    mut on_silence: impl FnMut(&ClientError),
    mut ask: impl FnMut() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    loop {
        match ask() {
            Err(error @ ClientError::Unreachable(_)) if !cancel.load(Ordering::Relaxed) => {
                on_silence(&error);
                pause(cancel);
            }
            answer => return answer,
        }
    }
}

/// Waits until the order is done, however long the service does not answer meanwhile. `on_progress` hears how it
/// is going, at every look.
///
/// # Errors
/// See [`ClientError`]; an unreachable service is none.
pub fn wait(
    client: &Client,
    ordered: &Ordered,
    cancel: &AtomicBool,
    mut on_progress: impl FnMut(&Progress),
) -> Result<Outcome, ClientError> {
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Ok(Outcome::Cancelled);
        }
        match look(client, ordered) {
            Ok(Ok(outcome)) => return Ok(outcome),
            Ok(Err(progress)) => on_progress(&progress),
            Err(ClientError::Unreachable(_)) => on_progress(&Progress::of(
                "service unreachable: the order stands".to_owned(),
            )),
            Err(error) => return Err(error),
        }
        pause(cancel);
    }
}

fn pause(cancel: &AtomicBool) {
    let end = Instant::now() + INTERVAL;
    while Instant::now() < end && !cancel.load(Ordering::Relaxed) {
        thread::sleep(CANCEL_POLL);
    }
}

/// What became of it, or how it is going.
fn look(client: &Client, ordered: &Ordered) -> Result<Result<Outcome, Progress>, ClientError> {
    let vm = guest_of(&ordered.subject);
    let mut entries = client.history(vm, |entry| entry.number > ordered.since)?;
    entries.reverse();
    if let Some(outcome) = outcome(&entries, ordered) {
        return Ok(Ok(outcome));
    }
    Ok(Err(match &ordered.subject {
        Subject::Vm(vm) => {
            let status = client.status(vm)?;
            Progress {
                words: status.state.to_string(),
                status: Some(status),
            }
        }
        Subject::Host(host) => {
            let is_on = |status: &VmStatus| {
                let placement = &status.placement;
                let members = placement.primary.iter().chain(&placement.backup);
                members.into_iter().any(|member| member.host == *host)
            };
            let vms = client.list()?;
            let left = vms.iter().filter(|status| is_on(status));
            let names: Vec<&str> = left.map(|status| status.vm.as_str()).collect();
            Progress::of(match names.len() {
                0 => format!("no guest is on {host} any more; those that left it join elsewhere"),
                some => format!("{some} still on {host}: {}", names.join(" ")),
            })
        }
    }))
}

impl Progress {
    fn of(words: String) -> Self {
        Self {
            words,
            status: None,
        }
    }
}

/// What became of an order, as the journal has it since then, the earliest entry first.
fn outcome(entries: &[Entry], ordered: &Ordered) -> Option<Outcome> {
    let how = entries.iter().find_map(|entry| match &entry.what {
        What::Done { order, how } if *order == ordered.order => Some(Ok(how)),
        What::Failed { order, why } if *order == ordered.order => Some(Err(why)),
        _ => None,
    })?;
    let how = match how {
        Ok(how) => how.to_string(),
        Err(why) => return Some(Outcome::Failed(why.to_string())),
    };
    let outage_ms = entries.iter().rev().find_map(|entry| match entry.what {
        What::Failover { outage_ms, .. } => Some(outage_ms),
        _ => None,
    });
    let states = || {
        entries.iter().filter_map(|entry| match &entry.what {
            What::State(state) => Some((entry.unix_ms, *state == State::Protected)),
            _ => None,
        })
    };
    let lost = states().find(|(_, protected)| !protected);
    let last = states().next_back();
    let unprotected_ms = match (lost, last) {
        (Some((lost, _)), Some((again, true))) => Some(again.saturating_sub(lost)),
        _ => None,
    };
    Some(Outcome::Done(Report {
        how,
        outage_ms,
        unprotected_ms,
    }))
}

fn guest_of(subject: &Subject) -> Option<&disk_server::arbiter::VmName> {
    match subject {
        Subject::Vm(vm) => Some(vm),
        Subject::Host(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use disk_server::arbiter::CallError;
    use disk_server::fleet::{Answer, Cause, Operation, Reason};
    use disk_server::views::Text;

    use super::*;
    use crate::operator::fake::{guest, service};

    fn away() -> ClientError {
        ClientError::Unreachable(CallError::Unreachable {
            address: "10.0.2.9:7420".parse().unwrap(),
            source: std::io::ErrorKind::ConnectionRefused.into(),
        })
    }

    #[test]
    fn a_service_that_is_away_is_asked_until_it_is_back_or_that_is_cancelled() {
        let (cancel, mut silent) = (AtomicBool::new(false), 0);
        let mut asked = 0;
        let answer = insist(
            &cancel,
            |_| silent += 1,
            || {
                asked += 1;
                if asked == 1 { Err(away()) } else { Ok(asked) }
            },
        );
        assert_eq!((answer.unwrap(), silent), (2, 1));
        let on_silence = |_: &ClientError| cancel.store(true, Ordering::Relaxed);
        let answer = insist(&cancel, on_silence, || Err::<(), _>(away()));
        assert!(matches!(answer, Err(ClientError::Unreachable(_))));
    }

    fn ordered() -> Ordered {
        Ordered {
            order: 7,
            subject: Subject::Vm("db".parse().unwrap()),
            since: 0,
        }
    }

    fn journal(whats: Vec<What>) -> Vec<Entry> {
        let entry = |(at, what): (u64, What)| Entry {
            number: at + 1,
            unix_ms: 1000 * at,
            subject: Subject::Vm("db".parse().unwrap()),
            what,
        };
        (0..).zip(whats).map(entry).collect()
    }

    fn test_failover() -> Vec<What> {
        let (by, what) = (Text::cut("anna@ops1"), Text::cut("test-failover"));
        let how = Text::cut("b went on");
        vec![
            What::Ordered { by, what, order: 7 },
            What::State(State::NotProtected(Reason::Starting {})),
            What::Failover {
                view: 3,
                outage_ms: 640,
                from: None,
                to: "b".parse().unwrap(),
                cause: Some(Cause::Order(7)),
            },
            What::State(State::NotProtected(Reason::Joining { percent: 0 })),
            What::Done { order: 7, how },
            What::State(State::Protected),
        ]
    }

    #[test]
    fn a_failover_is_told_with_its_outage_and_the_time_without_protection() {
        let entries = journal(test_failover());
        let expected = Outcome::Done(Report {
            how: "b went on".into(),
            outage_ms: Some(640),
            unprotected_ms: Some(4000),
        });
        assert_eq!(outcome(&entries, &ordered()), Some(expected));
        assert_eq!(outcome(&entries[..4], &ordered()), None);
    }

    #[test]
    fn it_is_waited_for_with_its_progress_and_until_somebody_has_enough() {
        let journal = journal(test_failover());
        let mut shown = 2;
        let client = service(vec![], move |operation| {
            Ok(match operation {
                Operation::Status { .. } => {
                    shown += 1;
                    let mut db = guest("db", "a", "b");
                    db.state = State::NotProtected(Reason::Joining { percent: 40 });
                    Answer::Status(Box::new(db))
                }
                Operation::History { .. } => Answer::History {
                    entries: journal.iter().take(shown).rev().cloned().collect(),
                    more: false,
                },
                other => panic!("{other:?}"),
            })
        });
        let mut told = Vec::new();
        let cancel = AtomicBool::new(true);
        let ended = wait(&client, &ordered(), &cancel, |_| panic!("nobody listens"));
        assert_eq!(ended.unwrap(), Outcome::Cancelled);
        cancel.store(false, Ordering::Relaxed);
        let ended = wait(&client, &ordered(), &cancel, |progress| {
            told.push(progress.clone());
        });
        assert!(matches!(ended.unwrap(), Outcome::Done(_)));
        let words: Vec<&str> = told.iter().map(|it| &*it.words).collect();
        assert_eq!(words, ["Not protected: joining 40 %"; 3]);
    }

    #[test]
    fn another_s_order_says_nothing() {
        let why = Text::cut("replaced by order 8 of bert@ops2");
        let mut entries = journal(vec![What::Failed {
            order: 6,
            why: why.clone(),
        }]);
        assert_eq!(outcome(&entries, &ordered()), None);
        entries = journal(vec![What::Failed {
            order: 7,
            why: why.clone(),
        }]);
        let expected = Some(Outcome::Failed(why.to_string()));
        assert_eq!(outcome(&entries, &ordered()), expected);
    }
}
