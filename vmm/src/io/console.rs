//! Where the guest's console goes on this host.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use disk_server::lossy_writer::{AppendedFile, LossyWriter, Lost, Weight};
use nix::libc;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use parking_lot::Mutex;

use crate::sources::{Control, Lanes};
use crate::threads;

/// Takes the guest's console output.
#[derive(Debug, Clone, Default)]
pub struct ConsoleSink {
    /// The terminal, and the file.
    places: Vec<LossyWriter>,
    /// Who looks on.
    viewers: Arc<Mutex<Vec<LossyWriter>>>,
    /// Wait for a place that takes nothing, rather than lose what it does not take.
    patient: bool,
}

/// Why the console cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// The log file cannot be opened.
    #[error("cannot open the console log {}", path.display())]
    Log {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The terminal's mode cannot be changed.
    #[error("cannot switch the terminal to raw mode")]
    RawMode(#[source] io::Error),
}

/// What a reader of the console is told of a gap, as on a serial line that nobody read.
fn gap(lost: Lost) -> String {
    format!("\r\n[ftvm: {} bytes are lost here]\r\n", lost.bytes)
}

impl ConsoleSink {
    /// Output to the terminal, to a file (appended), to both, or to nobody.
    ///
    /// # Errors
    /// [`TerminalError::Log`].
    pub fn open(to_terminal: bool, log: Option<&Path>) -> Result<Self, TerminalError> {
        let mut places = Vec::new();
        if to_terminal {
            let out = disk_server::lossy_writer::of_descriptor(io::stdout());
            places.push(LossyWriter::start("standard output", gap, out));
        }
        if let Some(path) = log {
            let file = AppendedFile::open(path).map_err(|source| TerminalError::Log {
                path: path.to_owned(),
                source,
            })?;
            let name = format!("the console log {}", path.display());
            places.push(LossyWriter::start(name, gap, file));
        }
        Ok(Self {
            places,
            viewers: Arc::default(),
            patient: false,
        })
    }

    /// Shows what comes from now on to one more, behind a `greeting`, until that is dropped. One that reads
    /// slowly loses some of it, and is told where: nobody waits for it.
    ///
    /// # Errors
    /// The host has no thread for it.
    pub fn show(&self, stream: UnixStream, greeting: &[u8]) -> io::Result<Viewer> {
        let consumer = File::from(OwnedFd::from(stream));
        let writer = LossyWriter::try_start("a console", gap, consumer)?;
        writer.put(Weight::Matters, greeting);
        self.viewers.lock().push(writer.clone());
        Ok(Viewer {
            viewers: self.viewers.clone(),
            writer,
        })
    }

    /// The same, for a guest that nobody talks to: it may wait until the terminal and the file take
    /// what it writes.
    #[must_use]
    pub fn patient(self) -> Self {
        Self {
            patient: true,
            ..self
        }
    }

    /// Shows bytes. Unless it is [patient](Self::patient), it does not wait for a place that takes
    /// nothing.
    pub fn write(&self, bytes: &[u8]) {
        for place in &self.places {
            place.put(Weight::Matters, bytes);
            if self.patient {
                place.drain(Duration::MAX);
            }
        }
        for viewer in self.viewers.lock().iter() {
            viewer.put(Weight::Matters, bytes);
        }
    }
}

/// Somebody who looks at the guest's console.
#[derive(Debug)]
pub struct Viewer {
    viewers: Arc<Mutex<Vec<LossyWriter>>>,
    writer: LossyWriter,
}

impl Viewer {
    /// Says something to this one alone.
    pub fn tell(&self, text: &str) {
        self.writer.put(Weight::Matters, text.as_bytes());
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.writer.close();
        self.viewers.lock().retain(|it| !it.is(&self.writer));
    }
}

/// How long the end of a process waits until its log, its events and the guest's console are taken.
pub const LAST_WORDS: Duration = Duration::from_secs(2);

/// The settings to go back to, for every way out of the process.
static COOKED: OnceLock<libc::termios> = OnceLock::new();

/// This process's terminal, given to the guest. Ctrl-A x ends it.
#[derive(Debug)]
pub struct Terminal;

/// Exit status of a process that its user interrupted, as shells have it.
pub const INTERRUPTED: i32 = 130;

/// Ctrl-A, as in other console programs.
const ESCAPE: u8 = 1;

/// What is typed on a terminal that belongs to a guest's console. Behind Ctrl-A a byte is taken as it is, but
/// for x, which ends the console.
#[derive(Debug, Default)]
pub struct Typed {
    escaped: bool,
}

impl Typed {
    /// What of these bytes is for the guest, up to the end of the console, and whether that is among them.
    pub fn take(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut for_guest = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match (self.escaped, byte) {
                (false, ESCAPE) => self.escaped = true,
                (true, b'x') => return (for_guest, true),
                _ => {
                    self.escaped = false;
                    for_guest.push(byte);
                }
            }
        }
        (for_guest, false)
    }
}

impl Terminal {
    /// Takes the terminal over: raw mode, and typed bytes go to the guest while `live`.
    ///
    /// # Errors
    /// [`TerminalError::RawMode`].
    pub fn attach(lanes: &Lanes, live: Arc<AtomicBool>) -> Result<Self, TerminalError> {
        let terminal = Self::raw()?;
        let lanes = lanes.clone();
        threads::start("console", &[], move || read_loop(&lanes, &live))
            .expect("a thread can be started");
        Ok(terminal)
    }

    /// Takes the terminal over for a console, if there is one: raw mode.
    ///
    /// # Errors
    /// [`TerminalError::RawMode`].
    pub fn raw() -> Result<Self, TerminalError> {
        if io::stdin().is_terminal() {
            raw_mode().map_err(|error| TerminalError::RawMode(error.into()))?;
            disk_server::lossy_writer::say(
                "Connected to the guest's console. Ctrl-A x ends it.\r\n",
            );
        }
        Ok(Self)
    }

    /// Puts the terminal back as it was. Does nothing if it was not attached.
    pub fn restore() {
        if let Some(cooked) = COOKED.get() {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &(*cooked).into());
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        Self::restore();
    }
}

fn raw_mode() -> nix::Result<()> {
    let mut settings = tcgetattr(io::stdin())?;
    let _ = COOKED.set(settings.clone().into());
    cfmakeraw(&mut settings);
    tcsetattr(io::stdin(), SetArg::TCSANOW, &settings)
}

fn read_loop(lanes: &Lanes, live: &AtomicBool) {
    let mut typed = Typed::default();
    let mut buffer = [0; 256];
    loop {
        let read = io::stdin().lock().read(&mut buffer);
        confinement::catch_up();
        let len = match read {
            Ok(0) => return, // end of input: the guest goes on without
            Ok(len) => len,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => {
                log::warn!("console input: {e}");
                return;
            }
        };
        let (for_guest, ends) = typed.take(&buffer[..len]);
        if !for_guest.is_empty() && live.load(Ordering::Acquire) {
            lanes.typed.push(for_guest);
        }
        match ends {
            true if live.load(Ordering::Acquire) => {
                lanes.control.try_push(Control::Stop);
            }
            true => {
                // Nothing runs here that could be stopped in order.
                disk_server::lossy_writer::finish(LAST_WORDS);
                Terminal::restore();
                std::process::exit(INTERRUPTED);
            }
            false => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_x_ends_the_console_and_ctrl_a_twice_is_one() {
        let mut typed = Typed::default();
        assert_eq!(typed.take(b"ab\x01"), (b"ab".to_vec(), false));
        assert_eq!(typed.take(b"\x01c"), (b"\x01c".to_vec(), false));
        assert_eq!(typed.take(b"d\x01xe"), (b"d".to_vec(), true));
    }
}
