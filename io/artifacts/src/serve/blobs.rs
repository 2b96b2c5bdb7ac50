//! The endpoints of blobs: pull with ranges, and push by sessions, at once, or from another repository.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE,
};
use hyper::{Method, Response, StatusCode};
use machines::oci::Digest;

use super::answer::{Answer, Buffers, Code, Content, Pieces, Refusal, empty, value};
use super::registry::{Registry, on_disk};
use super::route::{Query, Repository, parse_digest};
use super::store::Found;
use super::uploads::{self, InHand, Upload};

/// Says which bytes an answer is made of.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// What an answer of found bytes needs from the request.
#[derive(Debug)]
pub struct Reading {
    head_only: bool,
    ranges: bool,
    range: Option<String>,
    if_range: Option<String>,
    known: Vec<String>,
}

impl Reading {
    /// From a GET or HEAD. `ranges`: whether parts of it may be asked for.
    pub fn of(method: &Method, headers: &HeaderMap, ranges: bool) -> Self {
        let one = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
        let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        Self {
            head_only: method == Method::HEAD,
            ranges,
            range: one(RANGE).filter(|_| ranges && method == Method::GET),
            if_range: one(IF_RANGE),
            known: known.flat_map(|list| list.split(',')).map(|tag| tag.trim().to_owned()).collect(),
        }
    }

    /// The answer that gives what was found. Blocks when it is short: then it is read here and now.
    pub fn give(&self, found: Found, media_type: &str, buffers: &Buffers) -> Result<Answer, Refusal> {
        let tag = format!("\"{}\"", found.digest);
        let named = self.known.iter().any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag);
        let size = found.size;
        let mut answer = if named {
            empty(StatusCode::NOT_MODIFIED)
        } else {
            let wanted = self.range.as_deref().filter(|_| self.if_range.as_ref().is_none_or(|known| *known == tag));
            let part = match wanted.map_or(Part::Whole, |range| part(range, size)) {
                Part::Whole => None,
                Part::Of(part) => Some(part),
                Part::Nothing => {
                    return Err(Refusal::new(Code::RangeInvalid, "the blob has no such range")
                        .with(CONTENT_RANGE, value(&format!("bytes */{size}"))));
                }
            };
            self.body(found, part, buffers).map_err(|error| Refusal::of_disk("read the blob", &error))?
        };
        let headers = answer.headers_mut();
        headers.insert(ETAG, value(&tag));
        headers.insert(CONTENT_DIGEST, value(tag.trim_matches('"')));
        headers.insert(CONTENT_TYPE, value(media_type));
        if self.ranges {
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        Ok(answer)
    }

    fn body(&self, found: Found, part: Option<Range<u64>>, buffers: &Buffers) -> io::Result<Answer> {
        let size = found.size;
        let Range { start, end } = part.clone().unwrap_or(0..size);
        let length = end.saturating_sub(start);
        let content = match usize::try_from(length) {
            _ if self.head_only => Content::Whole(None),
            Ok(0) => Content::Whole(None),
            Ok(short) if short <= Buffers::PIECE => Content::Whole(Some(buffers.fill(&found.file, start, short)?)),
            Ok(_) | Err(_) => Content::Pieces(Pieces::new(found.file, start, end, buffers)),
        };
        let mut answer = Response::new(content);
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        if part.is_some() {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            let last = end.saturating_sub(1);
            answer.headers_mut().insert(CONTENT_RANGE, value(&format!("bytes {start}-{last}/{size}")));
        }
        Ok(answer)
    }
}

/// What a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// All: the header is none that is understood here (several ranges, another unit), so it does not count (RFC 9110, 14.2).
    Whole,
    /// These bytes.
    Of(Range<u64>),
    /// Nothing that is there.
    Nothing,
}

fn part(header: &str, size: u64) -> Part {
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let Some((first, last)) = header.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Part::Whole;
    };
    let range = match (first.is_empty(), number(first), last.is_empty(), number(last)) {
        (true, _, false, Some(suffix)) => size.saturating_sub(suffix)..size,
        (false, Some(first), true, _) => first..size,
        (false, Some(first), false, Some(last)) if first <= last => first..size.min(last.saturating_add(1)),
        _ => return Part::Whole,
    };
    if range.is_empty() { Part::Nothing } else { Part::Of(range) }
}

impl Registry {
    /// `GET` and `HEAD` of a blob.
    pub(super) async fn get_blob(
        self: &Arc<Self>,
        repository: Repository,
        digest: Digest,
        reading: Reading,
    ) -> Result<Answer, Refusal> {
        let registry = Arc::clone(self);
        on_disk("read the blob", move || {
            Ok(match registry.store.blob(&repository, &digest)? {
                Some(found) => reading.give(found, "application/octet-stream", &registry.buffers),
                None => Err(Refusal::new(Code::BlobUnknown, "the repository has no such blob")),
            })
        })
        .await?
    }

    /// `DELETE` of a blob.
    pub(super) async fn delete_blob(
        self: &Arc<Self>,
        repository: Repository,
        digest: Digest,
    ) -> Result<Answer, Refusal> {
        let registry = Arc::clone(self);
        let there = on_disk("delete the blob", move || registry.store.delete_blob(&repository, &digest)).await?;
        let unknown = || Refusal::new(Code::BlobUnknown, "the repository has no such blob");
        if there { Ok(empty(StatusCode::ACCEPTED)) } else { Err(unknown()) }
    }

    /// `POST` to the uploads: a mount, a blob at once, or a session.
    pub(super) async fn post_upload(
        self: &Arc<Self>,
        repository: Repository,
        query: &Query<'_>,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Answer, Refusal> {
        if let Some(algorithm) = query.get("digest-algorithm")?.filter(|algorithm| algorithm != "sha256") {
            return Err(Refusal::new(Code::Unsupported, &format!("digests are sha256 here, not {algorithm}")));
        }
        if let (Some(mount), Some(from)) = (query.get("mount")?, query.get("from")?) {
            let (digest, from) = (parse_digest(&mount)?, Repository::parse(&from)?);
            let (registry, to) = (Arc::clone(self), repository.clone());
            if on_disk("mount the blob", move || registry.store.mount(&to, &from, &digest)).await? {
                return Ok(created(&repository, &digest));
            }
        } else if let Some(digest) = query.get("digest")? {
            let digest = parse_digest(&digest)?;
            let most = self.room_for(0, headers)?;
            self.uploads.check_room()?;
            let upload = uploads::in_hand(self.start_upload().await?).await;
            let (upload, came) = uploads::receive(upload, body, most, self.limits.idle_time).await?;
            came?;
            return keep(upload, repository, digest).await;
        }
        self.uploads.check_room()?;
        let upload = self.start_upload().await?;
        let id = self.uploads.open(repository.clone(), upload)?;
        Ok(progress(StatusCode::ACCEPTED, &repository, &id, 0))
    }

    async fn start_upload(&self) -> Result<Upload, Refusal> {
        let store = Arc::clone(&self.store);
        on_disk("begin an upload", move || Upload::start(&store)).await
    }

    /// `GET` of a session.
    pub(super) fn upload_status(&self, repository: &Repository, id: &str) -> Result<Answer, Refusal> {
        let size = self.uploads.size(repository, id)?;
        Ok(progress(StatusCode::NO_CONTENT, repository, id, size))
    }

    /// `DELETE` of a session.
    pub(super) fn cancel_upload(&self, repository: &Repository, id: &str) -> Result<Answer, Refusal> {
        self.uploads.end(repository, id)?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    /// `PATCH` of a session.
    pub(super) async fn patch_upload(
        &self,
        repository: &Repository,
        id: &str,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Answer, Refusal> {
        let upload = self.uploads.take(repository, id)?;
        let upload = self.take_body(upload, repository, id, headers, body).await?;
        Ok(progress(StatusCode::ACCEPTED, repository, id, upload.size()))
    }

    /// `PUT` of a session: its last bytes, if any, and its digest.
    pub(super) async fn put_upload(
        &self,
        repository: Repository,
        id: &str,
        query: &Query<'_>,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Answer, Refusal> {
        let upload = self.uploads.take(&repository, id)?;
        let digest =
            query.get("digest")?.ok_or_else(|| Refusal::new(Code::DigestInvalid, "the query's `digest` is missing"))?;
        let digest = parse_digest(&digest)?;
        let upload = self.take_body(upload, &repository, id, headers, body).await?;
        let kept = keep(upload, repository.clone(), digest).await;
        // Kept or wrong, there is nothing more to send to it.
        let _ = self.uploads.end(&repository, id);
        kept
    }

    /// Takes a body into a session. What broke off or came out of order leaves the session as it is; what failed here, or
    /// was too long, ends it.
    async fn take_body(
        &self,
        upload: InHand,
        repository: &Repository,
        id: &str,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<InHand, Refusal> {
        let size = upload.size();
        let most = match chunk(headers)? {
            Some(chunk) if chunk.start != size => {
                return Err(Refusal::new(
                    Code::RangeInvalid,
                    &format!("the next byte is {size}, and the chunk begins elsewhere"),
                )
                .with(LOCATION, value(&upload_path(repository, id)))
                .with(RANGE, value(&progress_range(size))));
            }
            Some(chunk) => {
                let room = self.room_for(size, headers)?;
                if declared(headers).is_some_and(|length| length != chunk.end.saturating_sub(chunk.start)) {
                    return Err(Refusal::new(Code::SizeInvalid, "Content-Range and Content-Length differ"));
                }
                chunk.end.min(room)
            }
            None => self.room_for(size, headers)?,
        };
        let received = uploads::receive(upload, body, most, self.limits.idle_time).await;
        self.uploads.touch(repository, id);
        match received {
            Ok((upload, came)) => came.map(|()| upload),
            Err(refusal) => {
                let _ = self.uploads.end(repository, id);
                Err(refusal)
            }
        }
    }

    /// The size that an upload of `size` bytes may come to; a body that is said to go beyond is refused at once.
    fn room_for(&self, size: u64, headers: &HeaderMap) -> Result<u64, Refusal> {
        let most = self.limits.blob_bytes;
        if declared(headers).is_some_and(|length| length > most.saturating_sub(size)) {
            return Err(Refusal::new(Code::TooLarge, &format!("blobs are at most {most} bytes long here")));
        }
        Ok(most)
    }
}

/// Gives an upload its name when the digest is right.
async fn keep(mut upload: InHand, repository: Repository, digest: Digest) -> Result<Answer, Refusal> {
    on_disk("keep the blob", move || {
        Ok(match upload.keep(&repository, &digest)? {
            Ok(()) => Ok(created(&repository, &digest)),
            Err(is) => Err(Refusal::new(Code::DigestInvalid, &format!("the bytes that came have the digest {is}"))),
        })
    })
    .await?
}

fn created(repository: &Repository, digest: &Digest) -> Answer {
    let mut answer = empty(StatusCode::CREATED);
    let headers = answer.headers_mut();
    headers.insert(LOCATION, value(&format!("/v2/{}/blobs/{digest}", repository.as_str())));
    headers.insert(CONTENT_DIGEST, value(&digest.to_string()));
    answer
}

fn upload_path(repository: &Repository, id: &str) -> String {
    format!("/v2/{}/blobs/uploads/{id}", repository.as_str())
}

/// `0-<last byte>`; of nothing at all `0-0`, as registries say it.
fn progress_range(size: u64) -> String {
    format!("0-{}", size.saturating_sub(1))
}

fn progress(status: StatusCode, repository: &Repository, id: &str, size: u64) -> Answer {
    let mut answer = empty(status);
    let headers = answer.headers_mut();
    headers.insert(LOCATION, value(&upload_path(repository, id)));
    headers.insert(RANGE, value(&progress_range(size)));
    headers.insert(UPLOAD_ID, value(id));
    answer
}

fn declared(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The `Content-Range` of a chunk: `<first>-<last>`, without a unit (distribution-spec).
fn chunk(headers: &HeaderMap) -> Result<Option<Range<u64>>, Refusal> {
    let Some(header) = headers.get(CONTENT_RANGE) else { return Ok(None) };
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let range = header.to_str().ok().and_then(|text| text.split_once('-'));
    match range.map(|(first, last)| (number(first), number(last))) {
        Some((Some(first), Some(last))) if first <= last && last < u64::MAX => Ok(Some(first..last.saturating_add(1))),
        _ => Err(Refusal::new(Code::BlobUploadInvalid, "Content-Range must be <first byte>-<last byte>")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_understood_and_whatever_else_does_not_count() {
        for (header, want) in [
            ("bytes=0-0", Part::Of(0..1)),
            ("bytes=0-9", Part::Of(0..10)),
            ("bytes=4-", Part::Of(4..10)),
            ("bytes=4-99", Part::Of(4..10)),
            ("bytes=-3", Part::Of(7..10)),
            ("bytes=-99", Part::Of(0..10)),
            ("bytes=10-", Part::Nothing),
            ("bytes=10-12", Part::Nothing),
            ("bytes=-0", Part::Nothing),
            ("bytes=3-2", Part::Whole),
            ("bytes=", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=99999999999999999999-", Part::Whole),
            ("items=0-1", Part::Whole),
        ] {
            assert_eq!(part(header, 10), want, "{header}");
        }
        assert_eq!(part("bytes=0-", 0), Part::Nothing);
    }

    #[test]
    fn a_chunks_range_is_two_numbers() {
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, HeaderValue::from_str(text).unwrap())]);
            chunk(&headers).map_err(|refusal| refusal.status())
        };
        assert_eq!(of("0-9"), Ok(Some(0..10)));
        for bad in ["", "-", "0-", "-9", "9-0", "bytes 0-9/10", "0-9/10", "+0-9", "0-18446744073709551615"] {
            assert_eq!(of(bad), Err(400), "{bad:?}");
        }
        assert_eq!(chunk(&HeaderMap::new()).unwrap(), None);
    }
}
