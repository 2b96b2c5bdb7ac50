//! Where configured paths lead (SPEC 14): within the state root, unless the key names an outside file.

use std::path::{Path, PathBuf};

use machines::tree::{self, BadPath, Place};

/// The configured state root: absolute, without `.`, `..` and a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRoot(String);

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leads {
    /// To this place within the state root.
    Inside(Place),
    /// Out of it.
    Outside,
    /// To what cannot be used.
    Nowhere(BadPath),
}

impl Default for StateRoot {
    /// Where the state is when nobody says.
    fn default() -> Self {
        Self("/var/lib/autonomy".into())
    }
}

impl StateRoot {
    /// Reads the text; one slash at the end is taken off.
    ///
    /// # Errors
    /// What it must be.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let plain = text.strip_suffix('/').unwrap_or(text);
        if plain.is_empty() || cleaned(plain) != plain {
            return Err("must be an absolute path without `.`, `..` and empty components, and not /");
        }
        Ok(Self(plain.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// Where a configured path leads: a relative one starts here. Only the text is looked at; links are found when it is
    /// opened.
    #[must_use]
    pub fn resolve(&self, text: &str) -> Leads {
        let absolute = if text.starts_with('/') { text.to_owned() } else { format!("{}/{text}", self.0) };
        let cleaned = cleaned(&absolute);
        if cleaned == self.0 {
            return Leads::Nowhere(BadPath::Empty);
        }
        match cleaned.strip_prefix(&self.0).and_then(|rest| rest.strip_prefix('/')) {
            None => Leads::Outside,
            Some(rest) => match tree::Path::parse(rest) {
                Ok(path) => Leads::Inside(Place::state(path)),
                Err(cause) => Leads::Nowhere(cause),
            },
        }
    }

    /// The same for a key that may name a file outside.
    #[must_use]
    pub fn outside(&self, text: &str) -> PathBuf {
        self.path().join(text)
    }

    /// Whether one of the two folders holds the other.
    #[must_use]
    pub fn overlaps(&self, folder: &str) -> bool {
        let holds = |outer: &str, inner: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        holds(folder, &self.0) || holds(&self.0, folder)
    }
}

/// An absolute path without `.`, `..` and empty components, by its text alone.
fn cleaned(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    let mut out = String::new();
    for part in parts {
        out.push('/');
        out.push_str(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f06_paths_lead_inside_outside_or_nowhere() {
        let root = StateRoot::parse("/var/lib/autonomy/").unwrap();
        let inside = |text| match root.resolve(text) {
            Leads::Inside(place) => place.path.as_str().to_owned(),
            other @ (Leads::Outside | Leads::Nowhere(_)) => panic!("{text}: {other:?}"),
        };
        assert_eq!(inside("identity/node.crt"), "identity/node.crt");
        assert_eq!(inside("/var/lib/autonomy/identity/node.crt"), "identity/node.crt");
        assert_eq!(inside("./identity//a/../node.crt"), "identity/node.crt");
        assert_eq!(inside("/etc/../var/lib/autonomy/x"), "x");
        for text in ["/etc/x", "../x", "a/../../x", "/var/lib/autonomy2/x", "/var/lib", "/", "../../../../etc/x"] {
            assert_eq!(root.resolve(text), Leads::Outside, "{text}");
        }
        assert_eq!(root.resolve("a b"), Leads::Nowhere(BadPath::Character));
        for text in ["", ".", "a/..", "/var/lib/autonomy"] {
            assert_eq!(root.resolve(text), Leads::Nowhere(BadPath::Empty), "{text}");
        }
    }

    #[test]
    fn a_state_root_is_absolute_and_plain() {
        for bad in ["", "/", "//", "state", "./state", "/a/../b", "/a//b", "/a/./b", "/a//"] {
            assert!(StateRoot::parse(bad).is_err(), "{bad}");
        }
        let root = StateRoot::parse("/a/b").unwrap();
        for (folder, overlaps) in [("/a", true), ("/a/b", true), ("/a/b/c", true), ("/a/bc", false), ("/c", false)] {
            assert_eq!(root.overlaps(folder), overlaps, "{folder}");
        }
        assert_eq!(root.outside("/etc/k"), Path::new("/etc/k"));
        assert_eq!(root.outside("k"), Path::new("/a/b/k"));
    }
}
