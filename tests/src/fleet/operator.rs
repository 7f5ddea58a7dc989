//! What an operator asks of the service.

use std::fmt::Debug;
use std::time::Duration;

use disk_server::arbiter::{Arbiter, ServerAddress, Settings, VmName};
use disk_server::fleet::{
    Answer, Definition, Image, LagBounds, NamedHosts, Operation, State, Verb, VmStatus,
};
use disk_server::views::Text;
use transport::Endpoint;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::keys::Keys;
use crate::netns::Namespace;
use crate::network::GUEST_MAC;
use crate::pair::{DiskServer, Guest};
use crate::testbed::Testbed;
use crate::wait::wait_until;

/// The memory of a guest that does not say how much it has, in MiB.
const MEMORY_MIB: u64 = 128;

/// Somebody at the disk server's place in the network.
#[derive(Debug)]
pub struct Operator {
    place: Namespace,
    service: ServerAddress,
    endpoint: Endpoint,
}

impl Operator {
    /// Of this service.
    ///
    /// # Panics
    ///
    /// When the service's address is none.
    #[must_use]
    pub fn new(testbed: &Testbed, service: &DiskServer) -> Self {
        Self {
            place: testbed.disk().namespace().clone(),
            service: service.address().parse().expect("a disk server has one"),
            endpoint: (testbed.keys()).map_or_else(Endpoint::plain, Keys::operator),
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
        let asked = self.place.within(|| arbiter.operate(operation));
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
        let mut definition = Box::new(definition(guest, host)?);
        definition.heartbeat_timeout_ms = u64::try_from(heartbeat_timeout.as_millis()).ok();
        let by = by();
        self.ask(Operation::Define { definition, by }).map(drop)
    }

    /// Has a guest run.
    ///
    /// # Errors
    ///
    /// As [`Operator::ask`].
    pub fn start(&self, vm: &str) -> Result<()> {
        self.order(vm, Verb::Start { force: false })
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
        let (vm, by) = (name(vm), by());
        self.ask(Operation::Undefine { vm, by }).map(drop)
    }

    /// Has something done with a guest.
    ///
    /// # Errors
    ///
    /// As [`Operator::ask`].
    pub fn order(&self, vm: &str, verb: Verb) -> Result<()> {
        let (vm, by) = (name(vm), by());
        self.ask(Operation::Guest { vm, verb, by }).map(drop)
    }

    /// How a guest is.
    ///
    /// # Errors
    ///
    /// As [`Operator::ask`].
    pub fn status(&self, vm: &str) -> Result<VmStatus> {
        match self.ask(Operation::Status { vm: name(vm) })? {
            Answer::Status(status) => Ok(*status),
            other => Err(unexpected(vm, &other)),
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

    /// What happened to a guest lately, the latest first.
    ///
    /// # Errors
    ///
    /// As [`Operator::ask`].
    pub fn history(&self, vm: &str) -> Result<String> {
        let asked = self.ask(Operation::History {
            vm: Some(name(vm)),
            before: None,
        })?;
        match asked {
            Answer::History { entries, .. } => {
                let lines = entries
                    .iter()
                    .map(|entry| format!("{} {:?}\n", entry.unix_ms, entry.what));
                Ok(lines.collect())
            }
            other => Err(unexpected(vm, &other)),
        }
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
        mac: GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":"),
        clock: "kvm-clock".to_owned(),
        disk,
        export,
        heartbeat_timeout_ms: None,
        lag: LagBounds::default(),
        hosts: NamedHosts::default(),
    })
}

fn name(vm: &str) -> VmName {
    vm.parse().expect("a guest's name")
}

fn by() -> Text {
    Text::cut("testbed")
}

fn unexpected(vm: &str, answer: &impl Debug) -> Error {
    Error::Client {
        what: format!("the status of {vm}"),
        trouble: format!("the answer is something else: {answer:?}"),
    }
}
