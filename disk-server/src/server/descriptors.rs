//! File descriptors: one for each connection, and enough of them.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::connections::Places;

/// What every server needs besides connections: standard streams, the state, sockets that
/// listen, pipes.
const OTHERS: usize = 32;

/// How many who have not shown a key yet each listener has at a time, where there is room. A handshake takes a
/// round trip or two.
const STRANGERS: usize = 64;

/// Raises the limit of this process as far as it may, and tells how many connections each of the two
/// listeners can have then beside so many `others`, disks among them: at most `wanted` of those who are known. A
/// connection beyond the limit could not even be turned away: it would wait for ever.
pub(super) fn fit(wanted: usize, others: usize) -> Places {
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
            return Places {
                known: wanted,
                strangers: STRANGERS,
            };
        }
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let room = limit.saturating_sub(OTHERS + others) / 2;
    // As many again may be about to end.
    let strangers = (room / 8).clamp(1, STRANGERS);
    let fitting = room.saturating_sub(2 * strangers).clamp(1, wanted.max(1));
    if fitting < wanted {
        log::warn!(
            "the limit of open files is {limit}: {fitting} connections for each listener, not \
             {wanted}. Raise it with LimitNOFILE= in the systemd unit, or ulimit -n"
        );
    }
    Places {
        known: fitting,
        strangers,
    }
}
