//! How a guest is in a few words, why, and what a person can do about it.

use std::mem::discriminant;

use disk_server::arbiter::HostName;
use disk_server::fleet::{Failure, Reason, State, VmStatus};
use disk_server::views::Unfit;

use super::words;

/// Where a host keeps what its guests' processes say, unless `state` in its host.toml says otherwise.
const LOGS: &str = "/var/lib/ftvm/guests";

/// What keeps an order from being done until somebody does something about it, as it was told last.
#[derive(Debug, Default)]
pub struct Obstacle(Option<Reason>);

/// A state in a few words, without the hosts that it is about.
#[must_use]
pub fn brief(state: &State) -> String {
    match state {
        State::NotProtected(why) => format!("Not protected: {}", brief_reason(why)),
        State::NotRunning(why) => format!("Not running: {}", brief_reason(why)),
        state => state.to_string(),
    }
}

/// The same where the colour says whether it is protected.
#[must_use]
pub fn briefest(state: &State) -> String {
    match state {
        State::NotProtected(why) => brief_reason(why),
        state => brief(state),
    }
}

fn brief_reason(reason: &Reason) -> String {
    match reason {
        Reason::NoIdleHost { .. } => "no idle host".to_owned(),
        Reason::LoggingNetworkDown { .. } => "logging network down".to_owned(),
        Reason::Unknown { hosts } if hosts.len() > 1 => {
            format!("{} do not answer", all_of(hosts))
        }
        Reason::Unknown { hosts } => format!("{} does not answer", all_of(hosts)),
        reason => reason.to_string(),
    }
}

fn all_of(hosts: &[HostName]) -> String {
    let names: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
    names.join(" and ")
}

fn reason(state: &State) -> Option<&Reason> {
    match state {
        State::NotProtected(why) | State::NotRunning(why) => Some(why),
        State::Protected | State::Stopped { .. } => None,
    }
}

/// What a state's few words leave out: of each host why it is none for the guest, a line each.
#[must_use]
pub fn because(state: &State) -> Vec<String> {
    match reason(state) {
        Some(Reason::NoIdleHost { unfit }) => {
            let why = unfit.iter().map(|(host, unfit)| format!("{host} {unfit}"));
            why.collect()
        }
        Some(Reason::LoggingNetworkDown { host, error }) => {
            vec![format!("{host} does not reach the primary: {error}")]
        }
        _ => Vec::new(),
    }
}

/// What a person can do about how a guest is, or where to look, a line each. Nothing while all is well, or as somebody
/// wanted it, or is about to be well by itself.
#[must_use]
pub fn remarks(status: &VmStatus) -> Vec<String> {
    let failure = status.last_failure.as_ref();
    let is_as_wanted = match &status.state {
        State::Protected | State::Stopped { reason: None } => true,
        state => matches!(reason(state), Some(Reason::Suspended { .. })),
    };
    let failure = failure.filter(|_| !is_as_wanted);
    let failure = failure.map(|it| {
        let when = words::time(it.unix_ms);
        format!("{when}: {}; {}", failed(it), log_of(it, status))
    });
    advice(status).into_iter().chain(failure).collect()
}

/// What can be done about why it is not protected.
#[must_use]
pub fn advice(status: &VmStatus) -> Option<String> {
    let vm = &status.vm;
    let backup =
        (status.placement.backup.as_ref()).map_or("the backup's host", |it| it.host.as_str());
    let runs = matches!(status.state, State::NotProtected(_));
    Some(match reason(&status.state)? {
        Reason::NoIdleHost { unfit } if unfit.is_empty() => {
            let other = if runs { "other " } else { "" };
            format!("no {other}host pings: is `ftvm host` running there?")
        }
        Reason::LoggingNetworkDown { .. } => {
            "`ftvm network-test` between the two hosts tells what is wrong there".to_owned()
        }
        Reason::Lagging { .. } => format!(
            "its limit is {} (`lag` in its file). Is {backup} busy? `ftvm network-test` tells what the network carries",
            words::span(status.lag.red_ms)
        ),
        Reason::Diverged {} => format!(
            "{backup} is sent the whole state, and protects it then. `ftvm history {vm}` tells how often, \
             `ftvm report {vm}` there in what it differed"
        ),
        Reason::Unknown { hosts } => format!(
            "it may run on {}: bring that back, or, if it is certainly gone, `ftvm vm start --force {vm}`",
            all_of(hosts)
        ),
        Reason::Suspended { .. } => format!("`ftvm resume-protection {vm}` has it protected again"),
        _ => return None,
    })
}

/// That a copy failed, and how.
#[must_use]
pub fn failed(failure: &Failure) -> String {
    let Failure {
        host,
        status,
        reason,
        ..
    } = failure;
    let status = status.map_or_else(String::new, |status| format!(" with status {status}"));
    format!("its copy on {host} ended{status}: {reason}")
}

/// Where the log of a copy that failed is.
#[must_use]
pub fn log_of(failure: &Failure, status: &VmStatus) -> String {
    let (host, vm) = (&failure.host, &status.vm);
    format!("its log is on {host}: {LOGS}/{vm}/log")
}

impl Obstacle {
    /// A guest is so: what is to be told of that, if it keeps an order and was not told before.
    pub fn news(&mut self, status: &VmStatus) -> Option<Vec<String>> {
        let why = reason(&status.state)?;
        let keeps = matches!(
            why,
            Reason::NoIdleHost { .. } | Reason::LoggingNetworkDown { .. } | Reason::Unknown { .. }
        );
        if !keeps || self.0.as_ref().is_some_and(|told| is_same(told, why)) {
            return None;
        }
        self.0 = Some(why.clone());
        let head = std::iter::once(brief(&status.state));
        let more = because(&status.state).into_iter().chain(advice(status));
        Some(head.chain(more).collect())
    }
}

/// Whether it is the same that keeps a guest, whatever it says in figures.
fn is_same(one: &Reason, two: &Reason) -> bool {
    match (one, two) {
        (Reason::NoIdleHost { unfit: one }, Reason::NoIdleHost { unfit: two }) => {
            let kind = |(host, why): &(HostName, Unfit)| (host.clone(), discriminant(why));
            one.iter().map(kind).eq(two.iter().map(kind))
        }
        (Reason::Unknown { hosts: one }, Reason::Unknown { hosts: two }) => one == two,
        (one, two) => discriminant(one) == discriminant(two),
    }
}

#[cfg(test)]
mod tests {
    use disk_server::views::Text;

    use super::*;
    use crate::operator::fake::guest;

    fn of(state: State) -> VmStatus {
        VmStatus {
            state,
            ..guest("db", "a", "b")
        }
    }

    fn failure() -> Failure {
        Failure {
            unix_ms: 1_795_929_153_000,
            host: "b".parse().unwrap(),
            status: Some(101),
            reason: Text::cut("a thread panicked"),
        }
    }

    #[test]
    fn what_can_be_done_is_told_and_nothing_while_all_is_well() {
        let by = || Text::cut("anna");
        for (reason, parts) in [
            (
                Reason::Lagging { lag_ms: 1400 },
                &["limit is 1.0 s", "`lag`", "b busy", "`ftvm network-test`"][..],
            ),
            (
                Reason::Diverged {},
                &[
                    "b is sent the whole",
                    "`ftvm history db`",
                    "`ftvm report db`",
                ],
            ),
            (Reason::Suspended { by: by() }, &["resume-protection db"]),
            (Reason::NoIdleHost { unfit: vec![] }, &["`ftvm host`"]),
            (
                Reason::Unknown {
                    hosts: vec!["a".parse().unwrap()],
                },
                &["may run on a", "--force db"],
            ),
            (Reason::Joining { percent: 40 }, &[]),
        ] {
            let told = remarks(&of(State::NotProtected(reason))).join("\n");
            for part in parts {
                assert!(told.contains(part), "no \"{part}\" in {told}");
            }
            assert_eq!(told.is_empty(), parts.is_empty(), "{told}");
        }
        assert_eq!(remarks(&of(State::Protected)), [""; 0]);
    }

    #[test]
    fn a_copy_that_failed_is_told_until_all_is_well_again() {
        let mut db = of(State::NotProtected(Reason::Joining { percent: 40 }));
        db.last_failure = Some(failure());
        let told = "2026-11-29T05:12:33Z: its copy on b ended with status 101: a thread panicked; \
                    its log is on b: /var/lib/ftvm/guests/db/log";
        assert_eq!(remarks(&db), [told]);
        for state in [State::Protected, State::Stopped { reason: None }] {
            db.state = state;
            assert_eq!(remarks(&db), [""; 0]);
        }
    }

    #[test]
    fn what_keeps_an_order_is_told_once() {
        let without = |memory: u64| {
            let memory = Unfit::Memory {
                has: memory,
                needs: 1024,
            };
            let unfit = vec![
                ("a".parse().unwrap(), memory),
                ("b".parse().unwrap(), Unfit::Draining),
            ];
            of(State::NotRunning(Reason::NoIdleHost { unfit }))
        };
        let mut told = Obstacle::default();
        let lines = told.news(&without(512)).unwrap();
        let expected = [
            "Not running: no idle host",
            "a has 512 MiB of memory of 1024",
            "b is drained",
        ];
        assert_eq!(lines, expected);
        assert_eq!(told.news(&without(500)), None, "it is the same");
        let begins = of(State::NotRunning(Reason::Starting {}));
        assert_eq!(told.news(&begins), None);
        let host: HostName = "a".parse().unwrap();
        let unknown = of(State::NotRunning(Reason::Unknown { hosts: vec![host] }));
        assert_eq!(told.news(&unknown).unwrap().len(), 2);
    }
}
