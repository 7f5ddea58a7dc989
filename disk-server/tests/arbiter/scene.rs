//! A disk server with keys, and who asks it.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use disk_server::arbiter::{Arbiter, Claim, ClaimError, Next, Settings, VmName};
use disk_server::fleet::Operation;
use disk_server::nbd::client::{self, ConnectError};
use disk_server::views::Text;
use transport::{Endpoint, Key, KeySet, Peer, Role as KeyRole, key_set, sign};

use crate::fleet::definition;
use crate::support::{GENEROUS, Process};

/// A disk server with the disk of `db`, and everybody's keys.
pub(crate) struct Scene {
    pub(crate) server: Process,
    pub(crate) keys: KeySet,
    /// The certificate of who has signed the server's.
    authority: String,
    pub(crate) directory: tempfile::TempDir,
}

impl Scene {
    pub(crate) fn start() -> Scene {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(options: &[&str]) -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let members = [
            (KeyRole::DiskServer, "ds"),
            (KeyRole::DiskServer, "other"),
            (KeyRole::Host, "a"),
            (KeyRole::Host, "b"),
            (KeyRole::Host, "c"),
            (KeyRole::Operator, "anna"),
            (KeyRole::Monitor, "prometheus"),
        ];
        let keys = key_set(directory.path(), &members).unwrap();
        Self::serve(directory, keys, ("ds", "127.0.0.1:0"), options)
    }

    /// With the key of `server`, at an address.
    fn serve(
        directory: tempfile::TempDir,
        keys: KeySet,
        (server, listen): (&str, &str),
        options: &[&str],
    ) -> Scene {
        let authority = signed_as_localhost(&keys.key("ds"));
        let image = directory.path().join("disk.img");
        fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_disk-server"));
        command
            .args(["--listen", listen, "--nbd-listen", "127.0.0.1:0"])
            .arg("--key")
            .arg(keys.key(server))
            .arg("--trust")
            .arg(keys.trust())
            .arg("--state")
            .arg(directory.path().join("state"))
            .arg(format!("--export=disk={},vm=db", image.display()))
            .args(options)
            .stdin(std::process::Stdio::null())
            .stderr(fs::File::create(directory.path().join("log")).unwrap());
        let server = Process::start_with(&mut command);
        Scene {
            server,
            keys,
            authority,
            directory,
        }
    }

    /// The server is killed. Another one with the key of `server` is started on its state, at its address.
    pub(crate) fn again(self, server: &str, change: impl FnOnce(&Path)) -> Scene {
        let listen = self.server.address.to_string();
        drop(self.server);
        change(&self.directory.path().join("state"));
        Self::serve(self.directory, self.keys, (server, &listen), &[])
    }

    pub(crate) fn endpoint(&self, name: &str) -> Endpoint {
        Endpoint::read(&self.keys.key(name), &self.keys.trust()).unwrap()
    }

    pub(crate) fn arbiter_as(&self, endpoint: Endpoint) -> Arbiter {
        Arbiter::new(self.server.address.into(), endpoint, Settings::default())
    }

    pub(crate) fn arbiter(&self, name: &str) -> Arbiter {
        self.arbiter_as(self.endpoint(name))
    }

    /// A directory as libnbd wants it.
    pub(crate) fn pki(&self, name: &str, directory: &Path) {
        fs::create_dir_all(directory).unwrap();
        let key = Key::read(&self.keys.key(name)).unwrap();
        fs::copy(self.keys.key(name), directory.join("client-key.pem")).unwrap();
        fs::write(directory.join("client-cert.pem"), key.certificates()).unwrap();
        fs::write(directory.join("ca-cert.pem"), &self.authority).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Opens an export as this one.
    pub(crate) fn open(
        &self,
        name: &str,
        export: &str,
    ) -> Result<client::Connection, ConnectError> {
        let address = self.server.nbd.unwrap().into();
        client::connect(&address, export, &self.endpoint(name), GENEROUS)
    }
}

/// Has an authority sign a key, for programs that go by an address. The authority's certificate.
fn signed_as_localhost(key: &Path) -> String {
    let own = Key::read(key).unwrap().certificates();
    let peer = Peer {
        name: "localhost".into(),
        role: KeyRole::DiskServer,
    };
    let signed = sign(&Key::generate().unwrap(), &peer, &own).unwrap();
    fs::write(key.with_extension("crt"), &signed).unwrap();
    let end = "-----END CERTIFICATE-----\n";
    signed.split_inclusive(end).nth(1).unwrap().to_owned()
}

pub(crate) fn vm() -> VmName {
    "db".parse().unwrap()
}

/// One attempt: who waits for better times does so no longer.
pub(crate) fn claim(
    arbiter: &Arbiter,
    claimant: &str,
    epoch: u64,
    next: Next,
) -> Result<Claim, String> {
    let cancel = AtomicBool::new(false);
    let mut reason = String::new();
    let claimant = claimant.parse().unwrap();
    let claimed = arbiter.claim(&vm(), epoch, (&claimant, next), &cancel, |why| {
        reason = why.to_string();
        cancel.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    claimed.map_err(|error| match error {
        ClaimError::Cancelled => reason,
        other => other.to_string(),
    })
}

pub(crate) fn define(scene: &Scene, hosts: &[&str]) {
    (scene.arbiter("anna").operate(definition_for(hosts))).unwrap();
}

pub(crate) fn definition_for(hosts: &[&str]) -> Operation {
    let mut definition = definition();
    definition.hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    Operation::Define {
        definition: Box::new(definition),
        by: Text::cut("root@nowhere"),
    }
}
