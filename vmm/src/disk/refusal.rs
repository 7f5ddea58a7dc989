//! What a refusal by the disk server says about this host's right to run the guest.

use std::fmt;
use std::sync::Arc;

/// The disk server refused this host as the writer of its epoch: a request with "not permitted", or
/// the opening of the disk with "policy".
///
/// It is a reason to read the record of the virtual machine, and no verdict: within an epoch a
/// newer connection of the same host is preferred as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterRefused {
    /// The epoch in which the disk was open, or was to be opened.
    pub epoch: u64,
    /// What the server said, for people.
    pub reason: String,
}

/// Who is told of every [`WriterRefused`]. A handle.
///
/// It is called on the disk's thread, which must not wait: it should send a message and return. A
/// server that goes on refusing is heard again with each attempt to connect, about twice a second.
#[derive(Clone, Default)]
pub struct RefusalNotice(Option<Arc<dyn Fn(WriterRefused) + Send + Sync>>);

impl RefusalNotice {
    /// Has `tell` called.
    #[must_use]
    pub fn new(tell: impl Fn(WriterRefused) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    pub(super) fn tell(&self, refused: WriterRefused) {
        if let Some(tell) = &self.0 {
            tell(refused);
        }
    }
}

impl fmt::Debug for RefusalNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RefusalNotice")
            .field(&self.0.is_some())
            .finish()
    }
}
