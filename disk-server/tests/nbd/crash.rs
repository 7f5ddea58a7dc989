//! A server process that is killed while clients write and hosts claim.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use disk_server::arbiter::{Arbiter, Claim, Next, Settings, VmName};
use fastrand::Rng;
use transport::Endpoint;

use crate::client::Client;
use crate::ledger::{Promise, Region, SECTOR};
use crate::support::{Process, SetWhenDropped, command, until};

const CLIENTS: usize = 3;
const SECTORS: usize = 64;
const KILLS: usize = 25;

/// Claims epoch after epoch, and keeps the last that was won.
fn contend(arbiter: &Arbiter, won: &Mutex<u64>, done: &AtomicBool) {
    let vm: VmName = "db".parse().unwrap();
    let who = "host/1".parse().unwrap();
    let mut epoch = 0;
    while !done.load(Ordering::SeqCst) {
        match arbiter.claim(&vm, epoch, (&who, Next::Start), done, |_| ()) {
            Ok(Claim::Won { epoch: now }) => {
                assert_eq!(now, epoch + 1, "an epoch was passed over or given twice");
                epoch = now;
                *won.lock().unwrap() = now;
            }
            Ok(Claim::Lost { .. }) => panic!("nobody else claims"),
            Err(error) => assert!(done.load(Ordering::SeqCst), "{error}"),
        }
    }
}

#[test]
fn a_killed_server_loses_no_write_and_no_epoch() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.img");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len((CLIENTS * SECTORS * SECTOR) as u64).unwrap();
    let export = format!("disk={}", image.display());
    let start = |listen: &str, nbd: &str| {
        let mut command = command(listen, &directory.path().join("state"));
        command.args(["--nbd-listen", nbd, "--export", &export]);
        Process::start_with(&mut command)
    };
    // Clients connect from 127.0.0.1, so that none of them can be given these ports.
    let mut server = start("127.0.0.2:0", "127.0.0.2:0");
    let listen = server.address.to_string();
    let nbd = server.nbd.unwrap();
    let mut regions: Vec<Region> = (0..CLIENTS)
        .map(|n| Region::new((n * SECTORS) as u64, SECTORS))
        .collect();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    let won = Mutex::new(0);
    let done = AtomicBool::new(false);
    let mut interesting = 0;
    thread::scope(|scope| {
        let arbiter = Arbiter::new(
            server.address.into(),
            Endpoint::plain(),
            Settings::default(),
        );
        let (won, done) = (&won, &done);
        scope.spawn(move || contend(&arbiter, won, done));
        let _end = SetWhenDropped(done);
        for _ in 0..KILLS {
            let started = *won.lock().unwrap();
            thread::scope(|scope| {
                for region in &mut regions {
                    let mut random = random.fork();
                    let mut client = Client::open(nbd, "disk");
                    scope.spawn(move || {
                        // It ends when the server is killed.
                        let ended = region.work(&mut client, &mut random);
                        assert!(ended.is_err(), "the server failed a request");
                    });
                }
                until("an epoch is won", || *won.lock().unwrap() > started);
                thread::sleep(Duration::from_micros(random.u64(..20_000)));
                server.kill();
            });
            let answered = *won.lock().unwrap();
            server = start(&listen, &nbd.to_string());
            let record = server.arbiter().read(&"db".parse().unwrap()).unwrap();
            assert!(record.epoch >= answered, "{} < {answered}", record.epoch);
            for region in &mut regions {
                interesting += region.interesting();
                region.check(&mut Client::open(nbd, "disk"), Promise::Acknowledged);
            }
        }
    });
    assert!(interesting > 100, "it was never killed in between");
}
