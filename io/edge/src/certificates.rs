//! A node's certificate, its key and its authorities, as a precheck asks about them.

use machines::precheck::certificates::{Certificates, Pair};
use machines::time::Wall;
use machines::tree::Place;
use rustls::RootCertStore;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::tree::{Facts, Tree};

/// Most bytes of each of the three files.
const MOST: u32 = 256 * 1024;
/// Most certificates of one file (FAULTS T07).
const MOST_CERTIFICATES: usize = 64;

/// Reads a certificate with its chain, its key, and the authorities beneath a root that was opened.
///
/// # Errors
/// Which of the files cannot be used, and why.
pub fn read(tree: &Tree, pair: &Pair) -> Result<Certificates, String> {
    let chain = certificates(tree, &pair.cert)?;
    let not_after = chain.iter().map(|der| ends(der)).collect::<Result<Vec<_>, _>>();
    let not_after = not_after.map_err(|why| named(&pair.cert, &why))?;
    let (bytes, facts) = file(tree, &pair.key)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| named(&pair.key, "no private key in PEM that is not encrypted"))?;
    let key = any_supported_type(&key)
        .map_err(|_| named(&pair.key, "no private key of a kind that is known: ECDSA P-256 or P-384, Ed25519, RSA"))?;
    for der in certificates(tree, &pair.ca)? {
        let mut store = RootCertStore::empty();
        store.add(der).map_err(|why| named(&pair.ca, &format!("no certificate of an authority: {why}")))?;
    }
    let matches = match CertifiedKey::new(chain, key).keys_match() {
        Ok(()) => true,
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => false,
        Err(why) => return Err(named(&pair.cert, &why.to_string())),
    };
    let not_after = not_after.into_iter().min().unwrap_or_default();
    Ok(Certificates { matches, exposed: exposed(facts), not_after })
}

/// Others than the owner may read it, or the owner is somebody else.
fn exposed(key: Facts) -> bool {
    let own = [rustix::process::geteuid().as_raw(), 0].contains(&key.owner);
    key.mode & 0o077 != 0 || !own
}

fn file(tree: &Tree, at: &Place) -> Result<(Zeroizing<Vec<u8>>, Facts), String> {
    let (bytes, facts) = tree.read(at, MOST).map_err(|kind| named(at, &kind.to_string()))?;
    Ok((Zeroizing::new(bytes), facts))
}

/// The certificates of a PEM file; at least one.
fn certificates(tree: &Tree, at: &Place) -> Result<Vec<CertificateDer<'static>>, String> {
    let (bytes, _) = file(tree, at)?;
    let mut found = Vec::new();
    for der in CertificateDer::pem_slice_iter(&bytes) {
        if found.len() == MOST_CERTIFICATES {
            return Err(named(at, &format!("more than {MOST_CERTIFICATES} certificates")));
        }
        found.push(der.map_err(|why| named(at, &format!("no PEM: {why}")))?);
    }
    if found.is_empty() { Err(named(at, "no certificate in PEM (BEGIN CERTIFICATE)")) } else { Ok(found) }
}

/// The end of a certificate's validity; 1970 for one before that.
fn ends(der: &[u8]) -> Result<Wall, String> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|why| format!("no certificate: {why}"))?;
    if !rest.is_empty() {
        return Err("a certificate is followed by other bytes".into());
    }
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Ok(Wall::from_micros(seconds.saturating_mul(1_000_000)))
}

fn named(at: &Place, why: &str) -> String {
    format!("{}: {why}", at.path)
}
