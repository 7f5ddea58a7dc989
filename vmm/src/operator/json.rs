//! How guests, hosts and what happened are told to a program. `docs/operating.md` has the fields: they stay
//! what they are, and others may come.

use disk_server::arbiter::{Claimant, HostName, VmName};
use disk_server::fleet::{
    Entry, Failover, Failure, LagColour, Member, State, Subject, VmStatus, What,
};
use disk_server::views::Paging;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::hosts::HostSummary;
use super::{states, view, words};

/// A guest.
#[derive(Debug, Serialize)]
pub struct GuestJson<'a> {
    vm: &'a VmName,
    defined: bool,
    #[serde(flatten)]
    state: StateJson,
    view: u64,
    primary: Option<MemberJson<'a>>,
    backup: Option<MemberJson<'a>>,
    lag_ms: Option<u64>,
    lag_colour: Option<&'static str>,
    log_bytes_per_second: Option<u64>,
    last_failover: Option<&'a Failover>,
    last_failure: Option<&'a Failure>,
    /// What can be done about it, for people.
    remarks: Vec<String>,
    pending: Option<PendingJson<'a>>,
}

/// A state.
#[derive(Debug, Serialize)]
struct StateJson {
    /// `protected`, `not_protected`, `not_running` or `stopped`.
    state: String,
    /// Why, where there is a reason: its name, as in `no_idle_host`.
    reason: Option<String>,
    /// Both, for people.
    words: String,
}

#[derive(Debug, Serialize)]
struct MemberJson<'a> {
    host: &'a HostName,
    claimant: &'a Claimant,
    live: bool,
}

#[derive(Debug, Serialize)]
struct PendingJson<'a> {
    order: u64,
    what: &'a str,
}

/// A host.
#[derive(Debug, Serialize)]
pub struct HostJson<'a> {
    host: &'a HostName,
    live: bool,
    daemon: bool,
    draining: bool,
    memory_mib: u64,
    processor: &'a str,
    paging: Paging,
    primaries: &'a [VmName],
    backups: &'a [VmName],
    unfit: Vec<UnfitJson<'a>>,
}

#[derive(Debug, Serialize)]
struct UnfitJson<'a> {
    vm: &'a VmName,
    reason: String,
    words: String,
}

/// The name of an enumeration's variant, as it is on the wire.
fn variant(value: &Value) -> Option<(&str, Option<&Value>)> {
    match value {
        Value::String(name) => Some((name, None)),
        Value::Object(fields) => fields.iter().next().map(|(name, of)| (&**name, Some(of))),
        _ => None,
    }
}

fn name(value: &impl Serialize) -> String {
    let value = json!(value);
    variant(&value).map_or_else(String::new, |(name, _)| name.to_owned())
}

impl StateJson {
    fn of(state: &State) -> Self {
        let reason = match state {
            State::NotRunning(reason) | State::NotProtected(reason) => Some(name(reason)),
            State::Stopped { .. } | State::Protected => None,
        };
        Self {
            state: name(state),
            reason,
            words: state.to_string(),
        }
    }
}

impl<'a> MemberJson<'a> {
    fn of(member: &'a Member) -> Self {
        Self {
            host: &member.host,
            claimant: &member.claimant,
            live: member.live,
        }
    }
}

/// A guest.
#[must_use]
pub fn guest(status: &VmStatus) -> GuestJson<'_> {
    GuestJson {
        vm: &status.vm,
        defined: status.defined,
        state: StateJson::of(&status.state),
        view: status.view,
        primary: status.placement.primary.as_ref().map(MemberJson::of),
        backup: status.placement.backup.as_ref().map(MemberJson::of),
        lag_ms: status.lag_ms,
        lag_colour: status.lag_ms.map(|lag| match status.lag.colour(lag) {
            LagColour::Green => "green",
            LagColour::Yellow => "yellow",
            LagColour::Red => "red",
        }),
        log_bytes_per_second: status.log_bytes_per_second,
        last_failover: status.last_failover.as_ref(),
        last_failure: status.last_failure.as_ref(),
        remarks: states::remarks(status),
        pending: (status.pending.as_ref()).map(|(order, what)| PendingJson {
            order: *order,
            what: what.as_str(),
        }),
    }
}

/// A host.
#[must_use]
pub fn host(host: &HostSummary) -> HostJson<'_> {
    let unfit = host.unfit.iter().map(|(vm, why)| UnfitJson {
        vm,
        reason: name(why),
        words: why.to_string(),
    });
    HostJson {
        host: &host.host,
        live: host.live,
        daemon: host.tended,
        draining: host.draining,
        memory_mib: host.memory_mib,
        processor: host.processor.as_str(),
        paging: host.paging,
        primaries: &host.primaries,
        backups: &host.backups,
        unfit: unfit.collect(),
    }
}

/// What happened: what it is, with its own fields beside those that all have.
#[must_use]
pub fn entry(entry: &Entry) -> Value {
    let mut fields = Map::new();
    fields.insert("number".into(), json!(entry.number));
    fields.insert("unix_ms".into(), json!(entry.unix_ms));
    fields.insert("time".into(), json!(words::time(entry.unix_ms)));
    match &entry.subject {
        Subject::Vm(vm) => fields.insert("vm".into(), json!(vm)),
        Subject::Host(host) => fields.insert("host".into(), json!(host)),
    };
    let what = json!(entry.what);
    if let Some((name, of)) = variant(&what) {
        fields.insert("event".into(), json!(name));
        match (&entry.what, of) {
            (What::State(state), _) => {
                if let Value::Object(state) = json!(StateJson::of(state)) {
                    fields.extend(state);
                }
            }
            // An end has a host of its own, and it is a guest's.
            (_, Some(Value::Object(own))) => fields.extend(own.clone()),
            _ => {}
        }
    }
    fields.insert("words".into(), json!(view::what(&entry.what).0));
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use disk_server::fleet::{Cause, Reason};

    use super::*;

    fn told(what: What) -> Value {
        entry(&Entry {
            number: 7,
            unix_ms: 1_795_929_153_000,
            subject: Subject::Vm("db".parse().unwrap()),
            what,
        })
    }

    #[test]
    fn what_can_be_done_about_a_guest_is_told_and_how_a_copy_failed() {
        let mut db = crate::operator::fake::guest("db", "a", "b");
        let told = json!(guest(&db));
        assert_eq!(told["remarks"], json!([]));
        assert_eq!(told["last_failure"], Value::Null);
        db.state = State::NotProtected(Reason::Lagging { lag_ms: 1400 });
        db.last_failure = Some(Failure {
            unix_ms: 1_795_929_153_000,
            host: "b".parse().unwrap(),
            status: Some(101),
            reason: disk_server::views::Text::cut("a thread panicked"),
        });
        let told = json!(guest(&db));
        let failure = json!({
            "unix_ms": 1_795_929_153_000_u64, "host": "b", "status": 101, "reason": "a thread panicked",
        });
        assert_eq!(told["last_failure"], failure);
        let remarks = told["remarks"].as_array().unwrap();
        assert_eq!(remarks.len(), 2, "{remarks:?}");
        assert!(remarks[0].as_str().unwrap().contains("network-test"));
        assert!(remarks[1].as_str().unwrap().contains("status 101"));
    }

    #[test]
    fn an_entry_is_one_flat_object() {
        let failover = told(What::Failover {
            view: 14,
            outage_ms: 640,
            from: Some("a".parse().unwrap()),
            to: "b".parse().unwrap(),
            cause: Some(Cause::Drain(6)),
        });
        let expected = json!({
            "number": 7, "unix_ms": 1_795_929_153_000_u64, "time": "2026-11-29T05:12:33Z",
            "vm": "db", "event": "failover", "view": 14, "outage_ms": 640, "from": "a", "to": "b",
            "cause": {"drain": 6},
            "words": "failover from a to b by drain, order 6: outage 640 ms, view 14",
        });
        assert_eq!(failover, expected);
        let state = told(What::State(State::NotProtected(Reason::Joining {
            percent: 40,
        })));
        assert_eq!(state["state"], "not_protected");
        assert_eq!(state["reason"], "joining");
        assert_eq!(state["words"], "Not protected: joining 40 %");
    }
}
