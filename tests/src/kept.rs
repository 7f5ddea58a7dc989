//! Hosts that stay when the command that started them ends, for development:
//! `cargo xtask host --keep` and `cargo xtask exec`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use guest_images::files;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host_kind::HostKind;
use crate::layout::Layout;
use crate::network::Fabric;
use crate::paging::Paging;
use crate::plan::{HostSize, Plan};
use crate::qemu::ProcessId;

/// The hosts that stay, all on the same networks.
#[derive(Debug)]
pub struct KeptHosts {
    layout: Layout,
    fabric: Arc<Fabric>,
}

/// What is remembered of a host.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    name: String,
    number: u8,
    process: ProcessId,
}

impl KeptHosts {
    /// Those of this checkout, if there are any.
    #[must_use]
    pub fn find() -> Self {
        let layout = Layout::find();
        let fabric = Arc::new(Fabric::lasting(&id(layout.root())));
        Self { layout, fabric }
    }

    /// Their networks.
    #[must_use]
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// Starts a host of this paging and waits until it is up. The networks are made if they are
    /// not there.
    ///
    /// # Errors
    ///
    /// When it runs already or does not boot.
    pub fn start(&self, name: &str, paging: Paging) -> Result<Host> {
        let running = self.records()?;
        if running.iter().any(|record| record.name == name) {
            return Err(Error::HostExists {
                host: name.to_owned(),
            });
        }
        self.fabric.ensure()?;
        // Links of a host that was killed from outside.
        let _ = self.fabric.unplug(name);
        let number = (1..)
            .find(|number| running.iter().all(|record| record.number != *number))
            .expect("few hosts");
        let logs = self.directory();
        let host = Host::start(&self.fabric, &self.plan(name, number, &logs))?;
        let record = Record {
            name: name.to_owned(),
            number,
            process: host.process(),
        };
        let path = self.path(name);
        let json = serde_json::to_vec(&record).expect("a record is plain data");
        files::write_atomically(&path, &json).map_err(|source| Error::File { path, source })?;
        host.wait_until_up(paging)?;
        Ok(host)
    }

    /// A running host.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn host(&self, name: &str) -> Result<Host> {
        self.hosts()?
            .into_iter()
            .find(|host| host.name() == name)
            .ok_or_else(|| Error::NoSuchHost {
                host: name.to_owned(),
            })
    }

    /// All running hosts.
    ///
    /// # Errors
    ///
    /// When the records cannot be read.
    pub fn hosts(&self) -> Result<Vec<Host>> {
        Ok(self
            .records()?
            .into_iter()
            .map(|record| {
                let Record {
                    name,
                    number,
                    process,
                } = record;
                let logs = self.directory();
                Host::attach(&self.fabric, process, &self.plan(&name, number, &logs))
            })
            .collect())
    }

    /// Kills a host.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn stop(&self, name: &str) -> Result<()> {
        self.host(name)?.kill();
        self.fabric.unplug(name)?;
        let path = self.path(name);
        fs::remove_file(&path).map_err(|source| Error::File { path, source })
    }

    /// Kills all hosts and removes their networks and logs.
    ///
    /// # Errors
    ///
    /// When something cannot be removed.
    pub fn stop_all(self) -> Result<()> {
        for mut host in self.hosts()? {
            host.kill();
        }
        self.fabric.remove()?;
        let directory = self.directory();
        match fs::remove_dir_all(&directory) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::File {
                path: directory,
                source,
            }),
            _ => Ok(()),
        }
    }

    fn plan<'a>(&'a self, name: &'a str, number: u8, logs: &'a Path) -> Plan<'a> {
        Plan {
            kind: HostKind::Qemu,
            name,
            number,
            fabric: &self.fabric,
            layout: &self.layout,
            size: HostSize::USUAL,
            processor: None,
            logs,
            stays: true,
        }
    }

    fn records(&self) -> Result<Vec<Record>> {
        let directory = self.directory();
        let failed = |source| Error::File {
            path: directory.clone(),
            source,
        };
        fs::create_dir_all(&directory).map_err(failed)?;
        let mut records = Vec::new();
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
                && let Some(record) = read(&path)
                && record.process.alive()
            {
                records.push(record);
            }
        }
        records.sort_by_key(|record| record.number);
        Ok(records)
    }

    fn directory(&self) -> PathBuf {
        self.layout.kept()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory().join(format!("{name}.json"))
    }
}

fn read(path: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Names the networks of a checkout's hosts: checkouts do not share them.
fn id(root: &Path) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    root.hash(&mut hasher);
    format!("kept{:04x}", hasher.finish() & 0xffff)
}
