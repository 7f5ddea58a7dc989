//! What a report is made of.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

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
        let text = end_of(path).map_err(|error| format!("{}: {error}", path.display()));
        self.put(name, text);
    }
}

fn end_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
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
    let text = end_of(Path::new(path)).map_err(|error| format!("{path}: {error}"))?;
    let end = text.find("\n\n").map_or(text.len(), |end| end + 1);
    Ok(text[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn of_a_long_file_it_is_the_end_in_whole_lines() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("log");
        let line = "0123456789 äöü\n";
        let long = line.repeat(2 * MOST_BYTES as usize / line.len());
        fs::write(&path, &long).expect("a file");
        let end = end_of(&path).expect("it is there");
        assert!(long.ends_with(&end) && end.starts_with(line));
        assert!(end.len() as u64 > MOST_BYTES - line.len() as u64);
        fs::write(&path, "short\n\nand more").expect("a file");
        assert_eq!(end_of(&path).expect("it is there"), "short\n\nand more");
        assert_eq!(first(&path.display().to_string()), Ok("short\n".to_owned()));
        let mut report = Report::default();
        report.put_file("b", &folder.path().join("b"));
        assert!(report.missing[0].why.contains("No such file"), "{report:?}");
    }
}
