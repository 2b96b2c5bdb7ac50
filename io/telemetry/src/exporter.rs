//! Carries out `machines::net::Op::Export`: one batch, one POST, one answer or fault.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use machines::net::{Export, Fault, Got};
use tokio::time::Instant;

use crate::answer;
use crate::client::{Client, Dial, Target, Tcp, TlsError, UrlError, tls_config};
use crate::encode;
use crate::work;

/// The encodings of OTLP/HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf`.
    #[default]
    Protobuf,
    /// `application/json`.
    Json,
}

impl Encoding {
    /// The value of `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }
}

/// Where and how to export.
#[derive(Clone)]
pub struct ExporterConfig {
    /// The collector: `http://host:port` or `https://…`; `/v1/logs` is put behind its path.
    pub endpoint: String,
    /// The encoding.
    pub encoding: Encoding,
    /// Whether bodies are compressed.
    pub gzip: bool,
    /// Headers of every request, such as credentials.
    pub headers: Vec<(String, String)>,
    /// PEM file of the authorities to trust in place of the built-in ones.
    pub ca: Option<PathBuf>,
    /// PEM file of our certificate and its chain.
    pub cert: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
}

impl ExporterConfig {
    /// Protobuf and gzip to this endpoint, without headers or files.
    #[must_use]
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            encoding: Encoding::default(),
            gzip: true,
            headers: Vec::new(),
            ca: None,
            cert: None,
            key: None,
        }
    }
}

impl std::fmt::Debug for ExporterConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The values of headers are credentials.
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("ExporterConfig")
            .field("endpoint", &self.endpoint)
            .field("encoding", &self.encoding)
            .field("gzip", &self.gzip)
            .field("headers", &names)
            .field("ca", &self.ca)
            .field("cert", &self.cert)
            .field("key", &self.key)
            .finish()
    }
}

/// Why there is no exporter.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// The endpoint is no URL that can be used.
    #[error("OTLP endpoint {0}")]
    Endpoint(#[from] UrlError),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Files of TLS were given for an endpoint without it.
    #[error("{0}: is http, which uses no certificate; write https:// or leave the certificate and authority files out")]
    TlsWithoutHttps(String),
    /// A header is not of the form `name=value`.
    #[error("OTLP header {0:?}: write name=value")]
    HeaderForm(String),
    /// A header's name is none.
    #[error("OTLP header {0:?}: is not a header's name")]
    HeaderName(String),
    /// A header's value holds what no header may.
    #[error("OTLP header {0}: its value holds characters that no header may hold")]
    HeaderValue(String),
    /// A header that the exporter sets.
    #[error("OTLP header {0}: is set by the exporter and cannot be given")]
    HeaderReserved(String),
}

/// Reads a header given as `name=value`.
///
/// # Errors
/// When there is no `=`. The value is not in the error: it may be a password.
pub fn parse_header(text: &str) -> Result<(String, String), ExporterError> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => Err(ExporterError::HeaderForm(text.chars().take(8).chain("…".chars()).collect())),
    }
}

/// Headers that say how the message is framed or where it goes, or that the exporter sets.
const RESERVED: [HeaderName; 14] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::ACCEPT_ENCODING,
    header::EXPECT,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::PROXY_AUTHORIZATION,
    header::ACCEPT,
    HeaderName::from_static("keep-alive"),
];

/// Sends batches to one collector.
#[derive(Debug)]
pub struct Exporter<D: Dial = Tcp> {
    client: Client<D>,
    headers: HeaderMap,
    encoding: Encoding,
    gzip: bool,
}

impl Exporter {
    /// An exporter over TCP.
    ///
    /// # Errors
    /// Whatever in the configuration cannot work, before anything is sent.
    pub fn new(config: &ExporterConfig) -> Result<Self, ExporterError> {
        Self::with_dial(config, Tcp)
    }
}

impl<D: Dial> Exporter<D> {
    /// An exporter over connections that `dial` makes.
    ///
    /// # Errors
    /// Whatever in the configuration cannot work, before anything is sent.
    pub fn with_dial(config: &ExporterConfig, dial: D) -> Result<Self, ExporterError> {
        let target = Target::parse(&config.endpoint, "/v1/logs")?;
        let files = [&config.ca, &config.cert, &config.key];
        if !target.tls && files.iter().any(|file| file.is_some()) {
            return Err(ExporterError::TlsWithoutHttps(config.endpoint.clone()));
        }
        let tls = tls_config(config.ca.as_deref(), config.cert.as_deref(), config.key.as_deref())?;
        Ok(Self {
            client: Client::new(dial, target, tls)?,
            headers: headers(config)?,
            encoding: config.encoding,
            gzip: config.gzip,
        })
    }

    /// Sends the records and reports what happened, within the time that the operation names.
    pub async fn export(&self, export: &Export) -> Got {
        let end = Instant::now() + Duration::from_nanos(export.timeout.as_nanos());
        let body = match self.body(export).await {
            Ok(body) => body,
            Err(fault) => return Got::Failed(fault),
        };
        let left = end.saturating_duration_since(Instant::now());
        match self.client.post(self.headers.clone(), body, left).await {
            Ok(reply) => Got::Answered(answer::read(&reply, SystemTime::now())),
            Err(fault) => Got::Failed(fault),
        }
    }

    async fn body(&self, export: &Export) -> Result<Bytes, Fault> {
        let (encoding, gzip) = (self.encoding, self.gzip);
        let size = export.batch.size();
        let export = export.clone();
        let worked = work::run(size, move || encoded(&export, encoding, gzip)).await;
        let body = worked.ok_or_else(|| Fault::Unsendable("the worker that encodes the batch is gone".into()))?;
        body.map(Bytes::from).map_err(Fault::Unsendable)
    }
}

fn encoded(export: &Export, encoding: Encoding, gzip: bool) -> Result<Vec<u8>, String> {
    let plain = match encoding {
        Encoding::Protobuf => encode::to_protobuf(&export.batch, export.from, export.to),
        Encoding::Json => encode::to_json(&export.batch, export.from, export.to),
    };
    let plain = plain.map_err(|error| error.to_string())?;
    if gzip { compressed(&plain).map_err(|error| format!("gzip: {error}")) } else { Ok(plain) }
}

/// `bytes` as gzip, level fast: ids and hashes do not compress, and the rest does at any level.
fn compressed(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 2 + 64), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn headers(config: &ExporterConfig) -> Result<HeaderMap, ExporterError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| ExporterError::HeaderName(name.clone()))?;
        if RESERVED.contains(&parsed) {
            return Err(ExporterError::HeaderReserved(name.clone()));
        }
        let mut value = HeaderValue::from_str(value).map_err(|_| ExporterError::HeaderValue(name.clone()))?;
        value.set_sensitive(true);
        headers.append(parsed, value);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(config.encoding.content_type()));
    if config.gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let agent = HeaderValue::from_static(concat!("autonomy/", env!("CARGO_PKG_VERSION")));
    headers.entry(header::USER_AGENT).or_insert(agent);
    Ok(headers)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
