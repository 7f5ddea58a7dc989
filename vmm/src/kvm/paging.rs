//! Who translates a guest's addresses on this host.

use std::fs;
use std::path::Path;

/// Who translates a guest's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paging {
    /// KVM, by page tables of its own that follow the guest's: it sets the accessed and dirty bits in
    /// those, at faults that follow from the guest.
    Shadow,
    /// The processor, through the guest's page tables and KVM's (EPT, NPT): it sets these bits when its
    /// TLB makes it look.
    Nested,
}

/// Where KVM's modules tell whether they use nested paging: Y, or 1 from older ones.
const PARAMETERS: [&str; 2] = ["kvm_amd/parameters/npt", "kvm_intel/parameters/ept"];

impl Paging {
    /// As KVM's module on this host was loaded. Where it does not tell, what is right under either:
    /// shadow paging. To drop KVM's page tables empties the TLB too, and costs more than to empty it alone.
    #[must_use]
    pub fn of_host() -> Self {
        Self::told().unwrap_or(Self::Shadow)
    }

    /// As KVM's module on this host was loaded, if it tells. The doctor tries it out.
    #[must_use]
    pub fn told() -> Option<Self> {
        Self::told_below(Path::new("/sys/module"))
    }

    fn told_below(modules: &Path) -> Option<Self> {
        let told = PARAMETERS
            .iter()
            .find_map(|parameter| fs::read_to_string(modules.join(parameter)).ok());
        match told?.trim() {
            "Y" | "1" => Some(Self::Nested),
            "N" | "0" => Some(Self::Shadow),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modules_parameter_tells() {
        let modules = tempfile::tempdir().expect("a directory");
        let told = || Paging::told_below(modules.path());
        assert_eq!(told(), None, "nothing tells");
        for (parameter, value, paging) in [
            ("kvm_intel/parameters/ept", "Y\n", Paging::Nested),
            ("kvm_intel/parameters/ept", "N\n", Paging::Shadow),
            ("kvm_intel/parameters/ept", "1\n", Paging::Nested),
            ("kvm_amd/parameters/npt", "0\n", Paging::Shadow),
            ("kvm_amd/parameters/npt", "Y\n", Paging::Nested),
        ] {
            let file = modules.path().join(parameter);
            fs::create_dir_all(file.parent().expect("a parent")).expect("directories");
            fs::write(&file, value).expect("a file");
            assert_eq!(told(), Some(paging), "{parameter}: {value}");
        }
    }
}
