//! Which Linux this host runs.

use std::fmt;
use std::fs;
use std::path::Path;

/// The release of a kernel, as `6.1.0-13-amd64`; nothing where it is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release(String);

impl Release {
    /// This host's.
    pub(crate) fn of_host() -> Self {
        Self::in_settings(Path::new("/proc/sys"))
    }

    /// The one that the kernel's `settings` name, a directory as `/proc/sys`.
    pub(crate) fn in_settings(settings: &Path) -> Self {
        let text = fs::read_to_string(settings.join("kernel/osrelease")).unwrap_or_default();
        Self(text.trim().to_owned())
    }

    /// Its first two numbers, which tell what it can do.
    pub(crate) fn numbers(&self) -> Option<(u32, u32)> {
        let mut numbers = self.0.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next()?.parse().ok();
        Some((next()?, next()?))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        for (text, numbers) in [
            ("6.1.0-18-cloud-amd64", Some((6, 1))),
            ("6.12.117+deb13-cloud-amd64", Some((6, 12))),
            ("6.13-rc1", Some((6, 13))),
            ("7.0", Some((7, 0))),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(Release(text.into()).numbers(), numbers, "{text}");
        }
        assert!(Some((6, 9)) < Some((6, 17)));
    }
}
