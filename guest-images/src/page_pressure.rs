//! `programs/page-pressure.c`, which makes a guest reclaim pages and swap.

use crate::compiler;
use crate::error::CompileError;

/// The program, a static executable.
///
/// # Errors
///
/// When it cannot be compiled.
pub fn program() -> Result<Vec<u8>, CompileError> {
    compiler::compile("page-pressure", include_str!("programs/page-pressure.c"))
}

/// How many pages were swapped in and out, by the program's last line, if that is among these and all
/// went well.
#[must_use]
pub fn swapped(console: &str) -> Option<[u64; 2]> {
    let mut lines = console.lines().map(str::trim);
    let counts = lines.find_map(|line| line.strip_prefix("page-pressure: done, pswpin "))?;
    let (swapped_in, swapped_out) = counts.split_once(", pswpout ")?;
    Some([swapped_in.parse().ok()?, swapped_out.parse().ok()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_how_much_was_swapped() {
        let done =
            "page-pressure: process 0, sum 7\r\npage-pressure: done, pswpin 3, pswpout 20\r\n";
        assert_eq!(swapped(done), Some([3, 20]));
        let failed = "page-pressure: failed, pswpin 3, pswpout 20\n";
        assert_eq!(swapped(failed), None);
    }
}
