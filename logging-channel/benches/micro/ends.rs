//! The two ends of a session over loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use logging_channel::entry::{Entry, Lsn};
use logging_channel::handshake::Title;
use logging_channel::receiver::{Next, Receiver};
use logging_channel::sender::{Commit, Sender};
use logging_channel::session::{Admission, Confirmation, Listener};
use logging_channel::{CheckOutcome, HostCheck, HostReport, Identity, Settings};
use transport::Endpoint;

/// More than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

const EPOCH: u64 = 7;
const BACKUP: &str = "hostb/77aa";
static NEVER: AtomicBool = AtomicBool::new(false);

/// Both ends. The backup takes each entry as it comes, and says that it has executed it.
pub(crate) struct Ends {
    pub(crate) sender: Sender,
    _listener: Listener,
}

impl Ends {
    /// A session. What a thread does that must not be late is not measured: nobody is lost to it.
    pub(crate) fn new() -> Self {
        let settings = Settings {
            heartbeat_timeout: LONG,
            max_lag: LONG,
            ..Settings::default()
        };
        let anywhere: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let endpoint = Endpoint::plain();
        let mut listener = Listener::bind(anywhere, &endpoint).expect("a free port");
        let address = listener.local_addr();
        let backup_settings = settings.clone();
        let backup = thread::spawn(move || {
            Receiver::connect(
                (address, &endpoint),
                (&identity(), BACKUP),
                &host(),
                &backup_settings,
                Instant::now() + LONG,
                &NEVER,
                |_, _| Confirmation::Held,
            )
        });
        let title = |_: Option<&_>| {
            Ok(Title {
                epoch: EPOCH,
                holder: "hosta/1f0c".into(),
            })
        };
        let admit = |_: &str, _: Option<&_>| Admission::Admitted(EPOCH + 1);
        let sender = listener
            .accept_backup(&identity(), &host(), title, &settings, None, admit)
            .expect("a backup");
        let mut receiver = backup.join().expect("no panic").expect("a session");
        thread::spawn(move || {
            while let Next::Entry(lsn, _) = receiver.next(LONG) {
                receiver.executed(lsn);
            }
        });
        Self {
            sender,
            _listener: listener,
        }
    }

    /// Appends all of them, and waits until the backup has the last one.
    pub(crate) fn send(&self, entries: Vec<Entry>) {
        let mut last = Lsn::default();
        for entry in entries {
            last = self.sender.append(entry);
        }
        self.sender.flush();
        let commit = self.sender.wait_committed(last, LONG);
        assert!(matches!(commit, Commit::Committed), "{commit:?}");
    }
}

fn identity() -> Identity {
    Identity {
        vm: "bench".into(),
        image: [0x12; 32],
        cpu: [0x34; 32],
        memory_bytes: 128 << 20,
        tsc_khz: 2_000_000,
        arbiter: Some(1),
        disk: None,
    }
}

fn host() -> HostReport {
    HostReport::new([HostCheck {
        name: "exits".into(),
        outcome: CheckOutcome::Passed,
        required: true,
        measured: String::new(),
    }])
}
