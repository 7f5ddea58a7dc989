//! The checksum that holds the parts of a state transfer together.
//!
//! Each entry of the log has a checksum on its way, but that says nothing about entries that are
//! missing, come twice, or are changed behind it. No digest finds such a thing afterwards: both
//! sides take what a transfer left as their baseline, and only what differs from that is digested.

use super::patch::PatchError;

/// Bytes of the checksum.
pub(super) const SEAL_BYTES: usize = 4;

/// CRC-32 of a transfer: its blocks and its rest in order, then its commit. Where deltas came to nothing
/// before, it is over these too, each behind its place: both sides keep what they brought.
#[derive(Debug, Default)]
pub(super) struct Seal {
    hasher: crc32fast::Hasher,
    /// Where a delta began of which nothing came yet: if nothing does, the other side knows nothing of it.
    begun_at: Option<u64>,
}

impl Seal {
    /// Forgets the blocks so far: a transfer begins that builds on nothing.
    pub(super) fn begin(&mut self) {
        *self = Self::default();
    }

    /// A delta begins, to a guest that stands at the exit `exits`.
    pub(super) fn begin_delta(&mut self, exits: u64) {
        self.begun_at = Some(exits);
    }

    /// The next block, or piece of the rest.
    pub(super) fn add(&mut self, block: &[u8]) {
        if let Some(exits) = self.begun_at.take() {
            self.hasher.update(&exits.to_le_bytes());
        }
        self.hasher.update(block);
    }

    fn finish(&mut self, rest: &[u8]) -> u32 {
        self.add(rest);
        std::mem::take(&mut self.hasher).finalize()
    }

    /// The commit with `rest`, the checksum before it. Another transfer begins.
    pub(super) fn close(&mut self, rest: &[u8]) -> Vec<u8> {
        let checksum = self.finish(rest);
        [&checksum.to_le_bytes(), rest].concat()
    }

    /// The rest that `commit` has, if it and the blocks so far are what was sent. Another transfer
    /// begins.
    ///
    /// # Errors
    /// [`PatchError::Malformed`] without a checksum, [`PatchError::Checksum`] with another one.
    pub(super) fn open<'a>(&mut self, commit: &'a [u8]) -> Result<&'a [u8], PatchError> {
        let Some((sent, rest)) = commit.split_first_chunk::<SEAL_BYTES>() else {
            self.begin();
            return Err(PatchError::Malformed("the end has no checksum".into()));
        };
        let (sent, came) = (u32::from_le_bytes(*sent), self.finish(rest));
        if sent != came {
            return Err(PatchError::Checksum { sent, came });
        }
        Ok(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opens(blocks: &[&[u8]], commit: &[u8]) -> bool {
        let mut seal = Seal::default();
        blocks.iter().for_each(|block| seal.add(block));
        seal.open(commit).is_ok()
    }

    #[test]
    fn only_what_was_sent_opens() {
        let mut seal = Seal::default();
        seal.add(b"left over");
        seal.begin();
        seal.add(b"one");
        seal.add(b"two");
        let commit = seal.close(b"rest");
        assert_eq!(&commit[SEAL_BYTES..], b"rest");
        assert!(opens(&[b"one", b"two"], &commit));

        assert!(!opens(&[], &commit), "no block");
        assert!(!opens(&[b"two"], &commit), "one is missing");
        assert!(!opens(&[b"one", b"one", b"two"], &commit), "one twice");
        assert!(!opens(&[b"two", b"one"], &commit), "another order");
        assert!(!opens(&[b"one", b"twO"], &commit), "another block");
        for at in 0..commit.len() {
            let mut other = commit.clone();
            other[at] ^= 1;
            assert!(!opens(&[b"one", b"two"], &other), "byte {at} of the commit");
            assert!(!opens(&[b"one", b"two"], &commit[..at]), "{at} bytes of it");
        }
    }

    /// Both sides keep what a delta brought that came to nothing, and that it did.
    #[test]
    fn deltas_have_their_places() {
        let sealed = |deltas: &[(u64, &[&[u8]])]| {
            let mut seal = Seal::default();
            for (exits, blocks) in deltas {
                seal.begin_delta(*exits);
                blocks.iter().for_each(|block| seal.add(block));
            }
            seal.close(b"rest")
        };
        let commit = sealed(&[(3, &[b"one"]), (5, &[b"two"])]);
        assert_ne!(commit, sealed(&[(5, &[b"two"])]), "one delta less");
        assert_ne!(commit, sealed(&[(5, &[b"one", b"two"])]), "one delta");
        assert_ne!(
            commit,
            sealed(&[(3, &[b"one"]), (4, &[b"two"])]),
            "elsewhere"
        );
        let unseen = sealed(&[(2, &[]), (3, &[b"one"]), (4, &[]), (5, &[b"two"])]);
        assert_eq!(commit, unseen, "deltas of which nothing was sent");
    }

    #[test]
    fn transfers_are_apart() {
        let (mut sender, mut receiver) = (Seal::default(), Seal::default());
        sender.add(b"one");
        let first = sender.close(b"rest");
        let second = sender.close(b"rest");
        // What is wrong with one is not held against the next.
        assert!(receiver.open(&first).is_err());
        assert!(receiver.open(b"").is_err());
        assert!(receiver.open(&second).is_ok());
    }
}
