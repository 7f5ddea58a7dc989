//! A disk server that is asked, and not heard.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use disk_server::arbiter::{HostName, ServerAddress};
use transport::Endpoint;

use crate::roles::claim::{ArbiterConfig, Force, Rights};

/// Stands between a host and its disk server, and keeps back what the server says.
pub(super) struct OneWay {
    address: ServerAddress,
    pub(super) muted: Arc<AtomicBool>,
    /// Bytes that came to the server.
    pub(super) asked: Arc<AtomicU64>,
}

impl OneWay {
    pub(super) fn to(server: &ServerAddress) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().into();
        let (muted, asked) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let one_way = Self {
            address,
            muted: Arc::clone(&muted),
            asked: Arc::clone(&asked),
        };
        let server = server.as_str().to_owned();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                let answers = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let (muted, asked) = (Arc::clone(&muted), Arc::clone(&asked));
                thread::spawn(move || {
                    pass_on(client, server, |bytes| {
                        asked.fetch_add(bytes as u64, Ordering::SeqCst);
                    });
                });
                thread::spawn(move || {
                    pass_on(answers.0, answers.1, |_| {
                        while muted.load(Ordering::SeqCst) {
                            thread::sleep(Duration::from_millis(1));
                        }
                    });
                });
            }
        });
        one_way
    }

    /// A host that reaches the disk server through it.
    pub(super) fn rights(&self) -> Arc<Rights> {
        let config = ArbiterConfig {
            server: self.address.clone(),
            endpoint: Endpoint::plain(),
            host: HostName::of_this_host(),
            force: Force::No,
        };
        Arc::new(Rights::new(&config, "db").unwrap())
    }
}

/// Passes on what comes, and says how much it was before the next is waited for.
fn pass_on(mut from: TcpStream, mut to: TcpStream, then: impl Fn(usize)) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        then(0);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
        then(count);
    }
    // One of them has gone already, if this fails.
    let _ = to.shutdown(Shutdown::Both);
}
