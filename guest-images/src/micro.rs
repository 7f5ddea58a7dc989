//! Micro-guests: self-checking guests of a few kilobytes, one for each hard spot of recording and
//! replaying.
//!
//! Their sources are in `guest-images/micro`, in GNU assembler; `micro.inc` there says what they
//! have in common. They are assembled and linked by binutils' `as` and `ld`, and booted like a
//! kernel: ftvm knows them by an ELF note.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::command::run;
use crate::error::MicroGuestError;

/// One micro-guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MicroGuest {
    /// Its name, as it prints it itself.
    pub name: &'static str,
    /// Whether it can be told to be quiet (`micro.quiet=N`): then nothing but its stops brings it
    /// interrupts.
    pub can_be_quiet: bool,
    source: &'static str,
}

/// The guest of the source file of this name.
macro_rules! guest {
    ($name:literal) => {
        guest!($name, false)
    };
    ($name:literal, quiet) => {
        guest!($name, true)
    };
    ($name:literal, $can_be_quiet:literal) => {
        MicroGuest {
            name: $name,
            can_be_quiet: $can_be_quiet,
            source: include_str!(concat!("../micro/", $name, ".S")),
        }
    };
}

/// Guests whose replay must not differ, on hosts with shadow paging.
pub const DETERMINISTIC: [MicroGuest; 12] = [
    ACCESSED_BITS,
    guest!("fpu-sse", quiet),
    guest!("hypercalls"),
    guest!("nested-exceptions"),
    guest!("page-fault", quiet),
    guest!("rep-strings", quiet),
    guest!("self-modifying", quiet),
    guest!("sti-hlt"),
    guest!("system-calls", quiet),
    guest!("timer-hot-loop"),
    guest!("tsc"),
    guest!("tsc-cached"),
];

/// The guest whose replay differs under nested paging, wherever the host's stops show in the TLB.
pub const ACCESSED_BITS: MicroGuest = guest!("accessed-bits");

/// The guest that executes an instruction that nothing traps: its replay must be found to differ.
pub const UNTRAPPED: MicroGuest = guest!("untrapped-rdrand");

/// What sources include, and the linker's script.
const SHARED: [(&str, &str); 5] = [
    (
        "command-line.inc",
        include_str!("../micro/command-line.inc"),
    ),
    ("micro.inc", include_str!("../micro/micro.inc")),
    ("paging.inc", include_str!("../micro/paging.inc")),
    ("report.inc", include_str!("../micro/report.inc")),
    (SCRIPT, include_str!("../micro/micro.ld")),
];
const SCRIPT: &str = "micro.ld";
const ASSEMBLER: &str = "as";
const LINKER: &str = "ld";

impl MicroGuest {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        DETERMINISTIC.into_iter().chain([UNTRAPPED])
    }

    /// The name of its image below the images' directory.
    #[must_use]
    pub fn image(&self) -> String {
        format!("micro/{}.elf", self.name)
    }

    /// Assembles and links it: the same bytes from the same binutils.
    ///
    /// # Errors
    ///
    /// When binutils is not installed, or does not take the source.
    pub fn build(&self) -> Result<Vec<u8>, MicroGuestError> {
        let directory = tempfile::tempdir().map_err(MicroGuestError::Temporary)?;
        let directory = directory.path();
        let (source, object, image) = (
            format!("{}.S", self.name),
            format!("{}.o", self.name),
            format!("{}.elf", self.name),
        );
        for (name, text) in SHARED.into_iter().chain([(source.as_str(), self.source)]) {
            fs::write(directory.join(name), text).map_err(MicroGuestError::Temporary)?;
        }
        binutil(
            directory,
            ASSEMBLER,
            &["--64", "--fatal-warnings", "-o", &object, &source],
        )?;
        binutil(
            directory,
            LINKER,
            &["--fatal-warnings", "-T", SCRIPT, "-o", &image, &object],
        )?;
        fs::read(directory.join(image)).map_err(MicroGuestError::Temporary)
    }
}

/// What the guests are made with, as the assembler introduces itself.
///
/// # Errors
///
/// When binutils is not installed.
pub fn binutils() -> Result<String, MicroGuestError> {
    let greeting = binutil(Path::new("."), ASSEMBLER, &["--version"])?;
    Ok(greeting.lines().next().unwrap_or_default().to_owned())
}

/// Runs a program of binutils in `directory`; returns what it printed.
fn binutil(directory: &Path, program: &str, arguments: &[&str]) -> Result<String, MicroGuestError> {
    let mut command = Command::new(program);
    Ok(run(command.args(arguments).current_dir(directory))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Object as _, ObjectSection as _};

    #[test]
    fn every_source_is_a_guest() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("micro");
        let mut files: Vec<String> = fs::read_dir(directory)
            .expect("the sources")
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .filter_map(|name| name.strip_suffix(".S").map(str::to_owned))
            .collect();
        files.sort();
        let mut names: Vec<&str> = MicroGuest::all().map(|guest| guest.name).collect();
        names.sort_unstable();
        assert_eq!(files, names);
    }

    #[test]
    fn guests_are_marked_and_call_themselves_by_their_name() {
        for guest in MicroGuest::all() {
            let image = guest.build().expect("binutils takes the source");
            let elf = object::File::parse(&*image).expect("an ELF file");
            let note = elf.section_by_name(".note.ftvm").expect("a note");
            let note = note.data().expect("its contents");
            assert!(note.ends_with(b"micro-guest\0"), "{}", guest.name);
            let name = format!("GUEST \"{}\"", guest.name);
            assert!(guest.source.contains(&name), "{}", guest.name);
        }
    }

    #[test]
    fn the_same_source_gives_the_same_image() {
        let [first, second] = [UNTRAPPED, UNTRAPPED].map(|guest| guest.build().expect("built"));
        assert!(first == second);
    }

    #[test]
    fn what_binutils_refuses_is_shown() {
        let wrong = MicroGuest {
            name: "wrong",
            can_be_quiet: false,
            source: "no such instruction\n",
        };
        let error = wrong.build().expect_err("no instruction").to_string();
        assert!(error.contains("wrong.S:1"), "{error}");
    }
}
