//! Keys that an authority has signed, and certificates in general.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use transport::{ConnectionError, Endpoint, Key, Peer, Role, sign};

use crate::members::{Members, endpoint, open, talk};

/// A key in `folder` that the authority there says is the host `name`'s.
fn signed(folder: &Path, authority: &str, name: &str) -> PathBuf {
    signed_as(folder, authority, (Role::Host, name))
}

fn signed_as(folder: &Path, authority: &str, (role, name): (Role, &str)) -> PathBuf {
    let path = folder.join(format!("{}-{name}-by-{authority}.pem", role.word()));
    let key = Key::create(&path).expect("a key");
    let authority = Key::read(&folder.join(authority)).expect("a key");
    let name = name.to_owned();
    let certificates = sign(&authority, &Peer { name, role }, &key.certificates()).expect("signed");
    fs::write(path.with_extension("crt"), certificates).expect("a file");
    path
}

/// The members, who trust an authority for c and d besides.
fn with_authority() -> Members {
    let members = Members::new();
    for name in ["authority.pem", "another.pem"] {
        Key::create(&members.folder.path().join(name)).expect("a key");
    }
    let authority = Key::read(&members.folder.path().join("authority.pem")).expect("a key");
    let list = fs::read_to_string(members.set.trust()).expect("the list");
    let list = list.replace("[hosts]", "[hosts]\nc = \"signed\"\nd = \"signed\"");
    let list = format!("authority = \"{}\"\n{list}", authority.fingerprint());
    fs::write(members.set.trust(), list).expect("a file");
    members
}

fn by(members: &Members, authority: &str, name: &str) -> Endpoint {
    let key = signed(members.folder.path(), authority, name);
    endpoint(&key, &members.set.trust())
}

#[test]
fn who_is_signed_is_known_on_either_side() {
    let members = with_authority();
    let (a, c, d) = (
        members.endpoint("a"),
        by(&members, "authority.pem", "c"),
        by(&members, "authority.pem", "d"),
    );
    for (caller, answerer, names) in [
        (&a, &c, ["c", "a"]),
        (&c, &a, ["a", "c"]),
        (&c, &d, ["d", "c"]),
    ] {
        let (called, answered) = open(caller, answerer);
        let (called, answered) = (called.expect("open"), answered.expect("open"));
        let found = [&called, &answered].map(|end| end.peer().expect("known").name.as_str());
        assert_eq!(found, names);
        talk(&called, &answered, b"a word");
    }
}

#[test]
fn another_authority_or_another_name_is_none() {
    let members = with_authority();
    let a = members.endpoint("a");
    for stranger in [
        by(&members, "another.pem", "c"),
        by(&members, "authority.pem", "e"),
        // It is known by its own key alone.
        by(&members, "authority.pem", "b"),
    ] {
        let (_, answered) = open(&stranger, &a);
        assert!(
            matches!(answered, Err(ConnectionError::UnknownKey(_))),
            "{answered:?}"
        );
        let (called, _) = open(&a, &stranger);
        assert!(
            matches!(called, Err(ConnectionError::UnknownKey(_))),
            "{called:?}"
        );
    }
}

#[test]
fn who_is_signed_as_one_thing_is_no_other() {
    let members = with_authority();
    let as_monitor = (Role::Monitor, "c");
    let key = signed_as(members.folder.path(), "authority.pem", as_monitor);
    let a = members.endpoint("a");
    let (_, answered) = open(&endpoint(&key, &members.set.trust()), &a);
    assert!(
        matches!(answered, Err(ConnectionError::UnknownKey(_))),
        "{answered:?}"
    );
}

/// It shows the authority's certificate behind one that it has made itself.
#[test]
fn a_chain_that_does_not_hold_is_none() {
    let members = with_authority();
    let real = signed(members.folder.path(), "authority.pem", "c").with_extension("crt");
    let forged = signed(members.folder.path(), "another.pem", "c");
    let chain = |path: &Path| -> Vec<String> {
        let text = fs::read_to_string(path).expect("certificates");
        let blocks = text.split_inclusive("-----END CERTIFICATE-----\n");
        blocks.map(str::to_owned).collect()
    };
    let beside = forged.with_extension("crt");
    let shown = format!("{}{}", chain(&beside)[0], chain(&real)[1]);
    fs::write(&beside, shown).expect("a file");
    let (_, answered) = open(
        &endpoint(&forged, &members.set.trust()),
        &members.endpoint("a"),
    );
    assert!(
        matches!(answered, Err(ConnectionError::UnknownKey(_))),
        "{answered:?}"
    );
}

#[test]
fn who_is_signed_and_taken_from_the_list_is_nobody() {
    let members = with_authority();
    let (a, c) = (members.endpoint("a"), by(&members, "authority.pem", "c"));
    let (called, answered) = open(&c, &a);
    let (_called, answered) = (called.expect("open"), answered.expect("open"));
    let list = fs::read_to_string(members.set.trust()).expect("the list");
    fs::write(members.set.trust(), list.replace("c = \"signed\"\n", "")).expect("a file");
    std::io::Read::read(&mut &answered, &mut [0]).expect_err("it has ended");
    let (_, answered) = open(&c, &a);
    assert!(
        matches!(answered, Err(ConnectionError::UnknownKey(_))),
        "{answered:?}"
    );
}

/// So does a clock that is a century off.
#[test]
fn a_certificate_s_period_keeps_nobody_out() {
    for (from, to) in [(1980, 1981), (2300, 2301)] {
        let members = Members::new();
        let path = members.set.key("a");
        let pem = fs::read_to_string(&path).expect("a key");
        let pair = KeyPair::from_pem(&pem).expect("a key");
        let mut params = CertificateParams::new([]).expect("no names");
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        let certificate = params.self_signed(&pair).expect("a certificate");
        fs::write(path.with_extension("crt"), certificate.pem()).expect("a file");
        let (called, answered) = open(&members.endpoint("a"), &members.endpoint("b"));
        talk(&called.expect("open"), &answered.expect("open"), b"a word");
    }
}

#[test]
fn what_cannot_be_signed_is_named() {
    let folder = tempfile::tempdir().expect("a directory");
    let authority = Key::create(&folder.path().join("authority.pem")).expect("a key");
    let certificate = Key::generate().expect("a key").certificates();
    let error = |name: &str, certificate: &str| {
        let peer = Peer {
            name: name.to_owned(),
            role: Role::Host,
        };
        let signed = sign(&authority, &peer, certificate);
        signed.expect_err("it cannot be").to_string()
    };
    assert!(error("two words", &certificate).contains("two words"));
    assert!(error("c", "nothing").contains("ftvm key show"));
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let other = CertificateParams::new([])
        .expect("no names")
        .self_signed(&other);
    let other = other.expect("a certificate").pem();
    assert!(error("c", &other).contains("Ed25519"));
}
