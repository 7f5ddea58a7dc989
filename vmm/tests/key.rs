//! `ftvm key`, as somebody at a terminal has it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Runs it with these words in a directory: its exit status, what it printed, and what it complained about.
fn key(folder: &Path, words: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ftvm"))
        .arg("key")
        .args(words)
        .current_dir(folder)
        .output()
        .expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// What it printed, having done what it was told.
fn done(folder: &Path, words: &[&str]) -> String {
    let (status, printed, complaint) = key(folder, words);
    assert_eq!(
        (status, &complaint[..]),
        (Some(0), ""),
        "{words:?}: {printed}"
    );
    printed
}

/// It did not do what it was told, printed nothing for another program to take, and said why.
fn refused(folder: &Path, words: &[&str], status: i32, why: &str) {
    let (code, printed, complaint) = key(folder, words);
    assert_eq!(code, Some(status), "{words:?}: {complaint}");
    assert_eq!(printed, "", "{words:?}");
    assert!(complaint.contains(why), "{words:?}: {complaint}");
}

/// The words with which `a` is signed as a host.
const SIGN: [&str; 6] = [
    "sign",
    "--authority",
    "authority.pem",
    "--role",
    "host",
    "--name",
];

fn sign<'a>(name: &'a str, certificate: &'a str) -> Vec<&'a str> {
    [&SIGN[..], &[name, certificate]].concat()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o7777
}

#[test]
fn a_key_is_made_shown_and_signed() {
    let folder = tempfile::tempdir().expect("a directory");
    let at = folder.path();
    // The directory is made with it.
    let made = done(at, &["generate", "etc/a.pem"]);
    assert!(
        made.starts_with("SHA256:") && made.ends_with('\n'),
        "{made}"
    );
    assert_eq!(mode(&at.join("etc/a.pem")), 0o600);
    assert_eq!(mode(&at.join("etc/a.crt")), 0o644);
    assert_eq!(done(at, &["show", "etc/a.pem"]), made);
    let own = done(at, &["show", "etc/a.pem", "--certificate"]);
    assert_eq!(
        own,
        fs::read_to_string(at.join("etc/a.crt")).expect("its certificate")
    );

    let above = done(at, &["generate", "authority.pem"]);
    assert_ne!(above, made);
    // The private key is not needed for that, and nowhere in it.
    fs::write(at.join("sent.crt"), &own).expect("a file");
    let signed = done(at, &sign("a", "sent.crt"));
    assert_eq!(signed.matches("BEGIN CERTIFICATE").count(), 2, "{signed}");
    assert!(!signed.contains("PRIVATE"), "{signed}");
    fs::write(at.join("etc/a.crt"), &signed).expect("a file");
    assert_eq!(
        done(at, &["show", "etc/a.pem"]),
        made,
        "its name is what it was"
    );
    assert_eq!(done(at, &["show", "etc/a.pem", "--certificate"]), signed);
    let shown = done(at, &["show", "etc/a.pem", "--authority"]);
    assert!(signed.ends_with(&shown) && shown.len() < signed.len());
}

#[test]
fn a_key_that_is_there_is_not_lost() {
    let folder = tempfile::tempdir().expect("a directory");
    let at = folder.path();
    done(at, &["generate", "a.pem"]);
    let files = || ["a.pem", "a.crt"].map(|file| fs::read(at.join(file)).ok());
    let before = files();
    let again = ["generate", "a.pem"];
    refused(at, &again, 1, "a.crt is there already: remove it first");
    fs::remove_file(at.join("a.crt")).expect("it is there");
    refused(at, &again, 1, "a.pem is there already");
    assert_eq!(files(), [before[0].clone(), None]);
    // A certificate without its key may be waiting for it.
    fs::write(at.join("b.crt"), "signed").expect("a file");
    refused(at, &["generate", "b.pem"], 1, "b.crt is there already");
    assert!(!at.join("b.pem").exists());
    // A key would be its own certificate.
    refused(at, &["generate", "c.crt"], 1, "c.crt");
    assert!(!at.join("c.crt").exists());
    // No file that was begun is left behind.
    assert_eq!(fs::read_dir(at).expect("it is there").count(), 2);
}

#[test]
fn what_is_no_key_of_this_users_alone_is_not_taken() {
    let folder = tempfile::tempdir().expect("a directory");
    let at = folder.path();
    refused(at, &["show", "a.pem"], 1, "there is no key a.pem");
    done(at, &["generate", "a.pem"]);
    for open in [0o644, 0o604, 0o660] {
        fs::set_permissions(at.join("a.pem"), Permissions::from_mode(open)).expect("it is ours");
        let words = format!("(mode {open:04o})");
        refused(at, &["show", "a.pem"], 1, &words);
    }
    let private = |name: &str, text: &str| {
        let path = at.join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(path, Permissions::from_mode(0o600)).expect("it is ours");
    };
    private("no.pem", "no key\n");
    refused(
        at,
        &["show", "no.pem"],
        1,
        "no.pem has no key that ftvm can use",
    );
    // Another key's certificate, and none.
    private(
        "b.pem",
        &fs::read_to_string(at.join("a.pem")).expect("a key"),
    );
    done(at, &["generate", "c.pem"]);
    for (beside, why) in [
        (
            fs::read_to_string(at.join("c.crt")).expect("its own"),
            "another key",
        ),
        ("none".into(), "b.crt has no certificate"),
    ] {
        fs::write(at.join("b.crt"), beside).expect("a file");
        refused(at, &["show", "b.pem"], 1, why);
    }
    refused(
        at,
        &["show", "c.pem", "--authority"],
        1,
        "no authority has signed it",
    );
    refused(at, &["generate", "c.pem/d.pem"], 1, "cannot make c.pem");
    refused(at, &["show", "c.pem/d.pem"], 1, "cannot read c.pem/d.pem");
}

#[test]
fn nothing_is_signed_that_is_not_as_it_must_be() {
    let folder = tempfile::tempdir().expect("a directory");
    let at = folder.path();
    done(at, &["generate", "a.pem"]);
    refused(at, &sign("a", "a.crt"), 1, "there is no key authority.pem");
    // The authority's certificate in place of its key.
    done(at, &["generate", "authority.pem"]);
    fs::rename(at.join("authority.pem"), at.join("kept")).expect("it is there");
    fs::copy(at.join("authority.crt"), at.join("authority.pem")).expect("it is there");
    let private = Permissions::from_mode(0o600);
    fs::set_permissions(at.join("authority.pem"), private).expect("it is ours");
    refused(at, &sign("a", "a.crt"), 1, "authority.pem has no key");
    fs::rename(at.join("kept"), at.join("authority.pem")).expect("it is there");

    refused(at, &sign("a", "b.crt"), 1, "cannot read b.crt");
    // A key in place of its certificate.
    refused(at, &sign("a", "a.pem"), 1, "no certificate in it");
    refused(at, &sign("a b", "a.crt"), 1, "cannot be in a certificate");
    let role = sign("a", "a.crt").join(" ").replace("host", "boss");
    let role: Vec<_> = role.split(' ').collect();
    refused(at, &role, 2, "boss");
    done(at, &sign("a", "a.crt"));
}
