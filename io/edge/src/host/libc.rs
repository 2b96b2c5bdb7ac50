//! Which C library a system has. Nothing of it is run: its file is read.

use std::path::Path;

use memchr::memmem;

use super::first;
use crate::bounded;

/// Most bytes of a C library.
const MOST: u64 = 32 << 20;

/// What a system without a C library in the usual places has.
const NONE: &str = "none";

/// The C library of the system beneath `root`: `glibc 2.36`, `musl 1.2.4`, or the BLAKE3 of one that does not say.
pub(super) fn version(root: &Path, machine: &str) -> Result<String, String> {
    let Some((name, file)) = first(root, candidates(machine))? else { return Ok(NONE.into()) };
    let bytes = bounded::whole(file, MOST).map_err(|why| format!("/{name}: {why}"))?;
    Ok(glibc(&bytes).or_else(|| musl(&bytes)).unwrap_or_else(|| format!("blake3:{}", blake3::hash(&bytes).to_hex())))
}

/// Where the C library lies: in the folder of its architecture first, so that of several the machine's own is read.
fn candidates(machine: &str) -> impl Iterator<Item = String> {
    let machine: String = machine.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let triplets: Vec<String> = match machine.as_str() {
        "i386" | "i486" | "i586" | "i686" => vec!["i386-linux-gnu".into()],
        "armv6l" | "armv7l" | "armv8l" => vec!["arm-linux-gnueabihf".into(), "arm-linux-gnueabi".into()],
        "ppc64le" => vec!["powerpc64le-linux-gnu".into()],
        other => vec![format!("{other}-linux-gnu")],
    };
    let musl: &[&str] = match machine.as_str() {
        "i386" | "i486" | "i586" | "i686" => &["i386"],
        "armv6l" | "armv7l" | "armv8l" => &["armhf", "arm"],
        "ppc64le" => &["powerpc64le"],
        other => &[other],
    };
    let mut names = Vec::new();
    for triplet in &triplets {
        names.extend([format!("lib/{triplet}/libc.so.6"), format!("usr/lib/{triplet}/libc.so.6")]);
    }
    names.extend(["lib64", "usr/lib64", "lib", "usr/lib"].map(|folder| format!("{folder}/libc.so.6")));
    for arch in musl {
        names.extend([format!("lib/ld-musl-{arch}.so.1"), format!("usr/lib/ld-musl-{arch}.so.1")]);
    }
    names.into_iter()
}

/// From the line that the library prints when it is run: `GNU C Library (…) stable release version 2.36.`
fn glibc(bytes: &[u8]) -> Option<String> {
    const WITHIN: usize = 256;
    memmem::find_iter(bytes, b"GNU C Library").find_map(|at| {
        let line = bytes.get(at..)?;
        let line = line.get(..WITHIN).unwrap_or(line);
        let line = line.split(|b| matches!(b, b'\n' | 0)).next()?;
        const SAYS: &[u8] = b" release version ";
        let after = line.get(memmem::find(line, SAYS)? + SAYS.len()..)?;
        let number: Vec<u8> = after.iter().copied().take_while(|b| b.is_ascii_digit() || *b == b'.').collect();
        let number = String::from_utf8(number).ok()?;
        let number = number.trim_end_matches('.');
        number.contains('.').then(|| format!("glibc {number}"))
    })
}

/// musl says its name in the text of its loader, and its version as a text of its own.
fn musl(bytes: &[u8]) -> Option<String> {
    memmem::find(bytes, b"musl libc (")?;
    let mut texts = bytes.split(|b| *b == 0).filter(|text| is_version(text));
    let version = texts.next()?;
    texts.all(|other| other == version).then(|| format!("musl {}", String::from_utf8_lossy(version)))
}

/// `1.2.4`, or `1.2.4-git-17-g0123abc`.
fn is_version(text: &[u8]) -> bool {
    if text.len() < 5 || text.len() > 40 || !text[0].is_ascii_digit() {
        return false;
    }
    let (number, rest) = match memmem::find(text, b"-git-") {
        Some(at) => text.split_at(at),
        None => (text, &[][..]),
    };
    let parts: Vec<&[u8]> = number.split(|b| *b == b'.').collect();
    parts.len() == 3
        && parts.iter().all(|part| matches!(part.len(), 1..=3) && part.iter().all(u8::is_ascii_digit))
        && rest.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_library_itself() {
        let banner = |text: &str| [b"\x7fELF\0\0", text.as_bytes(), b"\0 more \0"].concat();
        for (text, version) in [
            ("GNU C Library (Debian GLIBC 2.36-9+deb12u4) stable release version 2.36.\nCopyright", Some("glibc 2.36")),
            ("GNU C Library (GNU libc) stable release version 2.41.9000.\n", Some("glibc 2.41.9000")),
            ("GNU C Library (GNU libc) development release version 2.40.9000.\n", Some("glibc 2.40.9000")),
            ("see the GNU C Library manual\0GNU C Library x stable release version 2.31.\n", Some("glibc 2.31")),
            ("GNU C Library\n stable release version 2.31.\n", None),
            ("GNU C Library stable release version two\n", None),
        ] {
            assert_eq!(glibc(&banner(text)).as_deref(), version, "{text}");
        }
        let musl_of = |text: &str| musl(text.as_bytes());
        assert_eq!(musl_of("a\x001.2.4\0musl libc (x86_64)\nVersion %s\n\0").as_deref(), Some("musl 1.2.4"));
        assert_eq!(
            musl_of("musl libc (x86_64)\nVersion %s\n\x001.2.5-git-1-gab12\0").as_deref(),
            Some("musl 1.2.5-git-1-gab12")
        );
        assert_eq!(musl_of("musl libc (x86_64)\0\x001.2.4\0\x001.2.5\0"), None, "two versions");
        assert_eq!(musl_of("1.2.4\0"), None, "no musl");
    }

    #[test]
    fn what_says_nothing_is_told_apart_by_its_bytes_and_what_is_not_there_is_none() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(version(root.path(), "x86_64").unwrap(), NONE);
        std::fs::create_dir_all(root.path().join("usr/lib64")).unwrap();
        let file = root.path().join("usr/lib64/libc.so.6");
        std::fs::write(&file, "some library").unwrap();
        assert_eq!(version(root.path(), "x86_64").unwrap(), format!("blake3:{}", blake3::hash(b"some library")));
        std::fs::create_dir_all(root.path().join("lib/x86_64-linux-gnu")).unwrap();
        std::fs::write(
            root.path().join("lib/x86_64-linux-gnu/libc.so.6"),
            "GNU C Library stable release version 2.1.\n",
        )
        .unwrap();
        assert_eq!(version(root.path(), "x86_64").unwrap(), "glibc 2.1");
        assert_ne!(version(root.path(), "aarch64").unwrap(), "glibc 2.1");
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(version(root.path(), "aarch64").unwrap_err().contains("not a regular file"));
    }
}
