//! What `--export` says.

use std::path::PathBuf;
use std::str::FromStr;

use super::Export;
use crate::arbiter::{NameError, VmName};
use crate::nbd::{ExportName, ExportNameError};
use crate::storage::{FileStorage, OpenStorageError};

/// Why the text of `--export` says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// It has no `=`, or nothing behind it.
    #[error("an export is NAME=PATH, NAME=PATH,vm=VM or NAME=PATH,read-only")]
    Form,
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] ExportNameError),
    /// The machine's name is not one.
    #[error(transparent)]
    Vm(#[from] NameError),
    /// An option that does not exist.
    #[error("an export has the options vm=VM and read-only, not {0:?}")]
    Option(String),
    /// An option that is given twice.
    #[error("an export has one {0}")]
    Twice(&'static str),
}

/// An export as the command line describes it: `NAME=PATH[,vm=VM][,read-only]`.
///
/// A comma always begins an option, so a path cannot have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSpec {
    /// What clients call it.
    pub name: ExportName,
    /// The image file or block device.
    pub path: PathBuf,
    /// The machine that owns it.
    pub vm: Option<VmName>,
    /// Nobody may write.
    pub read_only: bool,
}

impl FromStr for ExportSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (name, rest) = text.split_once('=').ok_or(SpecError::Form)?;
        let mut parts = rest.split(',');
        let path = parts.next().filter(|path| !path.is_empty());
        let mut spec = ExportSpec {
            name: name.parse()?,
            path: path.ok_or(SpecError::Form)?.into(),
            vm: None,
            read_only: false,
        };
        for option in parts {
            match option.split_once('=') {
                Some(("vm", _)) if spec.vm.is_some() => return Err(SpecError::Twice("vm")),
                Some(("vm", vm)) => spec.vm = Some(vm.parse()?),
                None if option == "read-only" => spec.read_only = true,
                _ => return Err(SpecError::Option(option.to_owned())),
            }
        }
        Ok(spec)
    }
}

impl ExportSpec {
    /// Opens and locks the file or device.
    ///
    /// # Errors
    /// See [`OpenStorageError`].
    pub fn open(&self) -> Result<Export, OpenStorageError> {
        let storage = FileStorage::open(&self.path, self.read_only)?;
        let export = Export::new(
            self.name.clone(),
            self.vm.clone(),
            self.read_only,
            Box::new(storage),
        );
        Ok(export.kept_in(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_described_in_a_word() {
        let plain: ExportSpec = "disk=/dev/sdb".parse().unwrap();
        assert_eq!(plain.name.as_str(), "disk");
        assert_eq!(plain.path, PathBuf::from("/dev/sdb"));
        assert_eq!((plain.vm, plain.read_only), (None, false));
        let full: ExportSpec = "d=/a=b.img,vm=db,read-only".parse().unwrap();
        assert_eq!(full.path, PathBuf::from("/a=b.img"));
        assert_eq!(full.vm, Some("db".parse().unwrap()));
        assert!(full.read_only);
    }

    #[test]
    fn what_describes_no_export_is_told() {
        let parse = |text: &str| text.parse::<ExportSpec>().unwrap_err();
        for form in ["disk", "disk=", "disk=,vm=db", ""] {
            assert_eq!(parse(form), SpecError::Form, "{form:?}");
        }
        assert!(matches!(parse("a/b=x"), SpecError::Name(_)));
        assert!(matches!(parse("a=x,vm="), SpecError::Vm(_)));
        assert_eq!(parse("a=x,vm=b,vm=c"), SpecError::Twice("vm"));
        for option in ["ro", "read-only=1", "", "VM=db"] {
            let text = format!("a=x,{option}");
            assert_eq!(parse(&text), SpecError::Option(option.to_owned()));
        }
    }
}
