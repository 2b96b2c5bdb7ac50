//! The key that manifests are signed with.

use std::io::ErrorKind;
use std::path::Path;

use ed25519_dalek::{Signature, VerifyingKey};

use crate::bounded;

/// Most bytes of a key file that are looked at; a key has 32.
const MOST: u64 = 64;

/// The bytes of the manifest key that is pinned outside the state root; `None` when there is no such file.
///
/// # Errors
/// What is wrong with it, with its name: it cannot be read, is no regular file, or has more than 64 bytes.
pub fn pinned(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let read = bounded::open(path).and_then(|file| bounded::whole(file, MOST));
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}; wanted are the 32 raw bytes of an Ed25519 key", path.display())),
    }
}

/// Whether `signature` is this key's over `message` (RFC 8032): s below the order, no point of small order, and a key whose
/// encoding is canonical, so that a signature fits one message and cannot be turned into another one (FAULTS S08).
#[must_use]
pub fn signed(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    let Ok(point) = VerifyingKey::from_bytes(key) else { return false };
    let canonical = point.to_edwards().compress().to_bytes() == *key;
    canonical && !point.is_weak() && point.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    #[test]
    fn s08_weak_keys_and_changed_signatures_are_refused() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let public = key.verifying_key().to_bytes();
        let signature = key.sign(b"message").to_bytes();
        assert!(signed(&public, b"message", &signature));
        assert!(!signed(&public, b"another", &signature));
        // s + L: the same signature to a lenient verifier.
        let order: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut malleable = signature;
        let mut carry: u16 = 0;
        for (byte, add) in malleable[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        assert!(!signed(&public, b"message", &malleable));
        // The neutral point: with R = A and s = 0 it "signs" everything.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut anything = [0; 64];
        anything[0] = 1;
        assert!(!signed(&neutral, b"message", &anything));
        // The same point in an encoding that is not canonical, and bytes that are no point.
        let mut other = [0xff; 32];
        other[0] = 0xee;
        other[31] = 0x7f;
        assert!(!signed(&other, b"message", &anything));
        assert!(!signed(&[2; 32], b"message", &signature));
    }

    #[test]
    fn a_pinned_key_is_a_short_regular_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert_eq!(pinned(&path), Ok(None));
        std::fs::write(&path, [1; 32]).unwrap();
        assert_eq!(pinned(&path), Ok(Some(vec![1; 32])));
        std::fs::write(&path, [1; 64]).unwrap();
        assert_eq!(pinned(&path).unwrap().unwrap().len(), 64);
        std::fs::write(&path, [1; 65]).unwrap();
        assert!(pinned(&path).unwrap_err().contains("longer than 64 bytes"));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(pinned(&path).unwrap_err().contains("not a regular file"));
        // Nobody writes into this FIFO: opening it must not wait.
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(pinned(&fifo).unwrap_err().contains("not a regular file"));
    }
}
