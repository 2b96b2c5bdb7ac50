//! The set of keys that are trusted for signatures of images.

use std::path::{Path, PathBuf};

use super::cosign::parse_der;
use super::{Fault, PublicKey};

/// Most keys of one set.
pub const MAX_KEYS: usize = 64;
/// Most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 1024;

/// Trusted keys, each once.
#[derive(Clone, Debug)]
pub struct PublicKeys {
    keys: Vec<(PathBuf, PublicKey)>,
}

impl PublicKeys {
    /// Reads the keys in these files.
    ///
    /// # Errors
    /// When any of them cannot be read or is no key, and when there is none: trust is never read in part.
    pub fn from_files(files: &[PathBuf]) -> Result<Self, Fault> {
        let mut set = Self { keys: Vec::new() };
        for path in files {
            set.add(path)?;
        }
        if set.keys.is_empty() {
            return Err(Fault::NoKeys(
                "name a public key with --pubkey, or a folder of them in [trust] cosign_keys".into(),
            ));
        }
        Ok(set)
    }

    /// Reads every `*.pub` of a folder, in byte order of their names. What is named otherwise is not looked at.
    ///
    /// # Errors
    /// As [`PublicKeys::from_files`].
    pub fn from_folder(folder: &Path) -> Result<Self, Fault> {
        let unreadable = |source| Fault::Read { path: folder.into(), source };
        let mut files = Vec::new();
        for (seen, entry) in std::fs::read_dir(folder).map_err(unreadable)?.enumerate() {
            if seen >= MAX_ENTRIES {
                let place = folder.display().to_string();
                return Err(Fault::TooMany { place, max: MAX_ENTRIES, what: "entries in a folder of keys" });
            }
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|ending| ending == "pub") {
                files.push(path);
            }
        }
        files.sort_unstable();
        if files.is_empty() {
            return Err(Fault::NoKeys(format!("{} holds no file that ends in .pub", folder.display())));
        }
        Self::from_files(&files)
    }

    /// A key that is there under another name counts once (FAULTS S06).
    fn add(&mut self, path: &Path) -> Result<(), Fault> {
        let key = PublicKey::read(path)?;
        if self.keys.iter().any(|(_, known)| *known == key) {
            return Ok(());
        }
        if self.keys.len() >= MAX_KEYS {
            let place = path.display().to_string();
            return Err(Fault::TooMany { place, max: MAX_KEYS, what: "trusted keys" });
        }
        self.keys.push((path.into(), key));
        Ok(())
    }

    /// The position of the key that made `signature` over `message`; `None` when it is none of them.
    ///
    /// The signature is parsed as DER, strictly; a key's algorithm is the key's own (FAULTS S07). Of the two values that s
    /// may have, both are taken, for cosign makes both. So whoever has one signature has two (S08): signature bytes are
    /// never an identity here or anywhere else, and two signatures are two signers only when their keys differ.
    #[must_use]
    pub fn check(&self, message: &[u8], signature: &[u8]) -> Option<u16> {
        let signature = parse_der(signature)?;
        let found = self.keys.iter().position(|(_, key)| key.check_parsed(message, &signature));
        found.and_then(|at| u16::try_from(at).ok())
    }

    /// The key at a position that [`PublicKeys::check`] gave, and the file that it is from.
    #[must_use]
    pub fn get(&self, at: u16) -> Option<(&Path, &PublicKey)> {
        self.keys.get(usize::from(at)).map(|(path, key)| (path.as_path(), key))
    }

    /// The keys and the files that they are from.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Path, &PublicKey)> {
        self.keys.iter().map(|(path, key)| (path.as_path(), key))
    }

    /// How many there are; never none.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.keys.len()
    }
}
