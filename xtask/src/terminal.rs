//! This terminal, handed to a command elsewhere.

use std::io;

use anyhow::{Context as _, Result};
use nix::libc;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use testbed::TerminalSize;

nix::ioctl_read_bad!(get_window_size, libc::TIOCGWINSZ, libc::winsize);

/// Standard input in raw mode: every key goes to the command, Ctrl-C too.
/// The terminal is as it was when this value is dropped.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    pub(crate) fn enter() -> Result<Self> {
        let before = tcgetattr(io::stdin())
            .context("standard input is no terminal: give a command, without --terminal")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).context("cannot set the terminal up")?;
        Ok(Self { before })
    }

    /// The size it has now.
    pub(crate) fn size(&self) -> TerminalSize {
        let mut size = libc::winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the kernel fills in the structure that the request asks for.
        // A terminal without a size keeps the default.
        let _ = unsafe { get_window_size(libc::STDIN_FILENO, &mut size) };
        TerminalSize {
            rows: size.ws_row,
            columns: size.ws_col,
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // There is nobody to tell, and `reset` mends it.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}
