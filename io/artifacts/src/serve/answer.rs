//! Answers: refusals as the specification's JSON, and bodies that come from files piece by piece.

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use machines::json::Value;
use tokio::task::{JoinHandle, spawn_blocking};

/// An answer.
pub type Answer = Response<Content>;

/// The specification's error codes ("Error Codes"), and those of this registry beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    TagInvalid,
    RangeInvalid,
    /// No such endpoint.
    NotFound,
    /// The method is not one of the endpoint's, or not one of this registry's.
    Method,
    /// The request did not come in time.
    Late,
    /// Longer than this registry takes.
    TooLarge,
    /// There is no room on the disk.
    Full,
    /// Something failed here.
    Internal,
}

impl Code {
    const fn text(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid | Self::TooLarge => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported | Self::NotFound | Self::Method => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::TagInvalid => "TAG_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::Late | Self::Full | Self::Internal => "UNKNOWN",
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            // What is no tag names no manifest: the conformance suite wants 404.
            Self::BlobUnknown
            | Self::BlobUploadUnknown
            | Self::ManifestUnknown
            | Self::NameUnknown
            | Self::TagInvalid
            | Self::NotFound => StatusCode::NOT_FOUND,
            Self::BlobUploadInvalid
            | Self::DigestInvalid
            | Self::ManifestBlobUnknown
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::SizeInvalid
            | Self::Unsupported => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Full => StatusCode::INSUFFICIENT_STORAGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A request that is not granted.
#[derive(Debug)]
pub struct Refusal {
    code: Code,
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// A refusal with this code, in these words.
    pub fn new(code: Code, message: &str) -> Self {
        Self { code, message: message.into(), headers: Vec::new() }
    }

    /// An endpoint or registry that takes only these methods.
    pub fn method(allowed: &'static str, message: &str) -> Self {
        Self::new(Code::Method, message).with(ALLOW, HeaderValue::from_static(allowed))
    }

    /// No credential, or a wrong one.
    pub fn unauthorized() -> Self {
        let challenge = HeaderValue::from_static("Basic realm=\"autonomy\", charset=\"UTF-8\"");
        Self::new(Code::Unauthorized, "a credential is needed: the token as Bearer, or as the password of any user")
            .with(WWW_AUTHENTICATE, challenge)
    }

    /// Too much at once; worth another try.
    pub fn busy(message: &str) -> Self {
        Self::new(Code::TooManyRequests, message).with(RETRY_AFTER, HeaderValue::from_static("5"))
    }

    /// Something failed on the disk. Whoever asked is told what kind of failure; the log is told all.
    pub fn of_disk(doing: &str, error: &io::Error) -> Self {
        tracing::warn!(error = %error, "registry: cannot {doing}");
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        let code = if full { Code::Full } else { Code::Internal };
        Self::new(code, &format!("the registry cannot {doing}: {}", error.kind()))
    }

    /// The same with one more header.
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The status of the answer.
    #[cfg(test)]
    pub fn status(&self) -> u16 {
        self.code.status().as_u16()
    }

    /// The answer.
    pub fn answer(self) -> Answer {
        let error = [("code", Value::from(self.code.text())), ("message", Value::from(self.message.as_str()))];
        let error = Value::Object(error.into_iter().map(|(name, value)| (name.into(), value)).collect());
        let errors = Value::Object([("errors".into(), Value::Array(vec![error]))].into_iter().collect());
        let mut answer = json(self.code.status(), "application/json", &errors);
        answer.headers_mut().extend(self.headers);
        answer
    }
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Content::Whole(None));
    *answer.status_mut() = status;
    answer
}

/// An answer of JSON.
pub fn json(status: StatusCode, media_type: &'static str, value: &Value) -> Answer {
    let mut answer = Response::new(Content::Whole(Some(Bytes::from(value.to_text()))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

/// A header's value of text that was checked to be one.
pub fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A body.
#[derive(Debug)]
pub enum Content {
    /// At once.
    Whole(Option<Bytes>),
    /// From a file.
    Pieces(Pieces),
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces(pieces) => pieces.poll(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Pieces(pieces) => pieces.left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(bytes) => bytes.as_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Self::Pieces(pieces) => pieces.left,
        })
    }
}

/// A part of a file, read ahead by one piece while the one before is sent.
#[derive(Debug)]
pub struct Pieces {
    file: Arc<File>,
    buffers: Buffers,
    /// Where the next piece to be read begins, and where the part ends.
    next: u64,
    end: u64,
    /// Bytes that were not handed out yet.
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Pieces {
    /// The bytes of `file` from `start` to before `end`.
    pub fn new(file: File, start: u64, end: u64, buffers: &Buffers) -> Self {
        let mut pieces = Self {
            file: Arc::new(file),
            buffers: buffers.clone(),
            next: start,
            end,
            left: end.saturating_sub(start),
            reading: None,
        };
        pieces.read_ahead();
        pieces
    }

    fn read_ahead(&mut self) {
        let wanted = self.end.saturating_sub(self.next).min(Buffers::PIECE_U64);
        if wanted == 0 {
            return;
        }
        let (file, buffers, at) = (Arc::clone(&self.file), self.buffers.clone(), self.next);
        self.next = self.next.saturating_add(wanted);
        self.reading = Some(spawn_blocking(move || buffers.fill(&file, at, usize::try_from(wanted).unwrap_or(0))));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        let piece = read.map_err(io::Error::other).flatten();
        match &piece {
            Ok(bytes) => {
                self.left = self.left.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                self.read_ahead();
            }
            // The length was promised already: the connection is cut, which is how the other side learns of it.
            Err(error) => tracing::warn!(error = %error, "registry: a blob cannot be read"),
        }
        Poll::Ready(Some(piece))
    }
}

/// Buffers that go round between the file and the socket, so that none is made and cleared for each piece.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// The length of a piece.
    pub const PIECE: usize = 256 * 1024;
    const PIECE_U64: u64 = 256 * 1024;
    /// How many lie ready at most.
    const KEPT: usize = 64;

    /// `wanted` bytes of the file from `at`, at most a piece.
    pub fn fill(&self, file: &File, at: u64, wanted: usize) -> io::Result<Bytes> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = spare.unwrap_or_else(|| Vec::with_capacity(Self::PIECE));
        while buffer.len() < wanted {
            let here = at.saturating_add(u64::try_from(buffer.len()).unwrap_or(u64::MAX));
            match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), here) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter")),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        buffer.truncate(wanted);
        Ok(Bytes::from_owner(Lent { buffer, home: self.clone() }))
    }
}

/// A buffer on its way; it comes home when the last who reads it lets go.
struct Lent {
    buffer: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut ready = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.len() < Buffers::KEPT {
            buffer.clear();
            ready.push(buffer);
        }
    }
}
