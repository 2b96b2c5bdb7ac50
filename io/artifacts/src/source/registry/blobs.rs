//! Blobs of a registry: hashed while they are read, continued where a connection broke.

use machines::oci::{Descriptor, Digest};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE, TRANSFER_ENCODING};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::MAX_BLOB;
use super::Registry;
use super::http::{Call, Tries, Trouble};
use crate::Fault;
use crate::blob::{Absorb, BlobSink, Piece, Streamed};

/// How many pieces wait to be hashed.
const PIECES: usize = 4;
/// How often a blob is continued at most, however far each time.
const MAX_PARTS: u32 = 64;
/// How often a blob is begun anew, when the registry does not continue it.
const MAX_RESTARTS: u32 = 3;

impl Registry {
    /// Reads a blob through `sink`, up to one byte past its size (FAULTS S13). Whether it is the right one is for the
    /// caller to say.
    pub(in super::super) async fn stream<S: BlobSink>(
        &self,
        descriptor: &Descriptor,
        sink: S,
    ) -> Result<Streamed<S>, Fault> {
        if descriptor.size > MAX_BLOB {
            let what = format!("bytes of the blob {}, whose descriptor says {}", descriptor.digest, descriptor.size);
            return Err(Fault::too_long(self.place(), what, MAX_BLOB));
        }
        let (pieces, mut taken) = mpsc::channel::<Piece>(PIECES);
        let absorbing = tokio::task::spawn_blocking(move || {
            let mut absorb = Absorb::new(sink);
            while let Some(piece) = taken.blocking_recv() {
                absorb.piece(piece)?;
            }
            Ok::<_, std::io::Error>(absorb.finish())
        });
        let within = self.inner.options.timeouts.overall(descriptor.size);
        let late = || self.unreachable(format!("blob {} did not come within {within:?}", descriptor.digest));
        let mut fetch = Fetch { registry: self, descriptor, pieces, at: 0, restarts: 0 };
        let fetched = timeout(within, fetch.run()).await.unwrap_or_else(|_| Err(late()));
        drop(fetch);
        let absorbed = absorbing.await.map_err(|error| Fault::task(self.place(), &error))?;
        // When the sink failed, fetching failed for that alone.
        let (sink, digest, size) =
            absorbed.map_err(|error| self.broken(format!("blob {} cannot be kept: {error}", descriptor.digest)))?;
        fetched?;
        Ok(Streamed::new(sink, digest, size, self.place().into()))
    }

    /// Whether a blob of this length is there.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool, Fault> {
        let call = blob_call(self, Method::HEAD, &descriptor.digest)?;
        let response = self.send(&call).await?;
        match response.status() {
            StatusCode::OK => Ok(length(&response).is_none_or(|len| len == descriptor.size)),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refusal(response, &call).await),
        }
    }
}

fn blob_call(registry: &Registry, method: Method, digest: &Digest) -> Result<Call, Fault> {
    Ok(Call::new(method, registry.blob_url(digest)?, format!("blob {digest}")).follow())
}

fn length(response: &Response) -> Option<u64> {
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A blob on its way.
struct Fetch<'a> {
    registry: &'a Registry,
    descriptor: &'a Descriptor,
    pieces: mpsc::Sender<Piece>,
    /// How many bytes there are.
    at: u64,
    restarts: u32,
}

impl Fetch<'_> {
    async fn run(&mut self) -> Result<(), Fault> {
        let mut tries = Tries::new(self.registry);
        for _ in 0..MAX_PARTS {
            let before = self.at;
            match self.part().await {
                Ok(()) => return Ok(()),
                Err(trouble) => {
                    // What brings something was no failure.
                    if self.at > before && trouble.again.is_some() {
                        tries = Tries::new(self.registry);
                    }
                    tries.again(trouble).await?;
                }
            }
        }
        Err(self.fault("the connection broke again and again"))
    }

    fn fault(&self, why: &str) -> Fault {
        self.registry.unreachable(format!("blob {}: {why}", self.descriptor.digest))
    }

    /// One request: all of it, or what is missing.
    async fn part(&mut self) -> Result<(), Trouble> {
        if self.at > 0 && self.at >= self.descriptor.size {
            return Ok(());
        }
        let mut call = blob_call(self.registry, Method::GET, &self.descriptor.digest)?;
        if self.at > 0 {
            call = call.header(RANGE, &format!("bytes={}-", self.at));
        }
        let mut response = self.registry.attempt(&call).await?;
        match response.status() {
            StatusCode::OK if self.at > 0 => self.restart().await?,
            StatusCode::OK => {}
            StatusCode::PARTIAL_CONTENT if self.at > 0 && self.continues(&response) => {}
            StatusCode::PARTIAL_CONTENT => {
                return Err(self
                    .registry
                    .broken(format!("blob {}: another range came than was asked for", self.descriptor.digest))
                    .into());
            }
            StatusCode::RANGE_NOT_SATISFIABLE if self.at > 0 => {
                self.restart().await?;
                return Err(Trouble::passing(self.fault("the registry cannot continue it")));
            }
            _ => return Err(self.registry.refusal(response, &call).await.into()),
        }
        let framed =
            response.headers().contains_key(CONTENT_LENGTH) || response.headers().contains_key(TRANSFER_ENCODING);
        let most = self.descriptor.size.saturating_add(1);
        while let Some(chunk) = self.registry.chunk(&mut response, &call.what).await? {
            let room = usize::try_from(most.saturating_sub(self.at)).unwrap_or(usize::MAX);
            let chunk = chunk.slice(..chunk.len().min(room));
            self.at = self.at.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            if self.pieces.send(Piece::Bytes(chunk)).await.is_err() {
                return Err(self.fault("it cannot be kept").into());
            }
            if self.at >= most {
                return Ok(());
            }
        }
        // A body without a length ends where the connection ends, for whatever reason.
        if self.at < self.descriptor.size && !framed {
            return Err(Trouble::passing(self.fault("the connection ended too early")));
        }
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), Trouble> {
        self.restarts += 1;
        if self.restarts > MAX_RESTARTS {
            return Err(self
                .fault("the connection broke again and again, and the registry does not continue it")
                .into());
        }
        self.at = 0;
        self.pieces.send(Piece::Restart).await.map_err(|_| self.fault("it cannot be kept").into())
    }

    /// `Content-Range: bytes <at>-<last>/<size>` (RFC 9110 section 14.4).
    fn continues(&self, response: &Response) -> bool {
        let text = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let parsed = text.and_then(|text| {
            let (range, whole) = text.strip_prefix("bytes ")?.split_once('/')?;
            let (first, last) = range.split_once('-')?;
            let whole = if whole == "*" { self.descriptor.size } else { whole.parse().ok()? };
            Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, whole))
        });
        parsed.is_some_and(|(first, last, whole)| first == self.at && last < whole && whole == self.descriptor.size)
    }
}
