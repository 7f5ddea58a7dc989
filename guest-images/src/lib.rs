//! Guest images for ftvm, made from Debian's own binary packages.
//!
//! No kernel is compiled and no binary is kept in the repository: the stock
//! cloud kernels, busybox and Redis come from the Debian archive, pinned by
//! `packages.lock` ([`lock`]); small programs of our own are compiled when the images are made. Out of
//! them this crate makes
//!
//! * `vmlinux`: the kernel's uncompressed ELF file ([`kernel`]), and `vmlinux-debian13`: that of
//!   the next release,
//! * `redis.cpio`: an initramfs with Debian's redis-server,
//! * `load.cpio`: the same with programs that compute beside it ([`load`]),
//! * `tiny.cpio`: an initramfs with busybox alone, for quick tests,
//! * `disk.cpio`: an initramfs that mounts a disk and starts what is on it,
//! * `micro/*.elf`: guests without a kernel, each for one hard spot of
//!   recording and replaying ([`micro`])
//!
//! ([`images`]) and disk images with a Debian root file system, for guests
//! ([`debian`]) and for hosts of the testbed ([`debian_host`]), bit for bit
//! the same whenever the packages are. The parts serve the testbed too, which makes the initramfs of its hosts with them:
//! [`packages`], [`archive`], [`libraries`], [`modules`].

pub mod accessed_bits;
pub mod agent;
pub mod archive;
pub mod clock;
mod command;
pub mod compiler;
mod contents;
mod count;
pub mod debian;
pub mod debian_host;
pub mod debian_kernel;
pub mod disk;
pub mod error;
pub mod files;
pub mod images;
pub mod kernel;
pub mod libraries;
pub mod load;
pub mod lock;
pub mod micro;
mod mirror;
pub mod modules;
pub mod packages;
pub mod page_pressure;
mod renewal;
mod root;
mod selftest;

pub use archive::Archive;
pub use debian_kernel::DebianKernel;
pub use images::{GuestImages, Image};
pub use lock::{Lock, Use};
pub use micro::MicroGuest;
pub use packages::{Package, PackageStore};
