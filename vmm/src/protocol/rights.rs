//! What a record of the disk server says of the right to run a guest.

use disk_server::arbiter::{Claim, Claimant, Next, Record};
use logging_channel::handshake::Title;
use logging_channel::session::Confirmation;

/// What `record` says of the right of `me` to run the guest, which it won in `epoch`. Only that
/// another one won a later epoch, or this one, proves that it is lost.
#[must_use]
pub fn own_right(record: &Record, epoch: u64, me: &Claimant) -> Confirmation {
    let mine = record.holder.as_ref() == Some(me);
    if record.epoch < epoch {
        Confirmation::Unknown(went_back(record.epoch, epoch))
    } else if mine {
        Confirmation::Held
    } else {
        Confirmation::NotHeld(belongs(record.epoch, record.holder.as_ref()))
    }
}

/// What `record` says of a primary that says that it runs the guest by `title`.
#[must_use]
pub fn right_of_another(record: &Record, title: &Title) -> Confirmation {
    let holder = record.holder.as_ref().map(Claimant::as_str);
    if record.epoch == title.epoch && holder == Some(&title.holder) {
        return Confirmation::Held;
    }
    if record.epoch > title.epoch && holder == Some(&title.holder) {
        return Confirmation::Unknown(format!(
            "{} moves on from epoch {} to {}",
            title.holder, title.epoch, record.epoch
        ));
    }
    Confirmation::NotHeld(format!(
        "it says that {} runs it in epoch {}, but the disk server of this host that {}; both hosts \
         must name the same disk server, and a primary that another one has replaced must be ended",
        title.holder,
        title.epoch,
        belongs(record.epoch, record.holder.as_ref())
    ))
}

/// That a server does not know of an epoch, in words.
#[must_use]
pub fn went_back(found: u64, epoch: u64) -> String {
    format!(
        "the disk server is at epoch {found}, but this guest already was at epoch {epoch}: its \
         state was lost or it is the wrong server"
    )
}

/// Who has an epoch, in words.
#[must_use]
pub fn belongs(epoch: u64, holder: Option<&Claimant>) -> String {
    let holder = holder.map_or("nobody", Claimant::as_str);
    format!("epoch {epoch} belongs to {holder}")
}

/// Whether a claim that was refused is made again.
#[derive(Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The server does not know of the epoch: later, perhaps.
    NotYet,
    /// It may be won.
    Now,
    /// It cannot be won any more.
    Lost(Claim),
}

/// Whether `claimant` repeats its claim for the epoch after `epoch`, which `holder` won, for `next`, to a
/// server that has `record`. A server that knows only an earlier epoch may be the wrong one, or get its state
/// back. But one where the epochs began anew may come to this one again, in the hands of another.
#[must_use]
pub fn repeats(
    record: &Record,
    (epoch, holder): (u64, &Claimant),
    claimant: &Claimant,
    next: &Next,
) -> Repeat {
    let found = record.holder.as_ref();
    let open = record.epoch == epoch && found == Some(holder);
    let mine = match next {
        Next::Stopped => record.is_stopped(),
        Next::Start | Next::Alone | Next::With(_) => found == Some(claimant),
    };
    let won = record.epoch == epoch + 1 && mine;
    if open || won {
        Repeat::Now
    } else if record.epoch < epoch {
        Repeat::NotYet
    } else {
        Repeat::Lost(Claim::Lost {
            epoch: record.epoch,
            holder: record.holder.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use disk_server::arbiter::STOPPED;

    use super::*;

    fn record(epoch: u64, holder: Option<&str>) -> Record {
        let holder = holder.map(|holder| holder.parse().expect("a claimant"));
        Record {
            epoch,
            holder,
            ..Record::default()
        }
    }

    #[test]
    fn only_another_holder_is_proof_of_a_lost_right() {
        let me: Claimant = "hosta/1".parse().expect("a claimant");
        let right = |epoch, holder| own_right(&record(epoch, holder), 4, &me);
        assert_eq!(right(4, Some("hosta/1")), Confirmation::Held);
        // A claim whose answer was lost.
        assert_eq!(right(5, Some("hosta/1")), Confirmation::Held);
        for (epoch, holder) in [(4, "hostb/1"), (5, "hostb/1"), (5, STOPPED), (9, "hosta/2")] {
            let Confirmation::NotHeld(reason) = right(epoch, Some(holder)) else {
                panic!("{epoch} {holder}");
            };
            assert!(reason.contains(holder), "{reason}");
        }
        // A server that lost its state, or the wrong one.
        for (epoch, holder) in [(0, None), (3, Some("hostb/1")), (3, Some("hosta/1"))] {
            assert!(matches!(right(epoch, holder), Confirmation::Unknown(_)));
        }
    }

    #[test]
    fn a_server_that_lost_its_state_gives_no_epoch_to_one_of_the_time_before() {
        let claimant = |name: &str| name.parse::<Claimant>().expect("a claimant");
        let repeats = |epoch, holder| {
            let record = record(epoch, holder);
            let (a, b) = (claimant("hosta/1"), claimant("hostb/1"));
            repeats(&record, (4, &a), &b, &Next::Alone)
        };
        for (epoch, holder) in [(0, None), (3, Some("hostc/1"))] {
            assert_eq!(repeats(epoch, holder), Repeat::NotYet);
        }
        for (epoch, holder) in [(4, "hosta/1"), (5, "hostb/1")] {
            assert_eq!(repeats(epoch, Some(holder)), Repeat::Now);
        }
        for (epoch, holder) in [(4, "hostc/1"), (5, "hosta/1"), (5, STOPPED), (6, "hostb/1")] {
            assert!(matches!(repeats(epoch, Some(holder)), Repeat::Lost(_)));
        }
    }

    #[test]
    fn a_backup_follows_only_the_one_that_its_disk_server_names() {
        let title = Title {
            epoch: 4,
            holder: "hosta/1".into(),
        };
        let right = |epoch, holder| right_of_another(&record(epoch, holder), &title);
        assert_eq!(right(4, Some("hosta/1")), Confirmation::Held);
        // It has taken a backup, and has not heard of that.
        let moves = right(5, Some("hosta/1"));
        assert!(matches!(moves, Confirmation::Unknown(_)), "{moves:?}");
        for (epoch, holder) in [
            (0, None),
            (3, Some("hosta/1")),
            (4, Some("hostb/1")),
            (5, Some("hostb/1")),
        ] {
            let Confirmation::NotHeld(reason) = right(epoch, holder) else {
                panic!("{epoch} {holder:?}");
            };
            assert!(reason.contains("same disk server"), "{reason}");
        }
    }
}
