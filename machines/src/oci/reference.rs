//! References: where an image lies, and which one it is (SPEC 7, one syntax everywhere).

use alloc::string::String;
use core::fmt;

use super::{Digest, Refusal, excerpt, tags};

/// The longest reference, in bytes.
const MAX: usize = 1024;
/// The longest repository name, in bytes (distribution-spec).
const MAX_REPOSITORY: usize = 255;

/// An image by where it lies and which one it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Where.
    pub place: Place,
    /// Which.
    pub target: Target,
}

/// Where images lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A repository of a registry.
    Registry {
        /// The registry's name or address, with its port where one is given.
        host: String,
        /// The repository's name.
        repository: String,
    },
    /// A folder in the image layout.
    Layout(String),
    /// A tar archive of an image layout.
    Archive(String),
}

/// Which image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The one with this tag now.
    Tag(String),
    /// The one with this digest. A tag beside it was given up: the digest says more.
    Digest(Digest),
    /// The only one of a layout or archive.
    Only,
}

impl Reference {
    /// Reads `registry/name[:tag]`, `registry/name@sha256:…`, `oci:DIR[:tag]` or `oci-archive:FILE[:tag]`. Without a tag a
    /// registry's image is the one tagged `latest`.
    ///
    /// # Errors
    /// What is wrong, and how it is written.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let bad = |why| Refusal::Reference { found: excerpt(text), why };
        if text.len() > MAX || text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(bad("it is too long or holds spaces or control characters"));
        }
        let local = text
            .strip_prefix("oci-archive:")
            .map(|rest| (rest, true))
            .or_else(|| text.strip_prefix("oci:").map(|rest| (rest, false)));
        if let Some((rest, archive)) = local {
            let (path, target) = Self::local(rest).map_err(bad)?;
            let place = if archive { Place::Archive(path.into()) } else { Place::Layout(path.into()) };
            return Ok(Self { place, target });
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (host, rest) =
            name.split_once('/').ok_or_else(|| bad("no registry is named, like localhost:5000/app:v1"))?;
        if !is_host(host) {
            return Err(bad("its first part must be a registry's name or address, like localhost:5000"));
        }
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if !is_repository(repository) {
            return Err(bad("a repository's name is of a-z 0-9, separated by . _ __ - or /, at most 255 bytes"));
        }
        if let Some(tag) = tag {
            check_tag(tag).map_err(bad)?;
        }
        let target = digest.map_or_else(|| Target::Tag(tag.unwrap_or("latest").into()), Target::Digest);
        Ok(Self { place: Place::Registry { host: host.into(), repository: repository.into() }, target })
    }

    /// A path, and behind its last `:` or `@` a tag or digest.
    fn local(rest: &str) -> Result<(&str, Target), &'static str> {
        let (path, target) = match rest.split_once("@sha256:") {
            Some((path, _)) => {
                let digest = rest.get(path.len().saturating_add(1)..).unwrap_or_default();
                (
                    path,
                    Target::Digest(
                        Digest::parse(digest).map_err(|_| "a digest is sha256: and 64 lower-case hex digits")?,
                    ),
                )
            }
            None => match rest.rsplit_once(':') {
                Some((path, tag)) if !tag.contains('/') => {
                    check_tag(tag)?;
                    (path, Target::Tag(tag.into()))
                }
                Some(_) | None => (rest, Target::Only),
            },
        };
        if path.is_empty() { Err("the path is empty") } else { Ok((path, target)) }
    }

    /// The tag, when it is named by one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match &self.target {
            Target::Tag(tag) => Some(tag),
            Target::Digest(_) | Target::Only => None,
        }
    }

    /// The same place, another target.
    #[must_use]
    pub fn at(&self, target: Target) -> Self {
        Self { place: self.place.clone(), target }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry { host, repository } => write!(f, "{host}/{repository}"),
            Self::Layout(path) => write!(f, "oci:{path}"),
            Self::Archive(path) => write!(f, "oci-archive:{path}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.place, f)?;
        match &self.target {
            Target::Tag(tag) => write!(f, ":{tag}"),
            Target::Digest(digest) => write!(f, "@{digest}"),
            Target::Only => Ok(()),
        }
    }
}

/// Whether a text is a tag: a letter, digit or `_`, then those and `.` and `-`, at most 128 bytes (distribution-spec).
///
/// # Errors
/// What a tag is.
pub fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = tag.len() <= tags::MAX
        && tag.bytes().enumerate().all(|(i, b)| word(b) || (i > 0 && matches!(b, b'.' | b'-')))
        && !tag.is_empty();
    if good { Ok(()) } else { Err("a tag is a letter, digit or _, then those and . and -, at most 128 bytes") }
}

/// A name with a dot or a port, `localhost`, or an address: what tells a registry from a part of a name.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, after)) => {
                let colons = address.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'));
                let port = if after.is_empty() { None } else { after.strip_prefix(':').or(Some("")) };
                return colons && address.contains(':') && port.is_none_or(is_port);
            }
            None => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let named = port.is_some() || name.contains('.') || name == "localhost";
    named && name.len() <= 253 && name.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Components of `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` joined by `/` (distribution-spec).
fn is_repository(name: &str) -> bool {
    let component = |part: &str| {
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let runs = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        part.bytes().next().is_some_and(word)
            && part.bytes().last().is_some_and(word)
            && runs.into_iter().all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|b| b == b'-'))
    };
    name.len() <= MAX_REPOSITORY && name.split('/').all(component)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString as _;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn every_way_to_write_a_reference_reads_and_writes_back() {
        let digest = alloc::format!("localhost:5000/myapp@sha256:{HEX}");
        for text in [
            "registry.local:5000/myapp:v1.0.0",
            "127.0.0.1:5000/a/b-c/d__e:latest",
            "[::1]:5000/app:v1",
            "ghcr.io/org/app:1_2.3-x",
            digest.as_str(),
            "oci:/var/lib/site:v1",
            "oci:layout",
            "oci-archive:./dir/site.tar",
            "oci-archive:site.tar:v1",
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), text);
        }
        let untagged = Reference::parse("localhost/app").unwrap();
        assert_eq!(untagged.tag(), Some("latest"));
        let both = Reference::parse(&alloc::format!("localhost/app:v1@sha256:{HEX}")).unwrap();
        assert_eq!(both.target, Target::Digest(Digest::parse(&alloc::format!("sha256:{HEX}")).unwrap()));
        let local = Reference::parse(&alloc::format!("oci:dir@sha256:{HEX}")).unwrap();
        assert_eq!((local.place, both.target), (Place::Layout("dir".into()), local.target));
        assert_eq!(
            Reference::parse("oci:/a:b/c").unwrap().place,
            Place::Layout("/a:b/c".into()),
            "a colon in a folder"
        );
    }

    #[test]
    fn what_is_no_reference_is_refused_with_how_it_is_written() {
        for text in [
            "",
            "app",
            "app:v1",
            "library/app:v1",
            "localhost",
            "localhost/",
            "localhost/App:v1",
            "localhost/app:",
            "localhost/app:-x",
            "localhost/app@sha256:00",
            "localhost/app@md5:00",
            "localhost/a//b",
            "localhost/../b",
            "localhost/a/.:v1",
            "localhost:0/app",
            "localhost:99999/app",
            "-x.io/app",
            "oci:",
            "oci-archive::v1",
            "oci:dir:a b",
            "localhost/app:v 1",
            "localhost/a___b",
            "https://localhost/app",
        ] {
            let refusal = Reference::parse(text).expect_err(text).to_string();
            assert!(refusal.contains("registry/name:tag") || refusal.contains("sha256:"), "{text}: {refusal}");
        }
        assert!(check_tag(&"a".repeat(128)).is_ok() && check_tag(&"a".repeat(129)).is_err());
    }
}
