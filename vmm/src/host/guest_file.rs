//! A guest's definition as the configuration that its process reads.

use disk_server::fleet::{Definition, LagBounds, NamedHosts};
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
    #[serde(skip_serializing_if = "NamedHosts::is_all")]
    hosts: &'a NamedHosts,
    lag: LagBounds,
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
        hosts: &definition.hosts,
        lag: definition.lag,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use disk_server::fleet::Image;

    use super::*;
    use crate::config::VmConfig;

    #[test]
    fn a_guest_is_configured_as_it_was_defined() {
        let image = |path: &str| Image {
            path: path.to_owned(),
            sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
                .parse()
                .expect("a digest"),
        };
        let definition = Definition {
            vm: "db".parse().expect("a name"),
            memory_mib: 256,
            kernel: image("/images/vmlinux"),
            initrd: Some(image("/images/redis \"1\".cpio")),
            append: "quiet ftvm.ip=10.0.0.1/24".to_owned(),
            mac: "52:54:00:f7:00:02".to_owned(),
            clock: "jiffies".to_owned(),
            disk: Some("nbd://10.0.2.9/db".to_owned()),
            export: Some("db".parse().expect("a name")),
            heartbeat_timeout_ms: Some(2000),
            lag: LagBounds {
                yellow_ms: 7,
                red_ms: 8,
            },
            hosts: NamedHosts::from_iter(["a", "b"].map(|host| host.parse().expect("a name"))),
        };
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("guest.toml");
        std::fs::write(&path, text(&definition).expect("plain values")).expect("a file");
        let vm = VmConfig::read(&path).expect("a configuration");
        assert_eq!((vm.name.as_str(), vm.memory_mib), ("db", 256));
        assert_eq!(
            vm.initrd.as_deref(),
            Some(Path::new("/images/redis \"1\".cpio"))
        );
        assert_eq!(vm.append, definition.append);
        assert_eq!(vm.mac.0, [0x52, 0x54, 0, 0xf7, 0, 2]);
        assert_eq!(
            (vm.heartbeat_timeout_ms, vm.lag),
            (Some(2000), definition.lag)
        );
        assert_eq!(vm.hosts, definition.hosts);
        assert_eq!(vm.clock, crate::config::Clock::Jiffies);
        let disk = vm.disk.expect("it has one");
        assert_eq!(disk.export().as_str(), "db");
    }
}
