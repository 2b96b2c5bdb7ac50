//! What the platform assures (SPEC 12, 05): limits of control groups, version 2.

use std::path::Path;

use rustix::fs::{FsWord, statfs};

/// Where the hierarchy is mounted.
const CGROUP: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP2: FsWord = 0x6367_7270;

/// How much of it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assurance {
    /// Everything.
    Full,
    /// No control groups of version 2: nothing holds a process of this node to its limits.
    Reduced,
}

impl Assurance {
    /// Looks at this host.
    #[must_use]
    pub fn probe() -> Self {
        Self::at(Path::new(CGROUP))
    }

    fn at(folder: &Path) -> Self {
        let unified = statfs(folder).is_ok_and(|found| found.f_type == CGROUP2);
        if unified { Self::Full } else { Self::Reduced }
    }

    /// The literal text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Reduced => "reduced",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_another_file_system_or_none_is_reduced_assurance() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Assurance::at(folder.path()), Assurance::Reduced);
        assert_eq!(Assurance::at(&folder.path().join("none")), Assurance::Reduced);
        assert_eq!(Assurance::at(Path::new("/proc")), Assurance::Reduced);
        // Where this host has it, it is found.
        let mounted = std::fs::read_to_string("/proc/mounts").unwrap();
        let unified = mounted.lines().any(|line| {
            let mut words = line.split(' ').skip(1);
            words.next() == Some(CGROUP) && words.next() == Some("cgroup2")
        });
        assert_eq!(Assurance::probe() == Assurance::Full, unified);
    }
}
