//! What a report is made of.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// So much of the end of a file, in bytes.
const MOST_BYTES: u64 = 1 << 20;

/// A text in a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paper {
    /// What it is called there.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// A text that a report lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What it would be called.
    pub name: String,
    /// Why it is not there.
    pub why: String,
}

/// What was collected.
#[derive(Debug, Default)]
pub struct Report {
    /// What there is.
    pub papers: Vec<Paper>,
    /// What there is not.
    pub missing: Vec<Missing>,
}

impl Report {
    pub(super) fn put(&mut self, name: &str, text: Result<String, String>) {
        let name = name.to_owned();
        match text {
            Ok(text) => self.papers.push(Paper { name, text }),
            Err(why) => self.missing.push(Missing { name, why }),
        }
    }

    /// The end of a file, in whole lines.
    pub(super) fn put_file(&mut self, name: &str, path: &Path) {
        let text = File::open(path).and_then(end_of);
        self.put(
            name,
            text.map_err(|error| format!("{}: {error}", path.display())),
        );
    }

    /// The same of a file in a directory in which somebody else may put what he likes: this is run by root, and shows
    /// nobody more than he may see himself.
    pub(super) fn put_foreign_file(&mut self, name: &str, folder: &Path, path: &Path) {
        let text = open_foreign(folder, path).and_then(end_of);
        let whole = folder.join(path);
        self.put(
            name,
            text.map_err(|error| format!("{}: {error}", whole.display())),
        );
    }
}

/// Opens a regular file without following a link below `folder`.
fn open_foreign(folder: &Path, path: &Path) -> io::Result<File> {
    let how = OpenHow::new()
        // A pipe would keep whoever opens it.
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let file = File::from(openat2(File::open(folder)?, path, how)?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

fn end_of(mut file: File) -> io::Result<String> {
    // Of what the kernel tells the length is zero.
    let skipped = file.metadata()?.len().saturating_sub(MOST_BYTES);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    let whole = match skipped {
        0 => 0,
        _ => bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1),
    };
    Ok(String::from_utf8_lossy(&bytes[whole..]).into_owned())
}

/// The first paragraph of a file: of many processors, one.
pub(super) fn first(path: &str) -> Result<String, String> {
    let text = File::open(path).and_then(end_of);
    let text = text.map_err(|error| format!("{path}: {error}"))?;
    let end = text.find("\n\n").map_or(text.len(), |end| end + 1);
    Ok(text[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn of_a_long_file_it_is_the_end_in_whole_lines() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("log");
        let line = "0123456789 äöü\n";
        let long = line.repeat(2 * MOST_BYTES as usize / line.len());
        fs::write(&path, &long).expect("a file");
        let read = || File::open(&path).and_then(end_of).expect("it is there");
        let end = read();
        assert!(long.ends_with(&end) && end.starts_with(line));
        assert!(end.len() as u64 > MOST_BYTES - line.len() as u64);
        fs::write(&path, "short\n\nand more").expect("a file");
        assert_eq!(read(), "short\n\nand more");
        assert_eq!(first(&path.display().to_string()), Ok("short\n".to_owned()));
        let mut report = Report::default();
        report.put_file("b", &folder.path().join("b"));
        assert!(report.missing[0].why.contains("No such file"), "{report:?}");
    }
    #[test]
    fn links_and_pipes_in_a_directory_of_somebody_else_are_not_read() {
        let root = tempfile::tempdir().expect("a directory");
        let (secret, folder) = (root.path().join("secret"), root.path().join("state"));
        let guest = folder.join("guests/db");
        fs::create_dir_all(&guest).expect("a directory");
        fs::write(&secret, "a secret").expect("a file");
        fs::write(guest.join("log"), "the log").expect("a file");
        symlink(&secret, guest.join("log.1")).expect("a link");
        symlink(root.path(), folder.join("guests/web")).expect("a link");
        mkfifo(&guest.join("events"), Mode::S_IRUSR).expect("a pipe");
        // The directory itself is where the configuration says, by whatever links.
        let linked = root.path().join("linked");
        symlink(&folder, &linked).expect("a link");
        let mut report = Report::default();
        for path in [
            "guests/db/log",
            "guests/db/log.1",
            "guests/web/secret",
            "guests/db/events",
            "../secret",
        ] {
            report.put_foreign_file(path, &linked, Path::new(path));
        }
        let [log] = &report.papers[..] else {
            panic!("{report:?}");
        };
        assert_eq!(log.text, "the log");
        assert_eq!(report.missing.len(), 4, "{report:?}");
    }
}
