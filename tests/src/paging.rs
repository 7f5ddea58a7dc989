//! How a host translates its guests' addresses.

use std::fmt;
use std::str::FromStr;

/// How KVM of an emulated host translates its guests' addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Paging {
    /// By page tables that KVM keeps itself (`npt=0`): when a guest's accessed bits are set follows
    /// from the guest. What hosts have unless they are asked for something else.
    #[default]
    Shadow,
    /// By the processor, from the guest's page tables and KVM's (`npt=1`): what its translation
    /// buffers hold decides as well. What a stock host has.
    Nested,
}

impl Paging {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Shadow, Self::Nested];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shadow => "shadow",
            Self::Nested => "nested",
        }
    }

    /// What `ftvm` is told to protect a guest on such hosts.
    #[must_use]
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Self::Shadow => &[],
            Self::Nested => &["--allow-nested-paging"],
        }
    }

    /// The value of `kvm_amd`'s parameter `npt`.
    pub(crate) fn npt(self) -> u8 {
        match self {
            Self::Shadow => 0,
            Self::Nested => 1,
        }
    }
}

impl fmt::Display for Paging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Paging {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|paging| paging.name() == name)
            .ok_or_else(|| format!("there is `shadow` and `nested` paging, no `{name}`"))
    }
}
