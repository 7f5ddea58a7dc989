//! The shared libraries that a program needs, found by walking `DT_NEEDED`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use object::elf::{DT_NEEDED, FileHeader64, PT_INTERP};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use object::{LittleEndian, elf};

use crate::archive::Archive;
use crate::error::{DependencyError, PackageError};
use crate::packages::{Package, PackageStore};

/// Directories that Debian's dynamic loader searches without being told,
/// in order and relative to the root.
const SEARCH: [&str; 6] = [
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "lib64",
    "usr/lib64",
    "lib",
    "usr/lib",
];

/// Where libraries are looked for.
pub trait LibrarySource {
    /// The file that is the library `soname` for the program or library
    /// `wanted_by`.
    ///
    /// # Errors
    ///
    /// When looking fails; a library that is not there is `None`.
    fn find(&mut self, soname: &str, wanted_by: &Path) -> Result<Option<PathBuf>, PackageError>;
}

/// The libraries of the machine we run on, for programs built on it.
#[derive(Debug, Clone, Copy, Default)]
pub struct MachineLibraries;

impl LibrarySource for MachineLibraries {
    fn find(&mut self, soname: &str, _wanted_by: &Path) -> Result<Option<PathBuf>, PackageError> {
        Ok(SEARCH
            .iter()
            .map(|directory| Path::new("/").join(directory).join(soname))
            .find(|path| path.is_file()))
    }
}

/// The libraries in Debian packages, unpacked as they are asked for.
///
/// A library is looked for in the package of the file that wants it and in the
/// packages which that one depends on: Debian's policy puts it there.
#[derive(Debug)]
pub struct PackageLibraries<'a> {
    store: &'a PackageStore,
    unpacked: Vec<Package>,
}

impl<'a> PackageLibraries<'a> {
    /// Libraries for the programs in `packages`.
    #[must_use]
    pub fn new(store: &'a PackageStore, packages: Vec<Package>) -> Self {
        Self {
            store,
            unpacked: packages,
        }
    }

    /// Every package that something was taken from.
    #[must_use]
    pub fn packages(&self) -> &[Package] {
        &self.unpacked
    }
}

impl LibrarySource for PackageLibraries<'_> {
    fn find(&mut self, soname: &str, wanted_by: &Path) -> Result<Option<PathBuf>, PackageError> {
        let in_package = |package: &Package| {
            SEARCH
                .iter()
                .find_map(|directory| package.find(&format!("{directory}/{soname}")))
        };
        if let Some(file) = self.unpacked.iter().find_map(in_package) {
            return Ok(Some(file));
        }
        let Some(owner) = self
            .unpacked
            .iter()
            .find(|package| wanted_by.starts_with(package.root()))
        else {
            return Ok(None);
        };
        let mut candidates: Vec<String> = owner.depends().map(str::to_owned).collect();
        let likely = package_name(soname);
        candidates.sort_by_key(|name| (*name != likely, !name.starts_with("lib")));
        // Not only in front: `libz.so.1` is in `zlib1g`.
        for name in candidates.iter().filter(|name| name.contains("lib")) {
            let package = match self.store.package(name) {
                // A virtual package, or an alternative that is not there.
                Err(PackageError::Unknown { .. }) => continue,
                result => result?,
            };
            if let Some(file) = in_package(&package) {
                self.unpacked.push(package);
                return Ok(Some(file));
            }
        }
        Ok(None)
    }
}

/// The package that policy puts a library in: `libssl.so.3` is in `libssl3`,
/// `libgcc_s.so.1` in `libgcc-s1`.
fn package_name(soname: &str) -> String {
    let (name, version) = soname.split_once(".so.").unwrap_or((soname, ""));
    let dash = if name.ends_with(|last: char| last.is_ascii_digit()) {
        "-"
    } else {
        ""
    };
    format!("{name}{dash}{version}")
        .replace('_', "-")
        .to_lowercase()
}

/// The dynamic loader and the libraries that `programs` need, directly or by
/// way of each other: path in the file system (without leading slash) and file.
///
/// # Errors
///
/// When a file is not an ELF file or a library is missing.
pub fn closure(
    programs: &[PathBuf],
    source: &mut impl LibrarySource,
) -> Result<BTreeMap<String, PathBuf>, DependencyError> {
    let mut found = BTreeMap::new();
    let mut queue = programs.to_vec();
    while let Some(path) = queue.pop() {
        let linkage = Linkage::read(&path)?;
        let interpreter = linkage.interpreter.iter().filter_map(|path| {
            Some((
                path.trim_start_matches('/').to_owned(),
                path.rsplit('/').next()?.to_owned(),
            ))
        });
        // A library that names the loader means the one that is running, not another.
        let needed = linkage
            .needed
            .iter()
            .filter(|soname| !soname.starts_with("ld-linux"))
            .map(|soname| (format!("lib/x86_64-linux-gnu/{soname}"), soname.clone()));
        for (place, soname) in interpreter.chain(needed) {
            if found.contains_key(&place) {
                continue;
            }
            let file =
                source
                    .find(&soname, &path)?
                    .ok_or_else(|| DependencyError::MissingLibrary {
                        soname: soname.clone(),
                        wanted_by: path.clone(),
                    })?;
            queue.push(file.clone());
            found.insert(place, file);
        }
    }
    Ok(found)
}

/// Adds programs (place in the archive, file) and everything they need.
///
/// # Errors
///
/// As [`closure`], or when a file cannot be read.
pub fn add_programs(
    archive: &mut Archive,
    programs: &[(&str, PathBuf)],
    source: &mut impl LibrarySource,
) -> Result<(), DependencyError> {
    let files: Vec<PathBuf> = programs.iter().map(|(_, file)| file.clone()).collect();
    for (place, file) in closure(&files, source)? {
        archive.file(&place, 0o755, read(&file)?);
    }
    for (place, file) in programs {
        archive.file(place, 0o755, read(file)?);
    }
    Ok(())
}

/// What a program or library asks of the dynamic loader.
#[derive(Debug, Default)]
struct Linkage {
    interpreter: Option<String>,
    needed: Vec<String>,
}

impl Linkage {
    fn read(path: &Path) -> Result<Self, DependencyError> {
        let data = read(path)?;
        Self::parse(&data).map_err(|source| DependencyError::Elf {
            path: path.to_owned(),
            source,
        })
    }

    fn parse(data: &[u8]) -> Result<Self, object::Error> {
        let header = FileHeader64::<LittleEndian>::parse(data)?;
        let endian = header.endian()?;
        let mut linkage = Self::default();
        for segment in header.program_headers(endian, data)? {
            if segment.p_type(endian) == PT_INTERP {
                linkage.interpreter = segment
                    .interpreter(endian, data)?
                    .map(|name| String::from_utf8_lossy(name).into_owned());
            }
        }
        let sections = header.sections(endian, data)?;
        if let Some((entries, strings)) = sections.dynamic(endian, data)? {
            let strings = sections.strings(endian, data, strings)?;
            for entry in entries
                .iter()
                .filter(|entry| entry.tag32(endian) == Some(DT_NEEDED))
            {
                let name = entry.string(endian, strings)?;
                linkage
                    .needed
                    .push(String::from_utf8_lossy(name).into_owned());
            }
        }
        Ok(linkage)
    }
}

/// The contents of one section, if the file has it.
pub(crate) fn section<'data>(
    data: &'data [u8],
    name: &str,
) -> Result<Option<&'data [u8]>, object::Error> {
    let header = elf::FileHeader64::<LittleEndian>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    match sections.section_by_name(endian, name.as_bytes()) {
        Some((_, section)) => {
            use object::read::elf::SectionHeader as _;
            section.data(endian, data).map(Some)
        }
        None => Ok(None),
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, DependencyError> {
    fs::read(path).map_err(|source| DependencyError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sonames_name_their_packages() {
        for (soname, package) in [
            ("libssl.so.3", "libssl3"),
            ("libgcc_s.so.1", "libgcc-s1"),
            ("libjemalloc.so.2", "libjemalloc2"),
            ("libc.so.6", "libc6"),
        ] {
            assert_eq!(package_name(soname), package);
        }
    }

    #[test]
    fn this_test_finds_its_own_libraries() {
        let program = std::env::current_exe().expect("the path of this test");
        let found = closure(&[program], &mut MachineLibraries).expect("its libraries");
        assert!(
            found.contains_key("lib64/ld-linux-x86-64.so.2"),
            "{found:?}"
        );
        assert!(
            found.contains_key("lib/x86_64-linux-gnu/libc.so.6"),
            "{found:?}"
        );
    }

    #[test]
    fn other_files_and_missing_libraries_are_errors() {
        struct Nothing;
        impl LibrarySource for Nothing {
            fn find(&mut self, _: &str, _: &Path) -> Result<Option<PathBuf>, PackageError> {
                Ok(None)
            }
        }
        let program = std::env::current_exe().expect("the path of this test");
        assert!(matches!(
            closure(&[program], &mut Nothing),
            Err(DependencyError::MissingLibrary { .. })
        ));
        let text = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        assert!(matches!(
            closure(&[text], &mut MachineLibraries),
            Err(DependencyError::Elf { .. })
        ));
    }
}
