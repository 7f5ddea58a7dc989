//! The disk service with the server that it is made for: the fence, and the rights of epochs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use disk_server::arbiter::{Arbiter, Claim, Next, Settings};
use disk_server::export::ExportSpec;
use disk_server::server::{Config, Limits, NbdConfig, Server, StopHandle};
use ftvm_vmm::disk::guest_disk::GuestDisk;
use ftvm_vmm::disk::progress::Reached;
use ftvm_vmm::disk::serving::Serving;
use ftvm_vmm::disk::{DiskCompletion, DiskOp, DiskPort, DiskRequest, SharedDisk, SharedRead};
use ftvm_vmm::events::Events;
use transport::Endpoint;

use crate::world::{Log, is_of_request, quick};

const SIZE: u64 = 1 << 20;

struct RealServer {
    arbiter: Arbiter,
    disk: String,
    stop: StopHandle,
    serving: Option<thread::JoinHandle<()>>,
}

impl RealServer {
    fn start(folder: &Path) -> Self {
        let image = folder.join("disk.raw");
        std::fs::write(&image, vec![0; SIZE as usize]).unwrap();
        let spec: ExportSpec = format!("disk={},vm=db", image.display()).parse().unwrap();
        let nbd = NbdConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            exports: vec![spec.open().unwrap()],
        };
        let server = Server::bind(Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            state: folder.join("state"),
            endpoint: Endpoint::plain(),
            nbd: Some(nbd),
            metrics: None,
            limits: Limits::default(),
        })
        .unwrap();
        let arbiter = Arbiter::new(
            server.local_addr().into(),
            Endpoint::plain(),
            Settings::default(),
        );
        let disk = format!("nbd://{}/disk", server.nbd_addr().unwrap());
        let stop = server.stop_handle();
        let serving = thread::spawn(move || server.run().unwrap());
        Self {
            arbiter,
            disk,
            stop,
            serving: Some(serving),
        }
    }

    fn claim(&self, expected: u64, claimant: &str) {
        let claim = self.arbiter.claim(
            &"db".parse().unwrap(),
            expected,
            (&claimant.parse().unwrap(), Next::Start),
            &AtomicBool::new(false),
            |_| {},
        );
        let epoch = expected + 1;
        assert_eq!(claim.unwrap(), Claim::Won { epoch });
    }

    fn open(&self) -> GuestDisk {
        GuestDisk::open(
            &self.disk.parse().unwrap(),
            "db",
            &Endpoint::plain(),
            quick(),
        )
        .unwrap()
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(serving) = self.serving.take() {
            serving.join().unwrap();
        }
    }
}

fn write(id: u64, byte: u8) -> DiskRequest {
    let op = DiskOp::Write {
        offset: 4096,
        data: vec![byte; 512],
    };
    DiskRequest { id, op }
}

#[test]
fn an_epoch_that_is_over_writes_nothing_and_its_guest_sees_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = RealServer::start(folder.path());
    let disk = server.open();
    assert_eq!(disk.capacity(), SIZE);
    let name = disk.identity().name;
    assert!(name.ends_with("/disk"), "{name:?}");
    assert_eq!(server.open().identity().name, name);
    disk.require_writable().unwrap();
    server.claim(0, "host-a");
    disk.require_writer(1).unwrap();
    assert!(disk.require_writer(2).is_err(), "nobody has won that yet");

    let serve = |epoch, log: Option<&Log>| {
        let (complete, done) = crossbeam_channel::unbounded();
        let serving = Serving {
            epoch: Some(epoch),
            log: log.map(|log| Arc::new(log.clone()) as Arc<_>),
            ..Serving::default()
        };
        let service = disk.serve(serving, &Events::default(), move |completion| {
            complete.send(completion).unwrap_or(());
        });
        (service, done)
    };
    let next = |completions: &crossbeam_channel::Receiver<DiskCompletion>| {
        loop {
            let completion = completions.recv_timeout(crate::world::PATIENCE).unwrap();
            assert_eq!(completion.result, Ok(Vec::new()));
            if is_of_request(&completion) {
                return completion.id;
            }
        }
    };
    let verdict = Log::new();
    let (mut first, first_done) = serve(1, Some(&verdict));
    first.submit(write(1, 1), None);
    assert_eq!(next(&first_done), 1);

    server.claim(1, "host-b");
    let (mut second, second_done) = serve(2, None);
    second.submit(write(1, 2), None);
    assert_eq!(next(&second_done), 1);
    first.submit(write(2, 3), None);
    second.submit(write(2, 4), None);
    assert_eq!(next(&second_done), 2);

    let all = SharedRead {
        id: 1,
        offset: 4096,
        len: 512,
    };
    let found = || match disk.reader().read(all, &[]) {
        Ok(data) => data,
        Err(_) => panic!("it waits until it can read"),
    };
    assert_eq!(found(), [4; 512]);
    assert!(!first_done.try_iter().any(|done| is_of_request(&done)));
    verdict.set(Reached::Never);
    drop(first);
    assert!(disk.require_writer(1).is_err());
    assert_eq!(found(), [4; 512]);
}
