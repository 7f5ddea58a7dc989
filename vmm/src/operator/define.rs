//! A guest's configuration as its definition, and what that changes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use disk_server::arbiter::NameError;
use disk_server::fleet::{Definition, DefinitionError, Image};
use serde_json::{Value, json};

use crate::config::{ConfigError, VmConfig};
use crate::host::Images;

/// So much of a digest is shown where two are compared.
const DIGEST_SHOWN: usize = 12;

/// Why a configuration is no definition.
#[derive(Debug, thiserror::Error)]
pub enum DefineError {
    /// It is no configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The guest cannot be called that.
    #[error("name")]
    Name(#[from] NameError),
    /// An image cannot be read here, where it is to be hashed.
    #[error("cannot read {}: define a guest on a host that has its images", path.display())]
    Image {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A path is no text.
    #[error("{} is not UTF-8", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The service would not take it.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
}

/// What a new definition says otherwise than the present one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of what, as in a definition's JSON: `kernel.path`.
    pub field: String,
    /// What the present one says; `None` if nothing.
    pub from: Option<String>,
    /// What the new one says; `None` if nothing.
    pub to: Option<String>,
}

/// The definition of the guest that is configured in this file. Its images are hashed.
///
/// # Errors
/// See [`DefineError`].
pub fn read(path: &Path) -> Result<Definition, DefineError> {
    definition(VmConfig::read(path)?, &mut Images::default())
}

/// The definition of this guest, with the digests of its images, of which some may be known.
///
/// # Errors
/// See [`DefineError`].
pub fn definition(vm: VmConfig, images: &mut Images) -> Result<Definition, DefineError> {
    let definition = Definition {
        vm: vm.name.parse()?,
        memory_mib: vm.memory_mib,
        kernel: image(&vm.kernel, images)?,
        initrd: (vm.initrd.as_deref())
            .map(|path| image(path, images))
            .transpose()?,
        append: vm.append,
        mac: vm.mac.to_string(),
        clock: (vm.clock.to_possible_value())
            .expect("no clock is hidden")
            .get_name()
            .to_owned(),
        disk: vm.disk.as_ref().map(ToString::to_string),
        export: vm.disk.map(|disk| disk.export().clone()),
        heartbeat_timeout_ms: vm.heartbeat_timeout_ms,
        lag: vm.lag,
        hosts: vm.hosts,
    };
    definition.check()?;
    Ok(definition)
}

/// An image as this host has it.
///
/// # Errors
/// [`DefineError::Image`], [`DefineError::Path`].
pub fn image(path: &Path, images: &mut Images) -> Result<Image, DefineError> {
    let unreadable = |source| DefineError::Image {
        path: path.to_owned(),
        source,
    };
    // Links stay: another host may have them elsewhere.
    let absolute = std::path::absolute(path).map_err(unreadable)?;
    match absolute.into_os_string().into_string() {
        Ok(path) => Ok(Image {
            sha256: images.digest(&path).map_err(unreadable)?,
            path,
        }),
        Err(path) => Err(DefineError::Path { path: path.into() }),
    }
}

/// What `new` says otherwise than the `present` definition.
#[must_use]
pub fn changes(present: Option<&Definition>, new: &Definition) -> Vec<Change> {
    let old = present.map_or_else(BTreeMap::new, |present| fields(&json!(present)));
    let new = fields(&json!(new));
    let names = old
        .keys()
        .chain(new.keys().filter(|name| !old.contains_key(*name)));
    let change = |name: &String| Change {
        field: name.clone(),
        from: old.get(name).cloned(),
        to: new.get(name).cloned(),
    };
    let mut changes: Vec<Change> = names.map(change).collect();
    changes.retain(|change| change.from != change.to);
    changes.sort_by(|one, other| one.field.cmp(&other.field));
    changes
}

/// All that a definition says, by name.
fn fields(definition: &Value) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut left = vec![(String::new(), definition)];
    while let Some((name, value)) = left.pop() {
        match value {
            Value::Null => {}
            Value::String(text) if text.is_empty() => {}
            Value::Object(inner) => left.extend(inner.iter().map(|(inner, value)| {
                let dot = if name.is_empty() { "" } else { "." };
                (format!("{name}{dot}{inner}"), value)
            })),
            Value::String(text) if name.ends_with("sha256") => {
                let shown = text.get(..DIGEST_SHOWN).unwrap_or(text);
                fields.insert(name, format!("{shown}…"));
            }
            Value::String(text) => drop(fields.insert(name, text.clone())),
            other => drop(fields.insert(name, other.to_string())),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_configuration_becomes_a_definition_with_absolute_paths_and_digests() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.toml");
        let kernel = folder.path().join("vmlinux");
        let text = "name = \"db\"\nkernel = \"vmlinux\"\nmac = \"52:54:00:f7:00:0a\"\n\
                    clock = \"pm-timer\"\ndisk = \"nbd://192.0.2.1/db\"\n[lag]\nred_ms = 500\n";
        fs::write(&path, text).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("a host that has its images"), "{error}");

        fs::write(&kernel, "abc").unwrap();
        let definition = read(&path).unwrap();
        assert_eq!(definition.kernel.path, kernel.to_str().unwrap());
        assert_eq!(
            definition.kernel.sha256.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(definition.mac, "52:54:00:f7:00:0a");
        assert_eq!(definition.clock, "pm-timer");
        assert_eq!(definition.export.as_ref().unwrap().as_str(), "db");
        assert_eq!(
            (definition.lag.yellow_ms, definition.lag.red_ms),
            (100, 500)
        );

        fs::write(&kernel, "abcd").unwrap();
        fs::write(
            &path,
            text.replace("pm-timer", "jiffies").replace("disk", "#"),
        )
        .unwrap();
        let changes = changes(Some(&definition), &read(&path).unwrap());
        let fields: Vec<&str> = changes.iter().map(|change| &*change.field).collect();
        assert_eq!(fields, ["clock", "disk", "export", "kernel.sha256"]);
        assert_eq!(changes[0].to.as_deref(), Some("jiffies"));
        assert_eq!(changes[1].to, None);
        assert_eq!(changes[3].from.as_deref(), Some("ba7816bf8f01…"));
    }

    #[test]
    fn the_first_definition_is_all_new() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.toml");
        fs::write(&path, "name = \"db\"\nkernel = \"db.toml\"").unwrap();
        let definition = read(&path).unwrap();
        let all = changes(None, &definition);
        assert!(all.iter().all(|change| change.from.is_none()));
        assert_eq!(changes(Some(&definition), &definition), []);
    }
}
