//! The endpoints of manifests, tags and referrers.

use std::sync::Arc;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION};
use hyper::{Method, StatusCode};
use machines::json::Value;
use machines::oci::{Digest, MAX_MANIFEST, Manifest, Target, media};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::answer::{Answer, Code, Refusal, empty, json, value};
use super::blobs::{CONTENT_DIGEST, Reading};
use super::registry::{Registry, on_disk};
use super::route::{Query, Repository, encode, parse_digest};
use super::store::{Page, PutError};

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Most names that one answer lists.
const NAMES: usize = 1000;

impl Registry {
    /// `GET` and `HEAD` of a manifest.
    pub(super) async fn get_manifest(
        self: &Arc<Self>,
        repository: Repository,
        target: Target,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Answer, Refusal> {
        let registry = Arc::clone(self);
        let (reading, accepted) = (Reading::of(method, headers, false), accepted(headers));
        on_disk("read the manifest", move || {
            let Some(found) = registry.store.manifest(&repository, &target)? else {
                return Ok(Err(Refusal::new(Code::ManifestUnknown, "the repository has no such manifest")));
            };
            let kind = found.media_type.clone().unwrap_or_default();
            if !accepted.is_empty() && !accepted.iter().any(|range| admits(range, &kind)) {
                let message = format!("the manifest is of the media type {kind}, which the request does not accept");
                return Ok(Err(Refusal::new(Code::ManifestUnknown, &message)));
            }
            Ok(reading.give(found, &kind, &registry.buffers))
        })
        .await?
    }

    /// `PUT` of a manifest.
    pub(super) async fn put_manifest(
        self: &Arc<Self>,
        repository: Repository,
        target: Target,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Answer, Refusal> {
        let held = self.manifest_room(headers).await?;
        let most = usize::try_from(MAX_MANIFEST).unwrap_or(usize::MAX);
        let bytes = match timeout(self.limits.idle_time, Limited::new(body, most).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
            Ok(Err(_)) => return Err(Refusal::new(Code::ManifestInvalid, "the body did not come whole")),
            Err(_) => return Err(Refusal::new(Code::Late, "the manifest did not come in time")),
        };
        let kind = media_type(headers)?;
        let registry = Arc::clone(self);
        on_disk("keep the manifest", move || {
            let _held = held;
            let manifest = match Manifest::parse(&bytes, kind.as_deref()) {
                Ok(manifest) => manifest,
                Err(refusal) => return Ok(Err(Refusal::new(Code::ManifestInvalid, &refusal.to_string()))),
            };
            let tag = match &target {
                Target::Tag(tag) => Some(tag.as_str()),
                Target::Digest(named) if *named != Digest::of(&bytes) => {
                    let message = format!("the bytes that came have the digest {}", Digest::of(&bytes));
                    return Ok(Err(Refusal::new(Code::DigestInvalid, &message)));
                }
                Target::Digest(_) | Target::Only => None,
            };
            let refused = |code, error: PutError| Ok(Err(Refusal::new(code, &error.to_string())));
            match registry.store.put_manifest(&repository, tag, &manifest, &bytes) {
                Ok(digest) => Ok(Ok(put(&repository, &target, &digest, manifest.subject().map(|s| s.digest)))),
                Err(PutError::Io(error)) => Err(error),
                Err(error @ PutError::Unknown(_)) => refused(Code::ManifestBlobUnknown, error),
                Err(error @ PutError::Size { .. }) => refused(Code::SizeInvalid, error),
                Err(error @ PutError::Annotations) => refused(Code::ManifestInvalid, error),
            }
        })
        .await?
    }

    /// Room for a manifest's body: of all those under way together only so much is held.
    async fn manifest_room(&self, headers: &HeaderMap) -> Result<OwnedSemaphorePermit, Refusal> {
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let length = length.unwrap_or(u64::from(MAX_MANIFEST));
        let length = u32::try_from(length).ok().filter(|length| *length <= MAX_MANIFEST).ok_or_else(too_large)?;
        let kib = length.div_ceil(1024).max(1);
        let permit = timeout(self.limits.idle_time, Arc::clone(&self.manifests).acquire_many_owned(kib)).await;
        permit.ok().and_then(Result::ok).ok_or_else(|| Refusal::busy("too many manifests are under way"))
    }

    /// `DELETE` of a manifest or tag.
    pub(super) async fn delete_manifest(
        self: &Arc<Self>,
        repository: Repository,
        target: Target,
    ) -> Result<Answer, Refusal> {
        let registry = Arc::clone(self);
        let there = on_disk("delete the manifest", move || match &target {
            Target::Tag(tag) => registry.store.delete_tag(&repository, tag),
            Target::Digest(digest) => registry.store.delete_manifest(&repository, digest),
            Target::Only => Ok(false),
        });
        let unknown = || Refusal::new(Code::ManifestUnknown, "the repository has no such manifest");
        if there.await? { Ok(empty(StatusCode::ACCEPTED)) } else { Err(unknown()) }
    }

    /// `GET` of the tags.
    pub(super) async fn list_tags(
        self: &Arc<Self>,
        repository: Repository,
        query: &Query<'_>,
    ) -> Result<Answer, Refusal> {
        let (n, last) = (page_size(query)?, query.get("last")?);
        let path = format!("/v2/{}/tags/list", repository.as_str());
        let registry = Arc::clone(self);
        let name = repository.as_str().to_owned();
        let page = on_disk("list the tags", move || registry.store.tags(&repository, n, last.as_deref())).await?;
        let page =
            page.ok_or_else(|| Refusal::new(Code::NameUnknown, "nothing was pushed to a repository of this name"))?;
        Ok(names(&path, n, "tags", page, Some(("name", name))))
    }

    /// `GET` of the catalog.
    pub(super) async fn list_repositories(self: &Arc<Self>, query: &Query<'_>) -> Result<Answer, Refusal> {
        let (n, last) = (page_size(query)?, query.get("last")?);
        let registry = Arc::clone(self);
        let page = on_disk("list the repositories", move || registry.store.repositories(n, last.as_deref())).await?;
        Ok(names("/v2/_catalog", n, "repositories", page, None))
    }

    /// `GET` of the referrers.
    pub(super) async fn list_referrers(
        self: &Arc<Self>,
        repository: Repository,
        subject: Digest,
        query: &Query<'_>,
    ) -> Result<Answer, Refusal> {
        let kind = query.get("artifactType")?.filter(|kind| !kind.is_empty());
        let last = query.get("last")?.map(|last| parse_digest(&last)).transpose()?;
        let path = format!("/v2/{}/referrers/{subject}", repository.as_str());
        let (registry, wanted) = (Arc::clone(self), kind.clone());
        let page = on_disk("list the referrers", move || {
            registry.store.referrers(&repository, &subject, wanted.as_deref(), last.as_ref())
        });
        let page = page.await?;
        let index = object([
            ("schemaVersion", Value::from(2_u64)),
            ("mediaType", Value::from(media::IMAGE_INDEX)),
            ("manifests", Value::Array(page.entries)),
        ]);
        let mut answer = json(StatusCode::OK, media::IMAGE_INDEX, &index);
        if let Some(last) = page.more_after {
            let kind = kind.as_ref().map(|kind| format!("&artifactType={}", encode(kind))).unwrap_or_default();
            let link = format!("<{path}?last={}{kind}>; rel=\"next\"", encode(&last));
            answer.headers_mut().insert(LINK, value(&link));
        }
        if kind.is_some() {
            answer.headers_mut().insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
        }
        Ok(answer)
    }
}

fn too_large() -> Refusal {
    Refusal::new(Code::TooLarge, "a manifest is at most 4 MiB long")
}

fn put(repository: &Repository, target: &Target, digest: &Digest, subject: Option<Digest>) -> Answer {
    let mut answer = empty(StatusCode::CREATED);
    let headers = answer.headers_mut();
    let named = match target {
        Target::Tag(tag) => tag.clone(),
        Target::Digest(_) | Target::Only => digest.to_string(),
    };
    headers.insert(LOCATION, value(&format!("/v2/{}/manifests/{named}", repository.as_str())));
    headers.insert(CONTENT_DIGEST, value(&digest.to_string()));
    if let Some(subject) = subject {
        headers.insert(OCI_SUBJECT, value(&subject.to_string()));
    }
    answer
}

/// How many names to list: `n`, at most [`NAMES`].
fn page_size(query: &Query<'_>) -> Result<usize, Refusal> {
    let Some(n) = query.get("n")? else { return Ok(NAMES) };
    if n.is_empty() || !n.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::new(Code::Unsupported, "the query's `n` must be a number"));
    }
    Ok(n.parse::<usize>().map_or(NAMES, |n| n.min(NAMES)))
}

fn names(path: &str, n: usize, field: &str, page: Page<String>, more: Option<(&str, String)>) -> Answer {
    let list = Value::Array(page.entries.iter().map(|name| Value::from(name.as_str())).collect());
    let more = more.map(|(name, text)| (name, Value::from(text)));
    let mut answer = json(StatusCode::OK, "application/json", &object([(field, list)].into_iter().chain(more)));
    if let Some(last) = page.more_after {
        let link = format!("<{path}?n={n}&last={}>; rel=\"next\"", encode(&last));
        answer.headers_mut().insert(LINK, value(&link));
    }
    answer
}

fn object<'a>(members: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// The media type of a body, without parameters.
fn media_type(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut given = headers.get_all(CONTENT_TYPE).iter();
    let (first, None) = (given.next(), given.next()) else {
        return Err(Refusal::new(Code::ManifestInvalid, "Content-Type is there more than once"));
    };
    let essence = first.map(|value| value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim());
    Ok(essence.filter(|essence| !essence.is_empty()).map(str::to_ascii_lowercase))
}

/// The media ranges that a request accepts, without parameters; none when it does not say.
fn accepted(headers: &HeaderMap) -> Vec<String> {
    let lists = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges = lists.flat_map(|list| list.split(',')).map(|range| range.split(';').next().unwrap_or_default().trim());
    ranges.filter(|range| !range.is_empty()).map(str::to_ascii_lowercase).collect()
}

fn admits(range: &str, media_type: &str) -> bool {
    range == media_type
        || range == "*/*"
        || range.strip_suffix('*').is_some_and(|start| start.ends_with('/') && media_type.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_range_admits_itself_its_kind_or_all() {
        for range in [media::IMAGE_MANIFEST, "*/*", "application/*"] {
            assert!(admits(range, media::IMAGE_MANIFEST), "{range}");
        }
        for range in [media::IMAGE_INDEX, "text/*", "application*", "*", ""] {
            assert!(!admits(range, media::IMAGE_MANIFEST), "{range}");
        }
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("a/b; q=0.5, C/D ,,"))]);
        assert_eq!(accepted(&headers), ["a/b", "c/d"]);
    }
}
