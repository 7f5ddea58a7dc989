//! Kernel modules and the modules they depend on.
//!
//! Some kernels have their modules compressed (`.ko.xz`). They go into an initramfs as they are
//! loaded, because ftvm rewrites them there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::archive::Archive;
use crate::command::run;
use crate::error::{DependencyError, ModuleListError};
use crate::libraries::{read, section};

/// The modules of one kernel, by name.
#[derive(Debug)]
pub struct ModuleTree {
    root: PathBuf,
    files: BTreeMap<String, PathBuf>,
    /// Names of modules that the kernel has in itself.
    built_in: BTreeSet<String>,
}

impl ModuleTree {
    /// Reads the names of all modules below `root` (`lib/modules/<release>`).
    ///
    /// # Errors
    ///
    /// When a directory cannot be read.
    pub fn scan(root: &Path) -> Result<Self, DependencyError> {
        let mut files = BTreeMap::new();
        let mut queue = vec![root.to_owned()];
        while let Some(directory) = queue.pop() {
            let failed = |source| DependencyError::Read {
                path: directory.clone(),
                source,
            };
            for entry in fs::read_dir(&directory).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let path = entry.path();
                if entry.file_type().map_err(failed)?.is_dir() {
                    queue.push(path);
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                }
            }
        }
        let list = root.join("modules.builtin");
        let built_in = match list.is_file() {
            true => String::from_utf8_lossy(&read(&list)?)
                .lines()
                .filter_map(|line| module_name(Path::new(line)))
                .collect(),
            false => BTreeSet::new(),
        };
        Ok(Self {
            root: root.to_owned(),
            files,
            built_in,
        })
    }

    /// The modules `wanted` and all that they need, each after those that it
    /// needs: the order to load them in. Those that the kernel has in itself are left out.
    ///
    /// # Errors
    ///
    /// When a module is missing or is not an ELF file.
    pub fn load_order(&self, wanted: &[&str]) -> Result<Vec<(String, PathBuf)>, DependencyError> {
        let mut order = Vec::new();
        for name in wanted {
            self.visit(&canonical(name), &mut order)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, order: &mut Vec<(String, PathBuf)>) -> Result<(), DependencyError> {
        if self.built_in.contains(name) || order.iter().any(|(done, _)| done == name) {
            return Ok(());
        }
        let path = self
            .files
            .get(name)
            .ok_or_else(|| DependencyError::MissingModule {
                module: name.to_owned(),
                root: self.root.clone(),
            })?;
        let data = read_module(path)?;
        let info = section(&data, ".modinfo")
            .map_err(|source| DependencyError::Elf {
                path: path.clone(),
                source,
            })?
            .unwrap_or_default();
        for dependency in dependencies(info) {
            self.visit(&dependency, order)?;
        }
        order.push((name.to_owned(), path.clone()));
        Ok(())
    }

    /// Adds modules and what they need as `<directory>/<name>.ko`, and the list
    /// `<directory>/order` with their file names in loading order.
    ///
    /// # Errors
    ///
    /// As [`ModuleTree::load_order`].
    pub fn add_to(
        &self,
        archive: &mut Archive,
        directory: &str,
        wanted: &[&str],
    ) -> Result<(), DependencyError> {
        let mut names = String::new();
        for (name, path) in self.load_order(wanted)? {
            archive.file(
                &format!("{directory}/{name}.ko"),
                0o644,
                read_module(&path)?,
            );
            names.push_str(&name);
            names.push_str(".ko\n");
        }
        archive.file(&format!("{directory}/order"), 0o644, names);
        Ok(())
    }

    /// Adds modules and what they need as `lib/modules/<release>/<name>.ko`, with
    /// the lists that `modprobe` reads.
    ///
    /// # Errors
    ///
    /// When `depmod` is missing or fails, or the modules cannot be collected.
    pub fn add_tree(
        &self,
        archive: &mut Archive,
        release: &str,
        wanted: &[&str],
    ) -> Result<(), ModuleListError> {
        let scratch = tempfile::tempdir().map_err(ModuleListError::Temporary)?;
        let place = format!("lib/modules/{release}");
        let directory = scratch.path().join(&place);
        fs::create_dir_all(&directory).map_err(ModuleListError::Temporary)?;
        for (name, path) in self.load_order(wanted)? {
            let file = format!("{name}.ko");
            fs::write(directory.join(file), read_module(&path)?)
                .map_err(ModuleListError::Temporary)?;
        }
        for list in [
            "modules.builtin",
            "modules.builtin.modinfo",
            "modules.order",
        ] {
            fs::write(directory.join(list), read(&self.root.join(list))?)
                .map_err(ModuleListError::Temporary)?;
        }
        run(Command::new("depmod")
            .arg("-b")
            .arg(scratch.path())
            .arg(release))?;
        for entry in fs::read_dir(&directory).map_err(ModuleListError::Temporary)? {
            let path = entry.map_err(ModuleListError::Temporary)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            archive.file(&format!("{place}/{name}"), 0o644, read(&path)?);
        }
        Ok(())
    }
}

/// The name of the module in a file, if it is one.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".xz").unwrap_or(name);
    Some(canonical(name.strip_suffix(".ko")?))
}

/// A module, decompressed.
fn read_module(path: &Path) -> Result<Vec<u8>, DependencyError> {
    let bytes = read(path)?;
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Ok(bytes);
    }
    let mut module = Vec::new();
    lzma_rust2::XzReader::new(&bytes[..], false)
        .read_to_end(&mut module)
        .map_err(|source| DependencyError::Decompress {
            path: path.to_owned(),
            source,
        })?;
    Ok(module)
}

/// Module names differ from their file names in dashes.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The `depends=` field of a module's `.modinfo`.
fn dependencies(modinfo: &[u8]) -> Vec<String> {
    modinfo
        .split(|byte| *byte == 0)
        .filter_map(|field| field.strip_prefix(b"depends="))
        .flat_map(|list| list.split(|byte| *byte == b','))
        .filter(|name| !name.is_empty())
        .map(|name| canonical(&String::from_utf8_lossy(name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modinfo_names_dependencies() {
        let modinfo = b"license=GPL\0depends=virtio_ring,net-failover\0retpoline=Y\0";
        assert_eq!(dependencies(modinfo), ["virtio_ring", "net_failover"]);
        assert!(dependencies(b"license=GPL\0depends=\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }

    #[test]
    fn compressed_modules_are_found_and_built_in_ones_left_out() {
        let names = ["a/virtio-net.ko.xz", "b/old.ko", "b/readme.txt", "c.ko.zst"];
        let names = names.map(|name| module_name(Path::new(name)));
        let expected = [Some("virtio_net"), Some("old"), None, None];
        assert_eq!(names, expected.map(|name| name.map(str::to_owned)));

        let root = tempfile::tempdir().expect("a temporary directory");
        let list = "kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/virtio/virtio-ring.ko\n";
        fs::write(root.path().join("modules.builtin"), list).expect("a list");
        let tree = ModuleTree::scan(root.path()).expect("a tree");
        let order = tree.load_order(&["virtio_pci", "virtio-ring"]);
        assert_eq!(order.expect("nothing to load"), []);

        let broken = root.path().join("broken.ko.xz");
        fs::write(&broken, b"\xfd7zXZ\0 and then nothing").expect("a file");
        let tree = ModuleTree::scan(root.path()).expect("a tree");
        let error = tree.load_order(&["broken"]).expect_err("it is broken");
        assert!(error.to_string().contains("broken.ko.xz"), "{error}");
    }

    #[test]
    fn a_missing_module_is_named() {
        let empty = tempfile::tempdir().expect("a temporary directory");
        let tree = ModuleTree::scan(empty.path()).expect("an empty tree");
        let error = tree.load_order(&["virtio-net"]).expect_err("there is none");
        assert!(error.to_string().contains("virtio_net"), "{error}");
    }
}
