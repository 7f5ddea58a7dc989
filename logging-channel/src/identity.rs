//! Who takes part in a log: the virtual machine, and everything that must be equal on both hosts
//! for the same inputs to lead to the same state.

use std::fmt;

use crate::bytes::{FieldError, Fields};
use crate::refusal::{Refusal, RefusalCode};
use transport::Versions;

/// Longest name of a VM, in bytes.
pub const MAX_VM_NAME: usize = 64;

/// Longest name of a disk, in bytes.
pub const MAX_DISK_NAME: usize = 128;

/// Longest name of an epoch's holder, in bytes.
pub const MAX_HOLDER: usize = 128;

/// The longest identity: names with their lengths, two digests, numbers.
pub(crate) const MAX_IDENTITY: usize =
    (1 + MAX_VM_NAME) + 2 * 32 + 8 + 4 + (1 + 8) + (1 + 8) + (1 + MAX_DISK_NAME);

/// SHA-256 of something that must be equal on both hosts.
pub type Digest = [u8; 32];

/// The virtual machine whose log this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the VM, at most [`MAX_VM_NAME`] bytes.
    pub vm: String,
    /// Digest of what it starts from: kernel, initramfs, command line, disk images and device
    /// configuration.
    pub image: Digest,
    /// Digest of the CPU model: CPUID leaves, MSR filter and whatever else the guest can see.
    pub cpu: Digest,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// Frequency of the guest's time stamp counter in kHz, at which it goes on after going live.
    pub tsc_khz: u32,
    /// The number of the disk server that decides who may run it; `None` where nobody is asked, as
    /// in a recording.
    pub arbiter: Option<u64>,
    /// The guest's disk; `None` without one.
    pub disk: Option<DiskIdentity>,
}

/// The disk of a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskIdentity {
    /// Its capacity.
    pub bytes: u64,
    /// What its server calls it, whichever way it is reached; at most [`MAX_DISK_NAME`] bytes.
    /// Empty if the server has no such name for it: two disks cannot be told apart then.
    pub name: String,
}

/// Why bytes are not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The bytes end early.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The VM's name is too long.
    #[error("the VM's name has {0} bytes: at most {MAX_VM_NAME} are allowed")]
    NameTooLong(usize),
    /// The VM's name is not UTF-8.
    #[error("the VM's name is not UTF-8")]
    NameNotUtf8,
    /// The disk's name is too long.
    #[error("the disk's name has {0} bytes: at most {MAX_DISK_NAME} are allowed")]
    DiskNameTooLong(usize),
    /// The disk's name is not UTF-8.
    #[error("the disk's name is not UTF-8")]
    DiskNameNotUtf8,
    /// Neither with nor without a disk server.
    #[error("{0} in place of 0 or 1: whether there is a disk server")]
    Arbiter(u8),
    /// Neither with nor without a disk.
    #[error("{0} in place of 0 or 1: whether there is a disk")]
    Disk(u8),
    /// The name of the epoch's holder is too long.
    #[error("the holder's name has {0} bytes: at most {MAX_HOLDER} are allowed")]
    HolderTooLong(usize),
    /// The name of the epoch's holder is not UTF-8.
    #[error("the holder's name is not UTF-8")]
    HolderNotUtf8,
    /// Bytes follow.
    #[error("{0} bytes follow the identity")]
    Trailing(usize),
}

impl Identity {
    /// Appends the identity: name length u8, name, image, CPU, memory u64, TSC frequency u32,
    /// disk server u8 (0 none, 1 its number u64 follows), disk u8 (0 none, 1 its capacity u64, name length u8 and name follow).
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), IdentityError> {
        if self.vm.len() > MAX_VM_NAME {
            return Err(IdentityError::NameTooLong(self.vm.len()));
        }
        out.push(self.vm.len() as u8);
        out.extend_from_slice(self.vm.as_bytes());
        out.extend_from_slice(&self.image);
        out.extend_from_slice(&self.cpu);
        out.extend_from_slice(&self.memory_bytes.to_le_bytes());
        out.extend_from_slice(&self.tsc_khz.to_le_bytes());
        out.push(u8::from(self.arbiter.is_some()));
        if let Some(arbiter) = self.arbiter {
            out.extend_from_slice(&arbiter.to_le_bytes());
        }
        out.push(u8::from(self.disk.is_some()));
        if let Some(disk) = &self.disk {
            if disk.name.len() > MAX_DISK_NAME {
                return Err(IdentityError::DiskNameTooLong(disk.name.len()));
            }
            out.extend_from_slice(&disk.bytes.to_le_bytes());
            out.push(disk.name.len() as u8);
            out.extend_from_slice(disk.name.as_bytes());
        }
        Ok(())
    }

    pub(crate) fn decode(fields: &mut Fields<'_>) -> Result<Self, IdentityError> {
        let len = usize::from(fields.u8()?);
        if len > MAX_VM_NAME {
            return Err(IdentityError::NameTooLong(len));
        }
        let vm = std::str::from_utf8(fields.bytes(len)?).map_err(|_| IdentityError::NameNotUtf8)?;
        Ok(Self {
            vm: vm.to_owned(),
            image: fields.array()?,
            cpu: fields.array()?,
            memory_bytes: fields.u64()?,
            tsc_khz: fields.u32()?,
            arbiter: match fields.u8()? {
                0 => None,
                1 => Some(fields.u64()?),
                other => return Err(IdentityError::Arbiter(other)),
            },
            disk: match fields.u8()? {
                0 => None,
                1 => Some(DiskIdentity::decode(fields)?),
                other => return Err(IdentityError::Disk(other)),
            },
        })
    }

    /// The first difference that keeps `backup` from replaying this log, or `None`.
    #[must_use]
    pub fn difference(&self, backup: &Identity) -> Option<Refusal> {
        let refusal = |code, message| Some(Refusal { code, message });
        if self.vm != backup.vm {
            return refusal(
                RefusalCode::OtherVm,
                format!(
                    "the backup is for another VM (primary {:?}, backup {:?}): start both with the same VM name",
                    self.vm, backup.vm
                ),
            );
        }
        if self.memory_bytes != backup.memory_bytes {
            return refusal(
                RefusalCode::OtherMemorySize,
                format!(
                    "the backup has another memory size (primary {} bytes, backup {} bytes): start both with the same size",
                    self.memory_bytes, backup.memory_bytes
                ),
            );
        }
        if self.arbiter != backup.arbiter {
            let told = |arbiter: Option<u64>| {
                arbiter.map_or_else(|| "none".to_owned(), |number| format!("{number:016x}"))
            };
            return refusal(
                RefusalCode::OtherArbiter,
                format!(
                    "the backup asks another disk server who may run (primary {}, backup {}): start both with the same --disk-server",
                    told(self.arbiter),
                    told(backup.arbiter)
                ),
            );
        }
        if self.disk != backup.disk {
            return refusal(
                RefusalCode::OtherDisk,
                format!(
                    "the backup has another disk (primary {}, backup {}): start both with the same disk",
                    Told(self.disk.as_ref()),
                    Told(backup.disk.as_ref())
                ),
            );
        }
        if self.image != backup.image {
            return refusal(
                RefusalCode::OtherImage,
                format!(
                    "the backup runs another guest image (primary {}, backup {}): start both with the same kernel, initramfs, command line and configuration",
                    Short(&self.image),
                    Short(&backup.image)
                ),
            );
        }
        if self.cpu != backup.cpu {
            return refusal(
                RefusalCode::OtherCpu,
                format!(
                    "the backup gives its guest another CPU model (primary {}, backup {}): start both with the same version of ftvm and the same CPU model",
                    Short(&self.cpu),
                    Short(&backup.cpu)
                ),
            );
        }
        if self.tsc_khz != backup.tsc_khz {
            return refusal(
                RefusalCode::OtherClock,
                format!(
                    "the backup's guest clock runs at another frequency (primary {} kHz, backup {} kHz): start both with the same TSC frequency",
                    self.tsc_khz, backup.tsc_khz
                ),
            );
        }
        None
    }
}

/// The refusal of a backup with which a primary has no version in common.
pub(crate) fn other_version(primary: Versions, backup: Versions) -> Refusal {
    Refusal {
        code: RefusalCode::OtherVersion,
        message: format!(
            "the backup speaks another protocol version (primary {primary}, backup {backup}): install the same version of ftvm on both hosts, or the one before it on one of them"
        ),
    }
}

impl DiskIdentity {
    fn decode(fields: &mut Fields<'_>) -> Result<Self, IdentityError> {
        let bytes = fields.u64()?;
        let len = usize::from(fields.u8()?);
        if len > MAX_DISK_NAME {
            return Err(IdentityError::DiskNameTooLong(len));
        }
        let name = std::str::from_utf8(fields.bytes(len)?);
        let name = name.map_err(|_| IdentityError::DiskNameNotUtf8)?.to_owned();
        Ok(Self { bytes, name })
    }
}

/// By which right a primary runs its guest, for the arbiter to confirm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Title {
    /// The epoch that it holds.
    pub epoch: u64,
    /// As whom it holds that: at most [`MAX_HOLDER`] bytes.
    pub holder: String,
}

impl Title {
    /// Appends the title: epoch u64, length of the holder's name u8, name.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), IdentityError> {
        out.extend_from_slice(&self.epoch.to_le_bytes());
        encode_claimant(&self.holder, out)
    }

    pub(crate) fn decode(fields: &mut Fields<'_>) -> Result<Self, IdentityError> {
        Ok(Self {
            epoch: fields.u64()?,
            holder: decode_claimant(fields)?,
        })
    }
}

/// Appends who somebody is to the arbiter: length of the name u8, name.
pub(crate) fn encode_claimant(claimant: &str, out: &mut Vec<u8>) -> Result<(), IdentityError> {
    if claimant.len() > MAX_HOLDER {
        return Err(IdentityError::HolderTooLong(claimant.len()));
    }
    out.push(claimant.len() as u8);
    out.extend_from_slice(claimant.as_bytes());
    Ok(())
}

pub(crate) fn decode_claimant(fields: &mut Fields<'_>) -> Result<String, IdentityError> {
    let len = usize::from(fields.u8()?);
    if len > MAX_HOLDER {
        return Err(IdentityError::HolderTooLong(len));
    }
    let claimant = String::from_utf8(fields.bytes(len)?.to_vec());
    claimant.map_err(|_| IdentityError::HolderNotUtf8)
}

/// A disk, in words.
struct Told<'a>(Option<&'a DiskIdentity>);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(DiskIdentity { bytes, name }) if name.is_empty() => {
                write!(f, "{bytes} bytes, without a name of its server's")
            }
            // Quoted: it is the peer's text.
            Some(DiskIdentity { bytes, name }) => write!(f, "{bytes} bytes, {name:?}"),
            None => f.write_str("none"),
        }
    }
}

/// The first bytes of a digest, enough to tell two apart in a message.
struct Short<'a>(&'a Digest);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..6] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            vm: "redis".into(),
            image: [0x12; 32],
            cpu: [0x34; 32],
            memory_bytes: 256 << 20,
            tsc_khz: 2_000_000,
            arbiter: Some(0xa1),
            disk: disk(1 << 30, "17/a"),
        }
    }

    fn disk(bytes: u64, name: &str) -> Option<DiskIdentity> {
        let name = name.to_owned();
        Some(DiskIdentity { bytes, name })
    }

    #[test]
    fn equal_identities_do_not_differ() {
        assert_eq!(identity().difference(&identity()), None);
    }

    #[test]
    fn each_difference_is_named_with_both_values_and_what_to_do() {
        let base = identity();
        let cases: [(RefusalCode, Identity, [&str; 3]); 11] = [
            (
                RefusalCode::OtherVm,
                Identity {
                    vm: "web".into(),
                    ..base.clone()
                },
                ["\"redis\"", "\"web\"", "same VM name"],
            ),
            (
                RefusalCode::OtherImage,
                Identity {
                    image: [0x56; 32],
                    ..base.clone()
                },
                ["121212", "565656", "same kernel"],
            ),
            (
                RefusalCode::OtherCpu,
                Identity {
                    cpu: [0x78; 32],
                    ..base.clone()
                },
                ["343434", "787878", "same CPU model"],
            ),
            (
                RefusalCode::OtherMemorySize,
                Identity {
                    memory_bytes: 128 << 20,
                    ..base.clone()
                },
                ["268435456", "134217728", "same size"],
            ),
            (
                RefusalCode::OtherClock,
                Identity {
                    tsc_khz: 3,
                    ..base.clone()
                },
                ["2000000 kHz", "backup 3 kHz", "same TSC"],
            ),
            (
                RefusalCode::OtherArbiter,
                Identity {
                    arbiter: Some(0xb2),
                    disk: disk(1 << 30, "18/a"),
                    ..base.clone()
                },
                ["00000000000000a1", "00000000000000b2", "same --disk-server"],
            ),
            (
                RefusalCode::OtherArbiter,
                Identity {
                    arbiter: None,
                    ..base.clone()
                },
                ["00000000000000a1", "backup none", "same --disk-server"],
            ),
            (
                RefusalCode::OtherDisk,
                Identity {
                    disk: None,
                    ..base.clone()
                },
                ["primary 1073741824 bytes", "backup none", "same disk"],
            ),
            (
                RefusalCode::OtherDisk,
                Identity {
                    disk: disk(512, "17/a"),
                    ..base.clone()
                },
                ["primary 1073741824 bytes", "backup 512 bytes", "same disk"],
            ),
            (
                RefusalCode::OtherDisk,
                Identity {
                    disk: disk(1 << 30, "17/b"),
                    ..base.clone()
                },
                ["\"17/a\"", "\"17/b\"", "same disk"],
            ),
            (
                RefusalCode::OtherDisk,
                Identity {
                    disk: disk(1 << 30, ""),
                    ..base.clone()
                },
                ["\"17/a\"", "without a name", "same disk"],
            ),
        ];
        for (code, other, words) in cases {
            let refusal = base.difference(&other).expect("they differ");
            assert_eq!(refusal.code, code);
            for word in words {
                assert!(refusal.message.contains(word), "{word} in {refusal}");
            }
        }
    }

    #[test]
    fn it_survives_the_wire_and_its_prefixes_do_not() {
        let mut bytes = Vec::new();
        identity().encode(&mut bytes).expect("encodes");
        assert_eq!(Identity::decode(&mut Fields::new(&bytes)), Ok(identity()));
        for len in 0..bytes.len() {
            assert!(Identity::decode(&mut Fields::new(&bytes[..len])).is_err());
        }
        let diskless = Identity {
            arbiter: None,
            disk: None,
            ..identity()
        };
        let mut bytes = Vec::new();
        diskless.encode(&mut bytes).expect("encodes");
        assert_eq!(Identity::decode(&mut Fields::new(&bytes)), Ok(diskless));
        *bytes.last_mut().expect("not empty") = 2;
        assert_eq!(
            Identity::decode(&mut Fields::new(&bytes)),
            Err(IdentityError::Disk(2))
        );
        let before_last = bytes.len() - 2;
        bytes[before_last] = 3;
        assert_eq!(
            Identity::decode(&mut Fields::new(&bytes)),
            Err(IdentityError::Arbiter(3))
        );
    }

    #[test]
    fn a_long_name_is_refused_both_ways() {
        let long = Identity {
            vm: "x".repeat(MAX_VM_NAME + 1),
            ..identity()
        };
        assert_eq!(
            long.encode(&mut Vec::new()),
            Err(IdentityError::NameTooLong(65))
        );
        let long = Identity {
            disk: disk(1, &"x".repeat(MAX_DISK_NAME + 1)),
            ..identity()
        };
        let too_long = Err(IdentityError::DiskNameTooLong(129));
        assert_eq!(long.encode(&mut Vec::new()), too_long);
        assert_eq!(
            Identity::decode(&mut Fields::new(&[65; 200])),
            Err(IdentityError::NameTooLong(65))
        );
    }
}
