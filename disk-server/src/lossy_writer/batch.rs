//! Messages that wait to be written, and what there was no room for.

/// What there was no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    /// Number of messages.
    pub messages: u64,
    /// Their size.
    pub bytes: u64,
}

/// Messages, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl Batch {
    pub(super) fn push(&mut self, message: &[u8]) {
        self.bytes.extend_from_slice(message);
        self.ends.push(self.bytes.len());
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Replaces what is left of a message, of which a part is among the first `written` bytes, by what
    /// `gap` says of its loss. Returns what is written of the batch.
    pub(super) fn give_up_half_message(
        &mut self,
        written: usize,
        gap: fn(Lost) -> String,
    ) -> usize {
        let first = self.ends.partition_point(|end| *end <= written);
        let start = if first == 0 { 0 } else { self.ends[first - 1] };
        let Some(&end) = self.ends.get(first).filter(|_| start < written) else {
            return written;
        };
        let text = gap(Lost {
            messages: 1,
            bytes: (end - written) as u64,
        });
        let rest = std::mem::take(self);
        let mut from = end;
        self.push(text.as_bytes());
        for &to in &rest.ends[first + 1..] {
            self.push(&rest.bytes[from..to]);
            from = to;
        }
        0
    }
}
