//! What an operator asks of the service.

use std::fmt::Debug;
use std::process::{Command, Stdio};
use std::time::Duration;

use disk_server::arbiter::{Arbiter, ServerAddress, Settings, VmName};
use disk_server::fleet::{
    Answer, Definition, Entry, HostVerb, Image, LagBounds, NamedHosts, Operation, OrderNumber,
    State, Verb, VmStatus, What,
};
use disk_server::views::Text;
use serde_json::Value;
use transport::Endpoint;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::keys::{self, TESTBED};
use crate::layout::Layout;
use crate::netns::output;
use crate::network::{GUEST_MAC, Position};
use crate::pair::{DiskServer, Guest};
use crate::testbed::Testbed;
use crate::wait::wait_until;

/// The memory of a guest that does not say how much it has, in MiB.
const MEMORY_MIB: u64 = 128;

/// Where the machine has other work to do, backups on emulated hosts are behind by more than is told of real ones.
const LAG: LagBounds = LagBounds {
    yellow_ms: 1000,
    red_ms: 10_000,
};

/// The service keeps no more entries.
const JOURNAL: &str = "10000";

/// Somebody at the disk server's place in the network.
#[derive(Debug)]
pub struct Operator {
    place: Position,
    service: ServerAddress,
    by: Text,
    endpoint: Endpoint,
    /// What `ftvm` is told of keys in its name.
    options: Vec<String>,
}

impl Operator {
    /// Of this service.
    ///
    /// # Panics
    ///
    /// When the service's address is none.
    #[must_use]
    pub fn new(testbed: &Testbed, service: &DiskServer) -> Self {
        Self::called(TESTBED, testbed, service)
    }

    /// The same, of this name.
    ///
    /// # Panics
    ///
    /// When the service's address is none.
    #[must_use]
    pub fn called(name: &str, testbed: &Testbed, service: &DiskServer) -> Self {
        Self {
            place: testbed.disk().clone(),
            service: service.address().parse().expect("a disk server has one"),
            by: Text::cut(name),
            endpoint: (testbed.keys()).map_or_else(Endpoint::plain, |keys| keys.operator(name)),
            options: keys::on_this_machine(testbed.keys(), name),
        }
    }

    /// Asks.
    ///
    /// # Errors
    ///
    /// When the service does not answer, or refuses it.
    pub fn ask(&self, operation: Operation) -> Result<Answer> {
        let what = format!("{operation:?}");
        let (service, endpoint) = (self.service.clone(), self.endpoint.clone());
        let arbiter = Arbiter::new(service, endpoint, Settings::default());
        let asked = self.place.namespace().within(|| arbiter.operate(operation));
        let failed = |trouble: String| Error::Client { what, trouble };
        match asked {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Has a guest kept whose images are as on this host.
    ///
    /// # Errors
    ///
    /// When the host lacks an image, and as [`Operator::ask`].
    pub fn define(&self, guest: &Guest, host: &Host, heartbeat_timeout: Duration) -> Result<()> {
        self.define_with(guest, host, heartbeat_timeout, LAG)
    }

    /// The same, with these bounds of its lag.
    ///
    /// # Errors
    ///
    /// As [`Operator::define`].
    pub fn define_with(
        &self,
        guest: &Guest,
        host: &Host,
        heartbeat_timeout: Duration,
        lag: LagBounds,
    ) -> Result<()> {
        let mut definition = Box::new(definition(guest, host)?);
        definition.heartbeat_timeout_ms = u64::try_from(heartbeat_timeout.as_millis()).ok();
        definition.lag = lag;
        let by = self.by.clone();
        self.ask(Operation::Define { definition, by }).map(drop)
    }

    /// Has a guest run.
    ///
    /// # Errors
    ///
    /// As [`Operator::ask`].
    pub fn start(&self, vm: &str) -> Result<()> {
        self.order(vm, Verb::Start { force: false }).map(drop)
    }

    /// Has a guest end in order, and waits for that.
    ///
    /// # Errors
    ///
    /// As [`Operator::wait_for`].
    pub fn stop(&self, vm: &str, limit: Duration) -> Result<()> {
        self.order(vm, Verb::Stop {})?;
        let what = format!("that {vm} has stopped");
        let stopped = |status: &VmStatus| matches!(status.state, State::Stopped { .. });
        self.wait_for(vm, &what, limit, stopped).map(drop)
    }

    /// Has a guest kept no longer.
    ///
    /// # Errors
    ///
    /// As [`Operator::ask`].
    pub fn undefine(&self, vm: &str) -> Result<()> {
        let (vm, by) = (name(vm), self.by.clone());
        self.ask(Operation::Undefine { vm, by }).map(drop)
    }

    /// Has something done with a guest: the order's number.
    ///
    /// # Errors
    ///
    /// As [`Operator::ask`].
    pub fn order(&self, vm: &str, verb: Verb) -> Result<OrderNumber> {
        let (vm, by) = (name(vm), self.by.clone());
        self.accepted(Operation::Guest { vm, verb, by })
    }

    /// Has something done with a host: the order's number.
    ///
    /// # Errors
    ///
    /// As [`Operator::ask`].
    ///
    /// # Panics
    ///
    /// When that is no name of a host.
    pub fn order_host(&self, host: &str, verb: HostVerb) -> Result<OrderNumber> {
        let (host, by) = (host.parse().expect("a host's name"), self.by.clone());
        self.accepted(Operation::Host { host, verb, by })
    }

    fn accepted(&self, operation: Operation) -> Result<OrderNumber> {
        match self.ask(operation)? {
            Answer::Accepted { order } => Ok(order),
            other => Err(unexpected("an order's number", &other)),
        }
    }

    /// Waits until the journal has what came of an order: how it was done, or else why it was not.
    ///
    /// # Errors
    ///
    /// When it has not within `limit`.
    pub fn outcome(
        &self,
        order: OrderNumber,
        limit: Duration,
    ) -> Result<std::result::Result<String, String>> {
        let mut outcome = None;
        wait_until(&format!("the outcome of order {order}"), limit, || {
            let mut entries = self.latest(None)?.into_iter();
            outcome = entries.find_map(|entry| match entry.what {
                What::Done { order: it, how } if it == order => Some(Ok(how.as_str().to_owned())),
                What::Failed { order: it, why } if it == order => {
                    Some(Err(why.as_str().to_owned()))
                }
                _ => None,
            });
            Ok(outcome.is_some())
        })?;
        Ok(outcome.expect("it was waited for"))
    }

    /// How all guests are; there are not more than fit into one answer.
    ///
    /// # Errors
    ///
    /// As [`Operator::ask`].
    pub fn statuses(&self) -> Result<Vec<VmStatus>> {
        match self.ask(Operation::List { after: None })? {
            Answer::Guests { vms, more: false } => Ok(vms),
            other => Err(unexpected("all guests", &other)),
        }
    }

    /// How a guest is.
    ///
    /// # Errors
    ///
    /// As [`Operator::ask`].
    pub fn status(&self, vm: &str) -> Result<VmStatus> {
        match self.ask(Operation::Status { vm: name(vm) })? {
            Answer::Status(status) => Ok(*status),
            other => Err(unexpected(&format!("the status of {vm}"), &other)),
        }
    }

    /// Waits until a guest is as `condition` wants it; `what` names that.
    ///
    /// # Errors
    ///
    /// When it is not within `limit`: with what it is, and what happened to it.
    pub fn wait_for(
        &self,
        vm: &str,
        what: &str,
        limit: Duration,
        condition: impl Fn(&VmStatus) -> bool,
    ) -> Result<VmStatus> {
        let mut last = None;
        let waited = wait_until(what, limit, || {
            let status = self.status(vm)?;
            let found = condition(&status);
            last = Some(status);
            Ok(found)
        });
        match (waited, last) {
            (Ok(()), Some(status)) => Ok(status),
            (Err(Error::Timeout { what, limit, .. }), last) => Err(Error::Timeout {
                what,
                limit,
                seen: format!("{last:#?}\n{}", self.history(vm)?),
            }),
            (Err(error), _) => Err(error),
            (Ok(()), None) => unreachable!("it was looked at"),
        }
    }

    /// Waits until a guest is protected, and gives where its copies are: the primary's host, and the
    /// backup's.
    ///
    /// # Errors
    ///
    /// As [`Operator::wait_for`].
    pub fn protected(&self, vm: &str, limit: Duration) -> Result<(String, String)> {
        let what = format!("that {vm} is protected");
        let status = self.wait_for(vm, &what, limit, |status| {
            let placement = &status.placement;
            status.state == State::Protected
                && placement.primary.is_some()
                && placement.backup.is_some()
        })?;
        let host = |member: Option<disk_server::fleet::Member>| {
            member.map_or_else(String::new, |member| member.host.as_str().to_owned())
        };
        let placement = status.placement;
        Ok((host(placement.primary), host(placement.backup)))
    }

    /// What `ftvm` prints as JSON, told to do this: a value a line.
    ///
    /// # Errors
    ///
    /// When it fails, or prints something else.
    pub fn told(&self, words: &[&str]) -> Result<Vec<Value>> {
        values(words, &output(self.ftvm(words)?.arg("--json"))?)
    }

    /// What `ftvm` prints for people, told to do this.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn said(&self, words: &[&str]) -> Result<String> {
        output(&mut self.ftvm(words)?)
    }

    /// What `ftvm` prints as JSON of why it does not do this.
    ///
    /// # Errors
    ///
    /// When it does it, or prints something else.
    pub fn told_refusal(&self, words: &[&str]) -> Result<Value> {
        let mut command = self.ftvm(words)?;
        command.arg("--json").stdin(Stdio::null());
        let ended = command.output().map_err(|source| Error::Start {
            command: format!("{command:?}"),
            source,
        })?;
        let printed = String::from_utf8_lossy(&ended.stdout);
        match (ended.status.code(), values(words, &printed)?.pop()) {
            (Some(1), Some(value)) => Ok(value),
            (status, _) => Err(Error::Wrong {
                what: format!("`ftvm {}` ends with status {status:?}", words.join(" ")),
                seen: printed.into_owned(),
            }),
        }
    }

    /// `ftvm`, which is to ask this service for this.
    fn ftvm(&self, words: &[&str]) -> Result<Command> {
        let program = Layout::find().program("ftvm")?;
        let mut command = self.place.command(&program.to_string_lossy())?;
        command.args(words).arg("--disk-server");
        command.arg(self.service.to_string()).args(&self.options);
        Ok(command)
    }

    /// What `ftvm history --json` has of all guests and hosts behind the entry with a number, the earliest first.
    ///
    /// # Errors
    ///
    /// As [`Operator::told`].
    pub fn journal(&self, after: u64) -> Result<Vec<Value>> {
        let mut entries = self.told(&["history", "--limit", JOURNAL])?;
        entries.retain(|entry| entry["number"].as_u64().is_none_or(|it| it > after));
        Ok(entries)
    }

    /// What happened to a guest lately, or to all guests and hosts, the latest first.
    ///
    /// # Errors
    ///
    /// As [`Operator::ask`].
    pub fn latest(&self, vm: Option<&str>) -> Result<Vec<Entry>> {
        let asked = self.ask(Operation::History {
            vm: vm.map(name),
            before: None,
        })?;
        match asked {
            Answer::History { entries, .. } => Ok(entries),
            other => Err(unexpected("the journal", &other)),
        }
    }

    /// What happened to a guest lately, the latest first, a line each.
    ///
    /// # Errors
    ///
    /// As [`Operator::ask`].
    pub fn history(&self, vm: &str) -> Result<String> {
        let entries = self.latest(Some(vm))?;
        let lines = entries
            .iter()
            .map(|entry| format!("{} {:?}\n", entry.unix_ms, entry.what));
        Ok(lines.collect())
    }
}

/// A guest as it is defined, with images as they are on this host.
fn definition(guest: &Guest, host: &Host) -> Result<Definition> {
    let image = |name: &str| -> Result<Image> {
        let path = host.image(name);
        let told = host.check(&["sha256sum", &path])?;
        let sum = told.split_whitespace().next().unwrap_or_default();
        let sha256 = sum.parse().map_err(|error| Error::Refused {
            host: host.name().to_owned(),
            reason: format!("{path}: {error}: {told}"),
        })?;
        Ok(Image { path, sha256 })
    };
    let option = |name: &str| {
        let mut options = guest.options.iter().skip_while(|option| *option != name);
        options.nth(1)
    };
    let disk = option("--disk").cloned();
    let export = disk
        .as_ref()
        .and_then(|uri| uri.rsplit('/').next()?.parse().ok());
    Ok(Definition {
        vm: name(&guest.name),
        memory_mib: option("--memory")
            .and_then(|mib| mib.parse().ok())
            .unwrap_or(MEMORY_MIB),
        kernel: image(&guest.kernel)?,
        initrd: Some(image(&guest.initrd)?),
        append: guest.words.clone(),
        mac: option("--mac").cloned().unwrap_or_else(usual_mac),
        clock: "kvm-clock".to_owned(),
        disk,
        export,
        heartbeat_timeout_ms: None,
        lag: LAG,
        hosts: NamedHosts::default(),
    })
}

/// What `ftvm` printed, told this.
fn values(words: &[&str], printed: &str) -> Result<Vec<Value>> {
    let values: serde_json::Result<_> = printed.lines().map(serde_json::from_str).collect();
    values.map_err(|error| Error::Wrong {
        what: format!("`ftvm {}` does not print JSON: {error}", words.join(" ")),
        seen: printed.to_owned(),
    })
}

fn usual_mac() -> String {
    GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":")
}

fn name(vm: &str) -> VmName {
    vm.parse().expect("a guest's name")
}

fn unexpected(what: &str, answer: &impl Debug) -> Error {
    Error::Client {
        what: what.to_owned(),
        trouble: format!("the answer is something else: {answer:?}"),
    }
}
