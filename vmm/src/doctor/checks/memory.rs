//! Whether guest memory stays where it is.
//!
//! KVM drops what it has translated whenever the host takes a page away, if only to move it. The guest's
//! next access faults once more, and sets an accessed bit that the other host's does not. ftvm pins the
//! memory of guests that are replicated or recorded (see `ram`): that keeps off swapping, KSM, NUMA
//! balancing and khugepaged, whatever their settings are. KVM's splitting of huge pages and their recovery
//! (nx_huge_pages) is none where it logs writes, as it does for these guests, and a memory cgroup's limit
//! does not take what is locked. What is left is looked at here.

use std::fs;
use std::path::Path;

use super::measure::{Effort, Measured};
use crate::config::MEMORY_MIB;
use crate::host_kernel::Release;
use crate::kvm::probe::MicroGuest;
use crate::ram::lock_limit;

/// The first kernel whose KVM does not give shadow pages back when memory gets scarce ("KVM: x86/mmu:
/// Remove KVM's MMU shrinker").
const WITHOUT_SHRINKER: (u32, u32) = (6, 13);

pub(super) fn memory(_: &mut MicroGuest, _: Effort) -> Measured {
    judge(&moves(Path::new("/proc/sys"), lock_limit()))
}

/// What may take guest memory away, by the kernel's settings and how many bytes ftvm may lock.
fn moves(settings: &Path, lock_limit: Option<u64>) -> Vec<&'static str> {
    let setting = |name: &str| fs::read_to_string(settings.join(name)).unwrap_or_default();
    let mut moves = Vec::new();
    if lock_limit.is_some_and(|bytes| bytes < MEMORY_MIB.end() << 20) {
        moves.push("swap (RLIMIT_MEMLOCK)");
    }
    if setting("vm/compact_unevictable_allowed").trim() == "1" {
        moves.push("compaction");
    }
    let release = Release::in_settings(settings).numbers();
    if release.is_none_or(|release| release < WITHOUT_SHRINKER) {
        moves.push("KVM < 6.13");
    }
    moves
}

fn judge(moves: &[&str]) -> Measured {
    if moves.is_empty() {
        Ok("nothing is left that moves it".into())
    } else {
        Err(format!("may be moved by {}", moves.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use logging_channel::MAX_MEASURED;

    use super::*;

    #[test]
    fn what_may_take_pages_away_is_named() {
        let settings = tempfile::tempdir().expect("a directory");
        let set = |name: &str, value: &str| {
            let file = settings.path().join(name);
            fs::create_dir_all(file.parent().expect("a parent")).expect("directories");
            fs::write(file, value).expect("a file");
        };
        set("vm/compact_unevictable_allowed", "0\n");
        set("kernel/osrelease", "6.13.0-rc1\n");
        assert_eq!(moves(settings.path(), None), [""; 0]);
        assert_eq!(moves(settings.path(), Some(64 << 30)), [""; 0]);

        set("vm/compact_unevictable_allowed", "1\n");
        set("kernel/osrelease", "6.1.0-18-cloud-amd64\n");
        let all = moves(settings.path(), Some(8 << 20));
        let words = judge(&all).expect_err("much takes it away");
        assert_eq!(
            words,
            "may be moved by swap (RLIMIT_MEMLOCK), compaction, KVM < 6.13"
        );
        assert!(words.len() <= MAX_MEASURED, "{} bytes", words.len());
        assert!(judge(&[]).is_ok());
    }
}
