//! A guest's definition as the configuration that its process reads.

use disk_server::fleet::Definition;
use serde::Serialize;

/// As [`VmConfig`](crate::config::VmConfig) reads it.
#[derive(Serialize)]
struct GuestFile<'a> {
    name: &'a str,
    memory_mib: u64,
    kernel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    initrd: Option<&'a str>,
    append: &'a str,
    mac: &'a str,
    clock: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heartbeat_timeout_ms: Option<u64>,
    lag: Lag,
}

#[derive(Serialize)]
struct Lag {
    yellow_ms: u64,
    red_ms: u64,
}

/// The text of the file.
///
/// # Errors
/// A number is larger than TOML has them.
pub(super) fn text(definition: &Definition) -> Result<String, toml::ser::Error> {
    toml::to_string(&GuestFile {
        name: definition.vm.as_str(),
        memory_mib: definition.memory_mib,
        kernel: &definition.kernel.path,
        initrd: definition.initrd.as_ref().map(|image| &*image.path),
        append: &definition.append,
        mac: &definition.mac,
        clock: &definition.clock,
        disk: definition.disk.as_deref(),
        heartbeat_timeout_ms: definition.heartbeat_timeout_ms,
        lag: Lag {
            yellow_ms: definition.lag.yellow_ms,
            red_ms: definition.lag.red_ms,
        },
    })
}
