//! A disk server with keys: who is let in, and who is not any more.

use std::fs;
use std::net::TcpStream;

use disk_server::arbiter::{Arbiter, CallError, Claim, Next, Settings};
use disk_server::nbd::client;
use transport::{ConnectionError, Endpoint};

use crate::scene::{Scene, claim, define, vm};
use crate::support::{GENEROUS, Process, until};

#[test]
fn who_is_not_listed_any_more_loses_its_connections_at_once() {
    let scene = Scene::start();
    define(&scene, &["a"]);
    let a = scene.arbiter("a");
    assert_eq!(
        claim(&a, "a/1", 0, Next::Start),
        Ok(Claim::Won { epoch: 1 })
    );
    let mut disk = scene.open("a", "disk@db:1").unwrap();
    let trust = fs::read_to_string(scene.keys.trust()).unwrap();
    let without: String = trust
        .lines()
        .filter(|line| !line.starts_with("\"a\""))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(trust, without);
    // Nobody reads half of it.
    let new = scene.directory.path().join("new");
    fs::write(&new, without).unwrap();
    fs::rename(new, scene.keys.trust()).unwrap();
    assert!(
        disk.replies.next_reply().is_err(),
        "the disk's connection ends"
    );
    until("it is not let in", || {
        let read = scene.arbiter("a").read(&vm());
        let unopened = |error: &ConnectionError| matches!(error, ConnectionError::NotListed(_));
        matches!(&read, Err(CallError::Unopened { source, .. }) if unopened(source))
    });
    assert!(a.read(&vm()).is_err(), "nor on a connection of before");
    scene.arbiter("b").read(&vm()).unwrap();
}

#[test]
fn plain_and_secure_tell_each_other_what_they_are() {
    let scene = Scene::start();
    let plain = scene.arbiter_as(Endpoint::plain()).read(&vm());
    let Err(CallError::Unopened { source, .. }) = plain else {
        panic!("{plain:?}");
    };
    assert!(matches!(source, ConnectionError::PeerIsSecure), "{source}");
    let disk = client::connect(
        &scene.server.nbd.unwrap().into(),
        "disk",
        &Endpoint::plain(),
        GENEROUS,
    );
    let told = disk.unwrap_err().to_string();
    assert!(told.contains("asks for TLS"), "{told}");
    until("the log has it", || {
        scene.log().contains("is not let in: it is plain")
    });

    let directory = tempfile::tempdir().unwrap();
    let server = Process::start("127.0.0.1:0", directory.path());
    let settings = Settings::default();
    let secure = Arbiter::new(server.address.into(), scene.endpoint("a"), settings).read(&vm());
    let Err(CallError::Unopened { source, .. }) = secure else {
        panic!("{secure:?}");
    };
    assert!(matches!(source, ConnectionError::PeerIsPlain), "{source}");
}

/// Somebody without a key who opens more connections than there are places.
#[test]
fn strangers_take_no_places_of_those_that_are_known() {
    let scene = Scene::start_with(&["--max-connections", "4"]);
    define(&scene, &["a"]);
    let [arbiter, nbd] = [scene.server.address, scene.server.nbd.unwrap()];
    let flood: Vec<_> = (0..200)
        .map(|n| TcpStream::connect(if n % 2 == 0 { arbiter } else { nbd }))
        .collect();
    // At the first attempt. This is the latest of that address; what came before goes.
    scene.arbiter("a").read(&vm()).unwrap();
    let disk = scene.open("a", "disk").unwrap();
    drop((flood, disk));
}

/// Its number is no secret: who is listed as another disk server may know it.
#[test]
fn another_disk_server_does_not_pass_for_the_one_that_answered_before() {
    let scene = Scene::start();
    let a = scene.arbiter("a");
    a.read(&vm()).unwrap();
    let scene = scene.again("other", |_| {});
    let told = a.read(&vm());
    assert!(
        matches!(told, Err(CallError::OtherServer { .. })),
        "{told:?}"
    );
    let _back = scene.again("ds", |_| {});
    a.read(&vm()).unwrap();
}

/// With another program's TLS, which looks at the server's certificate, too.
#[test]
fn nbdinfo_with_a_listed_key_sees_the_exports() {
    let scene = Scene::start();
    let port = scene.server.nbd.unwrap().port();
    let info = |name: &str, options: &[&str]| {
        let certificates = scene.directory.path().join(format!("pki-{name}"));
        scene.pki(name, &certificates);
        let directory = certificates.display();
        let uri = format!("nbds://localhost:{port}/disk?tls-certificates={directory}");
        let output = std::process::Command::new("nbdinfo")
            .args(options)
            .arg(&uri)
            .output()
            .unwrap();
        let [out, err] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
        (output.status.success(), format!("{out}{err}"))
    };
    let (is_well, told) = info("anna", &[]);
    assert!(is_well && told.contains("export-size: 1048576"), "{told}");
    let (is_well, told) = info("prometheus", &["--list"]);
    assert!(is_well && told.contains("export=\"disk\""), "{told}");
}

/// Somebody who asks for TLS and goes on in clear behind it.
#[test]
fn what_comes_in_clear_behind_the_wish_for_tls_is_not_taken() {
    use std::io::{Read as _, Write as _};
    let scene = Scene::start();
    let mut socket = std::net::TcpStream::connect(scene.server.nbd.unwrap()).unwrap();
    socket.set_read_timeout(Some(GENEROUS)).unwrap();
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting).unwrap();
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    // STARTTLS, and LIST at once.
    for option in [5_u32, 3] {
        bytes.extend(b"IHAVEOPT");
        bytes.extend(option.to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
    }
    socket.write_all(&bytes).unwrap();
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{rest:?}");
    until("the log has it", || {
        scene.log().contains("went on in clear")
    });
}
