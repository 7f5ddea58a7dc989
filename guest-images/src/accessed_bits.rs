//! `programs/accessed-bits.c`, which looks at the accessed bits of its own pages.
//!
//! What it finds depends on what still holds a translation when they are cleared. Recorded under nested
//! paging, it gives another result when it is replayed.

use crate::compiler;
use crate::error::CompileError;

/// The program, a static executable: `accessed-bits ROUNDS PAGES [TOUCHES]`.
///
/// # Errors
///
/// When it cannot be compiled.
pub fn program() -> Result<Vec<u8>, CompileError> {
    compiler::compile("accessed-bits", include_str!("programs/accessed-bits.c"))
}
