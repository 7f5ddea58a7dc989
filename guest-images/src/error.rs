//! What can go wrong, one error enum per operation.

use std::io;
use std::path::PathBuf;

/// A list of pinned packages is not as it should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line} of guest-images/packages.lock is not as it should be: `{text}`")]
pub struct LockError {
    /// The line, from 1.
    pub line: usize,
    /// What it says.
    pub text: String,
}

/// A program that images are made with did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// It could not be started at all.
    #[error(
        "cannot start `{command}`: `cargo xtask setup` installs what images are made with, on Debian"
    )]
    Start {
        /// The command line.
        command: String,
        /// Why it did not start.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("`{command}` failed: {stderr}")]
    Failed {
        /// The command line.
        command: String,
        /// What it printed to standard error.
        stderr: String,
    },
}

/// A Debian package could not be found, downloaded or unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// A command of the package manager did not do its work.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The package is not among those that are pinned, or the archive has none.
    #[error(
        "package `{name}` is not in guest-images/packages.lock, or not in Debian's archive: \
         `cargo xtask images --renew` pins what images are made of"
    )]
    Unknown {
        /// The package's name.
        name: String,
    },
    /// Pinned files are neither on the mirror nor on snapshot.debian.org.
    #[error(
        "cannot get {packages} as pinned in guest-images/packages.lock; if the archive has newer \
         ones by now, `cargo xtask images --renew` pins those. Tried:{said}"
    )]
    Gone {
        /// Names and versions.
        packages: String,
        /// What apt said.
        said: String,
    },
    /// Apt has no Debian archive.
    #[error("apt has no source with origin Debian and component main: add one to /etc/apt")]
    NoSources,
    /// The list of pinned packages is broken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The package lacks a file that it should have.
    #[error("package {package} {version} has no `{file}`")]
    MissingFile {
        /// The package's name.
        package: String,
        /// Its version.
        version: String,
        /// The file's path inside it.
        file: String,
    },
    /// The package store could not be read or written.
    #[error("cannot access the package store at {path}")]
    Store {
        /// The file or directory concerned.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A kernel image is not one that vmlinux can be extracted from.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelError {
    /// The file ends before the part that was to be read.
    #[error("the kernel image is truncated: {what} ends at byte {needed}, the file has {len}")]
    Truncated {
        /// The part that is cut off.
        what: &'static str,
        /// Where the part should end.
        needed: u64,
        /// The file's length.
        len: u64,
    },
    /// There is no Linux setup header.
    #[error("not a Linux bzImage: the setup header's magic `HdrS` is missing at offset 0x202")]
    NotBzImage,
    /// The boot protocol is too old to name the payload.
    #[error(
        "boot protocol {major}.{minor} does not tell where the payload is: 2.8 or later is needed"
    )]
    OldProtocol {
        /// Major version.
        major: u8,
        /// Minor version.
        minor: u8,
    },
    /// The payload is compressed in a way that is not supported.
    #[error(
        "the kernel's payload starts with {magic:02x?}: only LZ4 (legacy frame) and zstd, as in Debian's cloud kernels, are supported"
    )]
    Compression {
        /// First four bytes of the payload.
        magic: [u8; 4],
    },
    /// The payload does not decompress.
    #[error("the kernel's payload is corrupt: {reason}")]
    Corrupt {
        /// The decoder's words.
        reason: String,
    },
    /// The payload decompresses to another size than the kernel says.
    #[error("the kernel's payload decompressed to {got} bytes where its trailer says {expected}")]
    Size {
        /// Bytes that came out.
        got: u64,
        /// Bytes that the trailer promises.
        expected: u64,
    },
    /// What came out is not an ELF file.
    #[error("the kernel's payload is not an ELF file")]
    NotElf,
}

/// The libraries of a program, or the modules of a kernel, could not be collected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DependencyError {
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not the ELF file that it should be.
    #[error("{path} is not a 64-bit little-endian ELF file")]
    Elf {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        #[source]
        source: object::Error,
    },
    /// A compressed module does not decompress.
    #[error("cannot decompress {path}")]
    Decompress {
        /// The file.
        path: PathBuf,
        /// The decoder's words.
        #[source]
        source: io::Error,
    },
    /// A shared library was not found.
    #[error("{wanted_by} needs `{soname}`, which is not in any place it was looked for")]
    MissingLibrary {
        /// The library's soname.
        soname: String,
        /// The program or library that names it.
        wanted_by: PathBuf,
    },
    /// A kernel module was not found.
    #[error("kernel module `{module}` is not under {root}")]
    MissingModule {
        /// The module's name.
        module: String,
        /// Directory that was searched.
        root: PathBuf,
    },
    /// A package that should hold a library could not be had.
    #[error(transparent)]
    Package(#[from] PackageError),
}

/// A micro-guest could not be assembled or linked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MicroGuestError {
    /// A program of binutils did not do its work.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A file in the directory for temporary files could not be written or read.
    #[error("cannot use the directory for temporary files")]
    Temporary(#[source] io::Error),
}

/// A program for guests could not be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// There is no compiler.
    #[error(
        "cannot start the C compiler `{compiler}`: install gcc and libc6-dev (`cargo xtask setup` does)"
    )]
    Missing {
        /// The command.
        compiler: String,
        /// Why it did not start.
        #[source]
        source: io::Error,
    },
    /// The compiler or the linker failed.
    #[error(
        "cannot compile {program}; is libc6-dev installed, for the static C library?\n{stderr}"
    )]
    Refused {
        /// The source's name.
        program: PathBuf,
        /// What the compiler printed.
        stderr: String,
    },
    /// A temporary file could not be written or read.
    #[error("cannot use {path} to compile a program")]
    Scratch {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A disk does not hold what [`crate::disk`]'s program wrote there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskContentsError {
    /// The disk could not be read.
    #[error("cannot read the disk at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A sector holds an earlier lap: a flushed write was lost.
    #[error(
        "worker {worker}, slot {slot}: the sector at byte {offset} is of lap {found}, \
         and lap {lap} was flushed"
    )]
    Stale {
        /// The worker.
        worker: u64,
        /// Its slot.
        slot: u64,
        /// The sector's place on the disk, in bytes.
        offset: u64,
        /// The lap that is there.
        found: u64,
        /// The lap that must be there, or a later one.
        lap: u64,
    },
    /// A sector holds what this worker never wrote there.
    #[error("worker {worker}, slot {slot}: the sector at byte {offset} is not what it wrote")]
    Foreign {
        /// The worker.
        worker: u64,
        /// Its slot.
        slot: u64,
        /// The sector's place on the disk, in bytes.
        offset: u64,
    },
}

/// The lists that `modprobe` reads could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleListError {
    /// `depmod` did not do its work.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A temporary file could not be written or read.
    #[error("cannot use the directory for temporary files")]
    Temporary(#[source] io::Error),
    /// The modules could not be collected.
    #[error(transparent)]
    Dependency(#[from] DependencyError),
}

/// The disk image could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskImageError {
    /// A program did not do its work: most need root, and room on the disk.
    #[error("the disk image is made by root, and takes room on the disk")]
    Command(#[from] CommandError),
    /// A package could not be had.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A program of ours could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A file or directory could not be used.
    #[error("cannot use {path}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The images could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A package could not be had.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The libraries or modules could not be collected.
    #[error(transparent)]
    Dependency(#[from] DependencyError),
    /// A micro-guest could not be made.
    #[error(transparent)]
    MicroGuest(#[from] MicroGuestError),
    /// A program of ours could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The list of modules for `modprobe` could not be made.
    #[error(transparent)]
    ModuleList(#[from] ModuleListError),
    /// The kernel's ELF file could not be extracted.
    #[error("cannot extract the kernel's ELF file from {path}")]
    Kernel {
        /// The bzImage.
        path: PathBuf,
        /// Why.
        #[source]
        source: KernelError,
    },
    /// The images were not made, or by another version.
    #[error("no guest images are listed in {path}: run `cargo xtask setup`")]
    NotMade {
        /// The list.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
