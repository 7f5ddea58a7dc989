//! The events of a guest's processes on this host, read as they are written.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The most that is read at a time, in bytes: the file is begun anew at less.
const MOST_BYTES: u64 = 16 << 20;

/// A file of events: what was read of it, over all that it is replaced and emptied by.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    open: Option<Open>,
    /// The beginning of a line whose end was not written yet.
    begun: Vec<u8>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// So far it was read.
    at: u64,
}

impl EventFile {
    /// The one at this path, which may not be there yet: from its beginning on.
    pub(super) fn at(path: PathBuf) -> Self {
        Self {
            path,
            open: None,
            begun: Vec::new(),
        }
    }

    /// Takes the lines that were written since.
    ///
    /// # Errors
    /// A file that is there cannot be read.
    pub(super) fn take_lines(&mut self) -> io::Result<Vec<String>> {
        let mut bytes = std::mem::take(&mut self.begun);
        let read = self.read_on(&mut bytes);
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        self.begun = bytes.split_off(whole.map_or(0, |end| end + 1));
        let lines = String::from_utf8_lossy(&bytes);
        read.map(|()| lines.lines().map(str::to_owned).collect())
    }

    fn read_on(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        if let Some(open) = &mut self.open {
            if open.file.metadata()?.len() < open.at {
                // It has become too long: what was there is in the file before.
                if let Ok(file) = File::open(before(&self.path)) {
                    Open { file, at: open.at }.read_on(bytes)?;
                }
                open.at = 0;
            }
            open.read_on(bytes)?;
        }
        let there = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            there => there?.ino(),
        };
        let is_read = match &self.open {
            Some(open) => open.file.metadata()?.ino() == there,
            None => false,
        };
        if !is_read {
            let file = File::open(&self.path)?;
            self.open.insert(Open { file, at: 0 }).read_on(bytes)?;
        }
        Ok(())
    }
}

impl Open {
    fn read_on(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.at))?;
        let read = (&self.file).take(MOST_BYTES).read_to_end(bytes)?;
        self.at += read as u64;
        Ok(())
    }
}

/// Where is what a file had before it was begun anew.
fn before(path: &Path) -> PathBuf {
    path.with_extension("1")
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    #[test]
    fn every_line_is_read_once_whatever_becomes_of_the_file() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("events");
        let mut events = EventFile::at(path.clone());
        let lines = |events: &mut EventFile| events.take_lines().expect("it can be read").join(" ");
        assert_eq!(lines(&mut events), "", "it is not there");
        let open = || {
            let file = OpenOptions::new().create(true).append(true).open(&path);
            file.expect("a file")
        };
        let mut writer = open();
        let mut write = |text: &str| writer.write_all(text.as_bytes()).expect("it is written");
        write("one\ntw");
        assert_eq!(lines(&mut events), "one");
        write("o\nthree\nfo");
        // It has become too long.
        fs::copy(&path, before(&path)).expect("it is kept");
        fs::write(&path, "").expect("it is emptied");
        write("ur\n");
        assert_eq!(lines(&mut events), "two three four");
        write("five\n");
        assert_eq!(lines(&mut events), "five");
        write("six\n");
        // Another process.
        fs::rename(&path, before(&path)).expect("it is renamed");
        assert_eq!(lines(&mut events), "six");
        write("seven\n");
        open().write_all(b"eight\n").expect("it is written");
        assert_eq!(lines(&mut events), "seven eight");
        assert_eq!(lines(&mut events), "");
    }
}
