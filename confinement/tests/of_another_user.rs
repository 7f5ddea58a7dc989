//! Root uses files of another user. One test, for a process of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use confinement::{Calls, Capability, Confinement, Reach, Use};

#[test]
fn a_directory_of_another_user_is_written_later_too() {
    let folder = tempfile::tempdir().expect("a directory");
    // One of root's own, in one that only another user enters.
    let theirs = folder.path().join("theirs");
    let state = theirs.join("state");
    fs::create_dir_all(&state).expect("a directory");
    if let Err(error) = chown(&theirs, Some(65534), Some(65534)) {
        return eprintln!("SKIPPED: {error}");
    }
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).expect("it is there");
    let later = Reach::default().with(&state, Use::Own);
    let capabilities = [Capability::DacOverride];
    let confinement = Confinement::begin(Reach::default(), later, &capabilities);
    let confinement = confinement.calling(&[Calls::Threads, Calls::Files]);
    fs::write(state.join("start"), "1").expect("as root does");
    confinement.has_started();
    fs::write(state.join("later"), "2").expect("it would be too late to be refused now");
    fs::rename(state.join("later"), state.join("start")).expect("the same");
}
