//! Lists, which come in pages.

use super::Arbiter;
use crate::arbiter::connection::CallError;
use crate::arbiter::protocol::{ExportRecord, Request, Response, VmRecord};
use crate::views::HostRecord;

/// A page: what is in it, and whether there is more.
type Page<T> = (Vec<T>, bool);

impl Arbiter {
    /// All records, in the order of names.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn list(&self) -> Result<Vec<VmRecord>, CallError> {
        self.pages(
            |record: &VmRecord| record.vm.clone(),
            |after| Request::List { after },
            |response| match response {
                Response::Page { vms, more } => Ok((vms, more)),
                other => Err(other),
            },
        )
    }

    /// All exports, in the order of names; none if the server serves no disks.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn list_exports(&self) -> Result<Vec<ExportRecord>, CallError> {
        self.pages(
            |record: &ExportRecord| record.name.clone(),
            |after| Request::ListExports { after },
            |response| match response {
                Response::Exports { exports, more } => Ok((exports, more)),
                other => Err(other),
            },
        )
    }

    /// All hosts, in the order of names.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn list_hosts(&self) -> Result<Vec<HostRecord>, CallError> {
        self.pages(
            |record: &HostRecord| record.host.clone(),
            |after| Request::ListHosts { after },
            |response| match response {
                Response::Hosts { hosts, more } => Ok((hosts, more)),
                other => Err(other),
            },
        )
    }

    /// Asks for page after page. `page` gives an answer back that is none.
    fn pages<T, K: Ord>(
        &self,
        key: impl Fn(&T) -> K,
        ask: impl Fn(Option<K>) -> Request,
        page: impl Fn(Response) -> Result<Page<T>, Response>,
    ) -> Result<Vec<T>, CallError> {
        let mut all: Vec<T> = Vec::new();
        loop {
            let response = self.call(&ask(all.last().map(&key)), None)?;
            let (some, more) = page(response).map_err(|other| self.unexpected(&other))?;
            // Names must ascend, or a server at fault could keep us here for ever.
            let names = || all.last().into_iter().chain(&some).map(&key);
            if !names().is_sorted_by(|a, b| a < b) || (more && some.is_empty()) {
                return Err(CallError::NotAnArbiter {
                    address: self.address.clone(),
                    what: "its lists do not go on".into(),
                });
            }
            all.extend(some);
            if !more {
                return Ok(all);
            }
        }
    }
}
