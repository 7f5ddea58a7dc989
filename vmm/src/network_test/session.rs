//! The session of a test, as far as both ends have to agree on it.

use logging_channel::Identity;

/// As no virtual machine can be called: their names have no spaces.
const NAME: &str = "network test";

/// What stands in place of a virtual machine.
#[must_use]
pub fn identity() -> Identity {
    Identity {
        vm: NAME.into(),
        image: [0; 32],
        cpu: [0; 32],
        memory_bytes: 0,
        tsc_khz: 0,
        arbiter: None,
        disk: None,
    }
}

#[cfg(test)]
mod tests {
    use disk_server::arbiter::VmName;

    use super::*;

    #[test]
    fn no_virtual_machine_has_its_name() {
        assert!(identity().vm.parse::<VmName>().is_err());
    }
}
