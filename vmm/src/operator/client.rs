//! An operator's client of the service.

use disk_server::arbiter::{Arbiter, CallError, HostName, ServerAddress, Settings, VmName};
use disk_server::fleet::{
    Answer, Definition, Entry, HostVerb, Operation, OrderNumber, Verb, VmStatus,
};
use disk_server::views::{HostRecord, Text};
use transport::{Endpoint, configuration};

use super::hosts::{self, HostSummary};

/// Asks in the name of one operator.
#[derive(Debug)]
pub struct Client {
    arbiter: Arbiter,
    by: Text,
}

/// Why something that was asked for is not done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The service does not answer.
    #[error("service unreachable")]
    Unreachable(#[source] CallError),
    /// It is not as things are; why, as the service says it.
    #[error("{0}")]
    Refused(String),
    /// There is no such guest.
    #[error("no guest {vm}{}: `ftvm vm define FILE` makes one, `ftvm vm list` has all", did_you_mean(similar.as_ref()))]
    NoSuchGuest {
        /// The name.
        vm: VmName,
        /// One like it.
        similar: Option<VmName>,
    },
    /// The guest was started by hand.
    #[error(
        "{vm} was started by hand and takes no orders: end it there, and describe it with `ftvm vm define FILE`"
    )]
    ByHand {
        /// The guest.
        vm: VmName,
    },
    /// An answer that belongs to another question.
    #[error("the service's answer does not fit what was asked: is it of another version?")]
    Unfitting,
}

fn did_you_mean(similar: Option<&impl std::fmt::Display>) -> String {
    similar.map_or_else(String::new, |name| format!(" (did you mean {name}?)"))
}

impl Client {
    /// Of the service at `server`, with the key of `endpoint`. Nothing is connected yet. `by` is who asks, where
    /// there are no keys to tell that.
    #[must_use]
    pub fn new(server: ServerAddress, endpoint: Endpoint, by: Text) -> Self {
        Self {
            arbiter: Arbiter::new(server, endpoint, Settings::default()),
            by,
        }
    }

    /// Where the service is.
    #[must_use]
    pub fn address(&self) -> &ServerAddress {
        self.arbiter.address()
    }

    /// Whose key it has.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        self.arbiter.endpoint()
    }

    /// How a guest is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn status(&self, vm: &VmName) -> Result<VmStatus, ClientError> {
        let asked = self.ask(Operation::Status { vm: vm.clone() });
        match asked.map_err(|error| self.about_guest(vm, error))? {
            Answer::Status(status) => Ok(*status),
            _ => Err(ClientError::Unfitting),
        }
    }

    /// How all guests are, in the order of names.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn list(&self) -> Result<Vec<VmStatus>, ClientError> {
        let mut all: Vec<VmStatus> = Vec::new();
        loop {
            let after = all.last().map(|last| last.vm.clone());
            let Answer::Guests { vms, more } = self.ask(Operation::List {
                after: after.clone(),
            })?
            else {
                return Err(ClientError::Unfitting);
            };
            // Names ascend, or a service at fault could keep us here for ever.
            let names = || after.iter().chain(vms.iter().map(|status| &status.vm));
            if !names().is_sorted_by(|a, b| a < b) || (more && vms.is_empty()) {
                return Err(ClientError::Unfitting);
            }
            all.extend(vms);
            if !more {
                return Ok(all);
            }
        }
    }

    /// The hosts, with what `vms` has of them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn hosts(&self, vms: &[VmStatus]) -> Result<Vec<HostSummary>, ClientError> {
        let records: Vec<HostRecord> = self.arbiter.list_hosts().map_err(ClientError::from)?;
        Ok(hosts::summarise(&records, vms))
    }

    /// The latest entries of the journal that `wanted` takes, the latest first: of one guest or of all, until
    /// it takes no more.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn history(
        &self,
        vm: Option<&VmName>,
        mut wanted: impl FnMut(&Entry) -> bool,
    ) -> Result<Vec<Entry>, ClientError> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let before = all.last().map(|last| last.number);
            let operation = Operation::History {
                vm: vm.cloned(),
                before,
            };
            let asked = self.ask(operation);
            let asked = asked.map_err(|error| match vm {
                Some(vm) => self.about_guest(vm, error),
                None => error,
            });
            let Answer::History { entries, more } = asked? else {
                return Err(ClientError::Unfitting);
            };
            let numbers = || (before.into_iter()).chain(entries.iter().map(|entry| entry.number));
            if !numbers().is_sorted_by(|a, b| a > b) || (more && entries.is_empty()) {
                return Err(ClientError::Unfitting);
            }
            for entry in entries {
                if !wanted(&entry) {
                    return Ok(all);
                }
                all.push(entry);
            }
            if !more {
                return Ok(all);
            }
        }
    }

    /// How a guest was defined; `None` if it was not.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn definition(&self, vm: &VmName) -> Result<Option<Definition>, ClientError> {
        let asked = self.ask(Operation::Definition { vm: vm.clone() });
        match asked.map_err(|error| self.about_guest(vm, error)) {
            Ok(Answer::Definition(definition)) => Ok(Some(*definition)),
            Ok(_) => Err(ClientError::Unfitting),
            Err(ClientError::NoSuchGuest { .. } | ClientError::ByHand { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has a guest kept.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn define(&self, definition: Definition) -> Result<OrderNumber, ClientError> {
        accepted(self.ask(Operation::Define {
            definition: Box::new(definition),
            by: self.by.clone(),
        })?)
    }

    /// Has a guest kept no longer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn undefine(&self, vm: &VmName) -> Result<OrderNumber, ClientError> {
        let asked = self.ask(Operation::Undefine {
            vm: vm.clone(),
            by: self.by.clone(),
        });
        accepted(asked.map_err(|error| self.about_guest(vm, error))?)
    }

    /// Has this done with a guest.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn order_guest(&self, vm: &VmName, verb: Verb) -> Result<OrderNumber, ClientError> {
        let asked = self.ask(Operation::Guest {
            vm: vm.clone(),
            verb,
            by: self.by.clone(),
        });
        accepted(asked.map_err(|error| self.about_guest(vm, error))?)
    }

    /// Has this done with a host.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn order_host(&self, host: &HostName, verb: HostVerb) -> Result<OrderNumber, ClientError> {
        accepted(self.ask(Operation::Host {
            host: host.clone(),
            verb,
            by: self.by.clone(),
        })?)
    }

    /// Has this done with the host in whose name this asks.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn order_own_host(
        &self,
        host: &HostName,
        verb: HostVerb,
    ) -> Result<OrderNumber, ClientError> {
        let host = host.clone();
        accepted(self.ask(Operation::OwnHost { host, verb })?)
    }

    fn ask(&self, operation: Operation) -> Result<Answer, ClientError> {
        Ok(self.arbiter.operate(operation)?)
    }

    /// What was refused about a guest, in words that help where there is none of that name.
    fn about_guest(&self, vm: &VmName, error: ClientError) -> ClientError {
        if !matches!(error, ClientError::Refused(_)) {
            return error;
        }
        let Ok(vms) = self.list() else { return error };
        match vms.iter().find(|status| status.vm == *vm) {
            Some(status) if status.defined => error,
            Some(_) => ClientError::ByHand { vm: vm.clone() },
            None => {
                let names = vms.iter().map(|status| status.vm.as_str());
                let similar = configuration::similar(vm.as_str(), names);
                ClientError::NoSuchGuest {
                    vm: vm.clone(),
                    similar: similar.and_then(|name| name.parse().ok()),
                }
            }
        }
    }
}

fn accepted(answer: Answer) -> Result<OrderNumber, ClientError> {
    match answer {
        Answer::Accepted { order } => Ok(order),
        _ => Err(ClientError::Unfitting),
    }
}

impl From<CallError> for ClientError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused { message, .. } | CallError::Denied { message, .. } => {
                Self::Refused(message)
            }
            error => Self::Unreachable(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use disk_server::fleet::{Subject, What};

    use super::*;
    use crate::operator::fake::{guest, service};

    fn list(vms: Vec<VmStatus>) -> impl FnMut(Operation) -> Result<Answer, String> {
        move |operation| match operation {
            Operation::List { .. } => Ok(Answer::Guests {
                vms: vms.clone(),
                more: false,
            }),
            _ => Err("it is not as you think".into()),
        }
    }

    #[test]
    fn a_name_that_nobody_has_is_told_with_one_like_it() {
        let mut by_hand = guest("old", "a", "b");
        by_hand.defined = false;
        let vms = vec![guest("db", "a", "b"), by_hand];
        let client = service(vec![], list(vms));
        let told = |vm: &str| {
            let error = client.order_guest(&vm.parse().unwrap(), Verb::Stop {});
            error.unwrap_err().to_string()
        };
        assert_eq!(told("db"), "it is not as you think");
        let error = told("dbb");
        assert!(error.starts_with("no guest dbb (did you mean db?): `ftvm vm define FILE`"));
        assert!(told("queue").starts_with("no guest queue: "));
        assert!(told("old").contains("started by hand"));
        assert!(
            client
                .definition(&"queue".parse().unwrap())
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn lists_and_the_journal_come_in_pages() {
        let entry = |number| Entry {
            number,
            unix_ms: number,
            subject: Subject::Host("a".parse().unwrap()),
            what: What::Live {},
        };
        let client = service(vec![], move |operation| {
            Ok(match operation {
                Operation::List { after: None } => Answer::Guests {
                    vms: vec![guest("a", "h", "i")],
                    more: true,
                },
                Operation::List { after: Some(after) } => {
                    assert_eq!(after.as_str(), "a");
                    Answer::Guests {
                        vms: vec![guest("b", "h", "i")],
                        more: false,
                    }
                }
                Operation::History { before, .. } => {
                    let last = before.unwrap_or(10) - 1;
                    Answer::History {
                        entries: vec![entry(last), entry(last - 1)],
                        more: last > 2,
                    }
                }
                other => panic!("{other:?}"),
            })
        });
        assert_eq!(client.list().unwrap().len(), 2);
        let numbers = |since| {
            let entries = client.history(None, |entry| entry.number > since).unwrap();
            entries.iter().map(|entry| entry.number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(6), [9, 8, 7]);
        assert_eq!(numbers(0), [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    }
}
