//! What happens while an export is opened.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use transport::{Peer, Role, Stream};

use super::*;
use crate::arbiter::{EpochStore, HostName, VmName};
use crate::ending::{Ending, StopHandle};
use crate::export::ExportSpec;
use crate::fence::{Fence, FencedStore};
use crate::policy::Definitions;
use crate::state::StateDirectory;

const GENEROUS: Duration = Duration::from_secs(60);

/// A guest that every host may run. Whenever that is asked, the host a has just won its first epoch.
struct WonMeanwhile(Arc<Fence>);

impl Definitions for WonMeanwhile {
    fn names(&self, _: &VmName, _: &HostName) -> Option<bool> {
        let a = "a/1".parse().unwrap();
        self.0.advance(1, &a, WaitLimit::of(GENEROUS)).unwrap();
        Some(true)
    }

    fn generation(&self) -> u64 {
        0
    }
}

#[test]
fn an_epoch_that_another_host_wins_meanwhile_is_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.img");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let state = StateDirectory::open(&directory.path().join("state")).unwrap();
    let mut store = FencedStore::new(EpochStore::open(&state).unwrap());
    let fence = store.fence(&"db".parse().unwrap());
    let spec: ExportSpec = format!("disk={},vm=db", image.display()).parse().unwrap();
    let ending = Ending::new(StopHandle::new(UnixStream::pair().unwrap().0));
    let exports = Exports::new(vec![spec.open().unwrap()], &mut store, &ending).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = Stream::plain(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    let guard = Guard::new(Arc::new(WonMeanwhile(fence)));
    let open = |host: &str| {
        let negotiation = Negotiation {
            outgoing: &Outgoing::new(&stream, GENEROUS),
            offer: Offer {
                exports: &exports,
                guard: &guard,
                caller: &Caller::Known(Peer {
                    name: host.to_owned(),
                    role: Role::Host,
                }),
                from: "a test",
            },
            limit: WaitLimit::of(GENEROUS),
            structured: false,
            context_of: None,
        };
        let opened = negotiation.open("disk@db:1", OptionType::Go);
        opened.map(drop).map_err(|error| error.message)
    };
    let told = open("b").unwrap_err();
    assert!(told.contains("a/1 runs db, and not b"), "{told}");
    assert_eq!(open("a"), Ok(()));
}
