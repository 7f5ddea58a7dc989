//! The files of keys and of those who are trusted.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use transport::{Endpoint, Key, KeyError, TrustError};

use crate::members::{Members, open, talk};

#[test]
fn a_key_is_its_owner_s_alone_and_read_as_it_was_made() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("key.pem");
    let error = Key::read(&path).expect_err("there is none").to_string();
    assert!(
        error.contains("ftvm key generate") && error.contains("plain"),
        "{error}"
    );
    let made = Key::create(&path).expect("a key");
    let mode = fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        Key::read(&path).expect("a key").fingerprint(),
        made.fingerprint()
    );
    assert!(matches!(Key::create(&path), Err(KeyError::Exists { .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let error = Key::read(&path).expect_err("others read it").to_string();
    assert!(error.contains("chmod 600"), "{error}");
}

/// As packages make /etc/ftvm, for the user of a service.
#[test]
fn the_group_of_a_folder_of_roots_reads_a_key_that_is_made_there() {
    let folder = tempfile::tempdir().expect("a directory");
    for (name, mode, of_root) in [
        ("a", 0o2755, 0o640),
        ("b", 0o2775, 0o600),
        ("c", 0o755, 0o600),
    ] {
        let folder = folder.path().join(name);
        fs::create_dir(&folder).expect("a directory");
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("it is ours");
        let path = folder.join("key.pem");
        Key::create(&path).expect("a key");
        let file = fs::metadata(&path).expect("a file");
        let expected = if file.uid() == 0 { of_root } else { 0o600 };
        assert_eq!(file.mode() & 0o777, expected, "{name}");
        Key::read(&path).expect("it is ours");
    }
}

#[test]
fn what_is_no_key_is_named() {
    let folder = tempfile::tempdir().expect("a directory");
    let paths = ["a.pem", "b.pem"].map(|name| folder.path().join(name));
    for path in &paths {
        Key::create(path).expect("a key");
    }
    let [a, b] = paths.map(|path| path.with_extension("crt"));
    fs::copy(&b, &a).expect("a file");
    let error = Key::read(&a.with_extension("pem")).expect_err("b's certificate");
    assert!(matches!(error, KeyError::OtherKey { .. }), "{error}");
    fs::write(&a, "nothing").expect("a file");
    let error = Key::read(&a.with_extension("pem")).expect_err("no certificate");
    assert!(matches!(error, KeyError::NoCertificate { .. }), "{error}");
    fs::remove_file(&a).expect("it is there");
    Key::read(&a.with_extension("pem")).expect("it is its own");
    fs::write(a.with_extension("pem"), "nothing").expect("a file");
    let error = Key::read(&a.with_extension("pem")).expect_err("no key");
    assert!(error.to_string().contains("a.pem"), "{error}");
}

#[test]
fn a_list_that_is_missing_or_wrong_is_named_at_the_start() {
    let members = Members::new();
    let read = || Endpoint::read(&members.set.key("a"), &members.set.trust());
    fs::write(members.set.trust(), "[hosts]\na = \"me\"\n").expect("a file");
    let error = read().expect_err("no list").to_string();
    assert!(error.contains("trust.toml:2:5: "), "{error}");
    fs::remove_file(members.set.trust()).expect("it is there");
    let error = read().expect_err("no list");
    let transport::EndpointError::Trust(error @ TrustError::Missing { .. }) = error else {
        panic!("{error}");
    };
    assert!(error.to_string().contains("plain"), "{error}");
}

#[test]
fn who_could_write_a_file_could_say_who_speaks() {
    let members = Members::new();
    let read = || Endpoint::read(&members.set.key("a"), &members.set.trust());
    let set_mode = |mode| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(members.set.trust(), mode).expect("it is ours");
    };
    for mode in [0o664, 0o646] {
        set_mode(mode);
        let error = read().expect_err("others write it").to_string();
        assert!(error.contains("chmod go-w"), "{error}");
    }
    set_mode(0o644);
    read().expect("they read it");
    let others = Some(65_534);
    for (path, words) in [
        (members.set.trust(), "trust.toml belongs to the user 65534"),
        (members.set.key("a"), "a.pem belongs to the user 65534"),
    ] {
        // Only root can give files away.
        if std::os::unix::fs::chown(&path, others, None).is_ok() {
            let error = read().expect_err("it is another's").to_string();
            assert!(error.contains(words), "{error}");
            std::os::unix::fs::chown(&path, Some(0), None).expect("it was ours");
        }
    }
}

#[test]
fn a_list_that_others_can_write_from_now_on_changes_nothing() {
    let members = Members::new();
    let (a, b) = (members.endpoint("a"), members.endpoint("b"));
    let mode = fs::Permissions::from_mode(0o666);
    fs::set_permissions(members.set.trust(), mode).expect("it is ours");
    members.revoke("a");
    open(&a, &b).1.expect("that was said before");
}

#[test]
fn a_key_is_there_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("key.pem");
    let signed = path.with_extension("crt");
    fs::write(&signed, "signed").expect("a file");
    assert!(matches!(Key::create(&path), Err(KeyError::Exists { path }) if path == signed));
    assert_eq!(fs::read(&signed).expect("it stays"), b"signed");
    fs::remove_file(&signed).expect("it is there");
    // As one that was made: nothing else stays.
    Key::create(&path).expect("a key");
    assert!(matches!(Key::create(&path), Err(KeyError::Exists { .. })));
    let mut names: Vec<_> = (fs::read_dir(folder.path()).expect("it is there"))
        .map(|entry| entry.expect("a file").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["key.crt", "key.pem"]);
}

#[test]
fn a_list_that_cannot_be_used_any_more_changes_nothing() {
    let members = Members::new();
    let (a, b) = (members.endpoint("a"), members.endpoint("b"));
    let (called, answered) = open(&a, &b);
    let ends = (called.expect("open"), answered.expect("open"));
    let list = fs::read_to_string(members.set.trust()).expect("the list");
    fs::write(members.set.trust(), &list[..list.len() / 2 - 3]).expect("a file");
    // Each of these looks at the file, and would end the first connection.
    for _ in 0..2 {
        let (called, answered) = open(&a, &b);
        talk(&called.expect("open"), &answered.expect("open"), b"a word");
    }
    fs::remove_file(members.set.trust()).expect("it is there");
    let (called, answered) = open(&a, &b);
    drop((called.expect("open"), answered.expect("open")));
    talk(&ends.0, &ends.1, b"a word");
}
