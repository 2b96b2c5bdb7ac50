//! TLS towards a receiver: which authorities are trusted, and who we are.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::bounds;

/// Why TLS cannot be set up. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{0}: cannot be read: {1}")]
    Unreadable(PathBuf, #[source] std::io::Error),
    /// A file is longer than any PEM file may be.
    #[error("{0}: is longer than 1 MiB, which no certificate or key file is")]
    TooLong(PathBuf),
    /// A file is not PEM with what is wanted.
    #[error("{0}: holds no {1} in PEM form")]
    NoPem(PathBuf, &'static str),
    /// A certificate authority's certificate cannot be used.
    #[error("{0}: a certificate in it cannot be used as an authority: {1}")]
    BadAuthority(PathBuf, #[source] rustls::Error),
    /// Certificate and key do not belong together, or one is of an unknown kind.
    #[error("{cert} and {key}: cannot be used as a certificate and its key: {why}")]
    BadPair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        why: rustls::Error,
    },
    /// One of the two was given.
    #[error("a client certificate needs its certificate file and its key file; only the {0} was given")]
    HalfPair(&'static str),
    /// The provider of ciphers does not know the wanted versions of TLS.
    #[error("TLS cannot be set up: {0}")]
    Provider(#[source] rustls::Error),
}

/// What `https` is spoken with: the authorities of the file, or, without one, those that Mozilla lists (built in; an
/// environment variable cannot add to them). TLS 1.3 or 1.2, HTTP/1.1, no early data.
///
/// # Errors
/// When a file is missing, is not PEM, or certificate and key do not fit.
pub fn config(ca: Option<&Path>, cert: Option<&Path>, key: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for authority in certificates(path)? {
                roots.add(authority).map_err(|why| TlsError::BadAuthority(path.to_owned(), why))?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Provider)?
        .with_root_certificates(roots);
    let mut config = match (cert, key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let bytes = read(key)?;
            let private =
                PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| TlsError::NoPem(key.to_owned(), "private key"))?;
            builder.with_client_auth_cert(chain, private).map_err(|why| TlsError::BadPair {
                cert: cert.to_owned(),
                key: key.to_owned(),
                why,
            })?
        }
        (Some(_), None) => return Err(TlsError::HalfPair("certificate")),
        (None, Some(_)) => return Err(TlsError::HalfPair("key")),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let none = || TlsError::NoPem(path.to_owned(), "certificate");
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|_| none())?;
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |error| TlsError::Unreadable(path.to_owned(), error);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(bounds::PEM + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= bounds::PEM) {
        Ok(bytes)
    } else {
        Err(TlsError::TooLong(path.to_owned()))
    }
}
