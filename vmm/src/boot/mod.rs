//! Puts a Linux kernel, its initramfs and its parameters into guest memory.
//!
//! The kernel is an uncompressed ELF (`vmlinux`), entered at its 64-bit entry point
//! (Linux, `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol"): no decompressor, no KASLR,
//! no real mode. Before it is loaded, its time stamp counter reads are rewritten so that they
//! exit ([`crate::rewrite`]), and those of the modules in the initramfs ([`initramfs`]). The project's
//! micro-guests are booted in the same way (`rewrite::micro_guest`).

mod acpi;
pub mod initramfs;
mod kernel;
mod layout;
pub mod seed;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use sha2::{Digest, Sha256};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use xxhash_rust::xxh64::xxh64;

use self::kernel::Kernel;
pub use self::layout::EntryState;
use crate::config::MEMORY_MIB;
use crate::ram::GuestRam;
use crate::rewrite::{self, KernelReads, RewriteError, Sites, micro_guest};

/// Start of the text that every Linux kernel carries and prints first.
const LINUX_BANNER: &[u8] = b"Linux version ";

/// What is booted.
#[derive(Debug, Clone)]
pub struct BootImages {
    kernel: Vec<u8>,
    parts: Kernel,
    initrd: Option<Vec<u8>>,
    command_line: String,
    sites: Sites,
    digest: [u8; 32],
}

/// Why a guest cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file cannot be read.
    #[error("cannot read the {what} {}", path.display())]
    Read {
        /// "kernel" or "initramfs".
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel is a bzImage.
    #[error(
        "{} is a compressed kernel (bzImage); ftvm boots the uncompressed ELF inside it: \
         `cargo xtask images` makes one of Debian's kernel, Linux's scripts/extract-vmlinux of any", .0.display()
    )]
    Compressed(PathBuf),
    /// The kernel is not a usable ELF.
    #[error("{} is not a complete x86-64 ELF kernel (vmlinux): {reason}", path.display())]
    NotAKernel {
        /// The kernel's path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel's TSC reads could not be rewritten.
    #[error("cannot make the kernel's time stamp counter reads exit")]
    Rewrite(#[from] RewriteError),
    /// Kernel and initramfs do not fit.
    #[error(
        "the guest's {memory_mib} MiB of memory cannot hold the kernel, which ends at {kernel_mib} MiB, \
         and the initramfs of {initrd_mib} MiB: give the guest at least {} MiB, and what its programs \
         need (memory_mib in the configuration, or --memory; at most {})",
        kernel_mib + initrd_mib, MEMORY_MIB.end()
    )]
    TooLarge {
        /// Memory of the guest.
        memory_mib: u64,
        /// Where the kernel ends in it.
        kernel_mib: u64,
        /// Size of the initramfs.
        initrd_mib: u64,
    },
    /// The command line is too long or has forbidden characters.
    #[error(
        "the kernel command line {0}: see what is added to it, in `append` of the configuration and \
         with --append"
    )]
    CommandLine(String),
    /// Loading failed.
    #[error("loading the guest failed: {0}")]
    Load(String),
}

impl BootImages {
    /// Reads the images and rewrites the TSC reads of the kernel, as `reads` says, and those of its
    /// modules, which stay exact. What they are is checked, and that they fit into `memory_bytes`.
    ///
    /// # Errors
    /// [`BootError`] names the file that is missing, cut or of the wrong kind, or what does not fit.
    pub fn open(
        kernel_path: &Path,
        initrd_path: Option<&Path>,
        command_line: &str,
        reads: KernelReads,
        memory_bytes: u64,
    ) -> Result<Self, BootError> {
        check_command_line(command_line).map_err(BootError::CommandLine)?;
        let read = |what, path: &Path| {
            fs::read(path).map_err(|source| BootError::Read {
                what,
                path: path.to_owned(),
                source,
            })
        };
        let mut kernel = read("kernel", kernel_path)?;
        if kernel.get(0x202..0x206) == Some(b"HdrS") {
            return Err(BootError::Compressed(kernel_path.to_owned()));
        }
        let not_a_kernel = |reason| BootError::NotAKernel {
            path: kernel_path.to_owned(),
            reason,
        };
        let sites = rewrite::rewrite(&mut kernel, reads).map_err(|e| match e {
            RewriteError::NotElf(reason) => not_a_kernel(reason),
            other => BootError::Rewrite(other),
        })?;
        if !micro_guest::is_marked(&kernel) && memchr::memmem::find(&kernel, LINUX_BANNER).is_none()
        {
            return Err(not_a_kernel("it does not say \"Linux version\"".into()));
        }
        let parts = Kernel::parse(&kernel).map_err(not_a_kernel)?;
        let mut initrd = initrd_path
            .map(|path| read("initramfs", path))
            .transpose()?;
        let initrd_bytes = initrd.as_ref().map_or(0, Vec::len) as u64;
        initrd_address(&parts, initrd_bytes, memory_bytes)?;
        if let Some(initrd) = &mut initrd {
            initramfs::rewrite_modules(initrd).log();
        }
        let mut hash = Sha256::new();
        for part in [
            &kernel[..],
            initrd.as_deref().unwrap_or(&[]),
            command_line.as_bytes(),
        ] {
            hash.update((part.len() as u64).to_le_bytes());
            // Tells another image from this one, not one that was made to look like it. SHA-256 of
            // some 70 MB takes seconds on a processor without instructions for it.
            hash.update(xxh64(part, 0).to_le_bytes());
        }
        Ok(Self {
            kernel,
            parts,
            initrd,
            command_line: command_line.to_owned(),
            sites,
            digest: hash.finalize().into(),
        })
    }

    /// Digest of kernel and initramfs, as rewritten, and of the command line.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The instructions that were found and rewritten.
    #[must_use]
    pub fn sites(&self) -> &Sites {
        &self.sites
    }

    /// Writes everything to guest memory.
    ///
    /// # Errors
    /// [`BootError`] when it does not fit or is damaged.
    pub fn load(&self, memory: &GuestRam) -> Result<EntryState, BootError> {
        let load_failed = |e: &dyn std::error::Error| BootError::Load(e.to_string());
        let memory_bytes = memory.last_addr().0 + 1;
        (self.parts.load(&self.kernel, memory)).map_err(|e| load_failed(&e))?;

        let initrd = self.initrd.as_deref().unwrap_or(&[]);
        let initrd_address = initrd_address(&self.parts, initrd.len() as u64, memory_bytes)?;
        memory
            .write_slice(initrd, GuestAddress(initrd_address))
            .map_err(|e| load_failed(&e))?;

        let mut command_line = self.command_line.clone().into_bytes();
        command_line.push(0);
        memory
            .write_slice(&command_line, GuestAddress(layout::COMMAND_LINE))
            .map_err(|e| load_failed(&e))?;

        let tables = acpi::write(memory, layout::ACPI_TABLES).map_err(|e| load_failed(&e))?;
        let mut params = boot_params {
            acpi_rsdp_addr: tables,
            ..boot_params::default()
        };
        params.hdr.type_of_loader = 0xff;
        params.hdr.boot_flag = 0xaa55;
        params.hdr.header = u32::from_le_bytes(*b"HdrS");
        params.hdr.kernel_alignment = 0x0100_0000;
        params.hdr.cmd_line_ptr = layout::COMMAND_LINE as u32;
        params.hdr.setup_data = layout::RNG_SEED;
        params.hdr.cmdline_size = layout::COMMAND_LINE_BYTES as u32;
        if !initrd.is_empty() {
            params.hdr.ramdisk_image = initrd_address as u32;
            params.hdr.ramdisk_size = initrd.len() as u32;
        }
        for (n, (address, size)) in layout::usable_ram(memory_bytes).into_iter().enumerate() {
            params.e820_table[n] = boot_e820_entry {
                addr: address,
                size,
                r#type: 1,
            };
            params.e820_entries += 1;
        }
        LinuxBootConfigurator::write_bootparams(
            &BootParams::new(&params, GuestAddress(layout::ZERO_PAGE)),
            memory,
        )
        .map_err(|e| load_failed(&e))?;
        layout::write_tables(memory).map_err(|e| load_failed(&e))?;
        Ok(layout::entry_state(self.parts.entry()))
    }
}

/// Where the initramfs goes, if kernel and initramfs fit into memory.
fn initrd_address(kernel: &Kernel, initrd_bytes: u64, memory_bytes: u64) -> Result<u64, BootError> {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    layout::initrd_address(memory_bytes, kernel.end(), initrd_bytes).ok_or(BootError::TooLarge {
        memory_mib: memory_bytes >> 20,
        kernel_mib: mib(kernel.end()),
        initrd_mib: mib(initrd_bytes),
    })
}

/// Whether a guest can be given this command line, or why not.
fn check_command_line(command_line: &str) -> Result<(), String> {
    const LONGEST: usize = layout::COMMAND_LINE_BYTES - 1;
    if command_line.len() > LONGEST {
        return Err(format!(
            "has {} bytes, and Linux takes {LONGEST}",
            command_line.len()
        ));
    }
    // Between words Linux takes any white space.
    match command_line.find(|c: char| c.is_control() && !c.is_whitespace()) {
        Some(at) => Err(format!("has a control character, after {at} bytes")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_has_the_room_that_linux_gives_it() {
        let longest = "x".repeat(2047);
        assert_eq!(check_command_line(&longest), Ok(()));
        assert_eq!(check_command_line("a=b\tc=\u{fc}\n"), Ok(()));
        let error = check_command_line(&format!("{longest}x")).expect_err("too long");
        assert!(
            error.contains("2048 bytes, and Linux takes 2047"),
            "{error}"
        );
        assert!(check_command_line("a\0b").is_err());
    }

    #[test]
    fn too_little_memory_is_told_with_what_it_takes() {
        let error = BootError::TooLarge {
            memory_mib: 32,
            kernel_mib: 62,
            initrd_mib: 3,
        };
        let told = error.to_string();
        assert!(told.contains("at least 65 MiB"), "{told}");
    }
}
