//! What is done for the processes of guests beside the pings, which must not wait for a process or a disk that
//! hangs. Each on a thread of its own, for as long as this process lives.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use disk_server::arbiter::VmName;
use disk_server::views::PING_INTERVAL;
use parking_lot::Mutex;

use super::control;
use super::folders::Folders;
use super::tending::Tending;
use crate::control::Status;

/// For a process that is asked who it is.
const PATIENCE: Duration = Duration::from_millis(200);

/// Asks the processes of which that is not known yet.
pub(super) fn ask_who_they_are(folders: &Folders, tending: &Mutex<Tending>) -> ! {
    loop {
        let guests = tending.lock().guests().clone();
        let unknown = guests.iter().filter(|(_, guest)| guest.claimant.is_none());
        for (vm, _) in unknown {
            let socket = folders.guest(vm).and_then(|guest| guest.control());
            let status = socket
                .ok()
                .and_then(|socket| control::status(&socket, PATIENCE).ok());
            if let Some(Status { claimant, .. }) = status {
                log::info!("{vm}: its process is {claimant}");
                tending.lock().claims(vm, claimant);
            }
        }
        thread::sleep(PING_INTERVAL);
    }
}

/// Bounds the files to which they write: a full disk would be the end of more than one guest.
pub(super) fn bound_what_they_say(folders: &Folders, tending: &Mutex<Tending>) -> ! {
    let mut told = BTreeMap::new();
    loop {
        let guests: Vec<VmName> = tending.lock().guests().keys().cloned().collect();
        told.retain(|vm, _| guests.contains(vm));
        for vm in guests {
            let Err(error) = folders.guest(&vm).and_then(|guest| guest.bound()) else {
                continue;
            };
            let error = format!("{:#}", anyhow::Error::new(error));
            if told.get(&vm) != Some(&error) {
                log::warn!("{vm}: what its process has said is not kept: {error}");
                told.insert(vm, error);
            }
        }
        thread::sleep(PING_INTERVAL);
    }
}
