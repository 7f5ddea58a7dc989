//! File descriptors: one for each connection, and enough of them.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What the process needs besides disks and connections: standard streams, the state, sockets that
/// listen, pipes.
const OTHERS: usize = 32;

/// Raises the limit of this process as far as it may, and tells how many connections each of the two
/// listeners can have then, at most `wanted`. A connection beyond the limit could not even be
/// turned away: it would wait for ever.
pub(super) fn fit(wanted: usize, disks: usize) -> usize {
    let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => {
            match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
                Ok(()) => hard,
                // Not allowed in some sandboxes.
                Err(_) => soft,
            }
        }
        Ok((soft, _)) => soft,
        Err(error) => {
            log::warn!("cannot read the limit of open files: {error}");
            return wanted;
        }
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let fitting = (limit.saturating_sub(OTHERS + disks) / 2).clamp(1, wanted.max(1));
    if fitting < wanted {
        log::warn!(
            "the limit of open files is {limit}: {fitting} connections for each listener, not \
             {wanted}. Raise it with LimitNOFILE= in the systemd unit, or ulimit -n"
        );
    }
    fitting
}
