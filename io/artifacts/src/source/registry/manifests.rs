//! Manifests, referrers and tags of a registry, bounded while they are read.

use std::collections::BTreeSet;

use machines::json;
use machines::oci::{Descriptor, Digest, Index, MAX_MANIFEST, Manifest, Target, check_tag, media, tags};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, LINK};
use reqwest::{Method, StatusCode, Url};

use super::super::Found;
use super::super::local::Referrers;
use super::Registry;
use super::http::{Call, Tries, Trouble};
use crate::Fault;

const ACCEPTED: [&str; 4] = [media::IMAGE_MANIFEST, media::IMAGE_INDEX, media::DOCKER_MANIFEST, media::DOCKER_LIST];
/// How many pages of a list are read.
const MAX_PAGES: usize = 64;

/// An answer that was read whole.
struct Page {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Vec<u8>,
    url: Url,
}

impl Registry {
    /// The bytes of a manifest; its media type is what the answer's `Content-Type` says, its digest what the registry
    /// claims.
    pub(in super::super) async fn manifest(&self, at: &Target, max: u32) -> Result<Found, Fault> {
        let name = match at {
            Target::Tag(tag) => tag.clone(),
            Target::Digest(digest) => digest.to_string(),
            Target::Only => {
                return Err(Fault::refused(self.place(), "a registry holds many images; name a tag or a digest"));
            }
        };
        let call = Call::new(Method::GET, self.url(&format!("manifests/{name}"))?, format!("manifest {name}"))
            .header(ACCEPT, &ACCEPTED.join(", "));
        let Page { headers, bytes, .. } = self.page(&call, max, &[]).await?;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let media_type =
            text(CONTENT_TYPE.as_str()).map(|kind| kind.split(';').next().unwrap_or(kind).trim().to_owned());
        let digest = text("docker-content-digest").and_then(|digest| Digest::parse(digest).ok());
        Ok(Found { media_type, digest, bytes })
    }

    /// Reads an answer whole, and again when it breaks off. Successes pass, and the statuses named.
    async fn page(&self, call: &Call, max: u32, also: &[StatusCode]) -> Result<Page, Fault> {
        let mut tries = Tries::new(self);
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        loop {
            match self.page_once(call, max, also).await {
                Ok(page) => return Ok(page),
                Err(trouble) => tries.again(trouble).await?,
            }
        }
    }

    async fn page_once(&self, call: &Call, max: usize, also: &[StatusCode]) -> Result<Page, Trouble> {
        let response = self.attempt(call).await?;
        let (status, headers, url) = (response.status(), response.headers().clone(), response.url().clone());
        if also.contains(&status) {
            return Ok(Page { status, headers, bytes: Vec::new(), url });
        }
        if status != StatusCode::OK {
            return Err(self.refusal(response, call).await.into());
        }
        let within = self.inner.options.timeouts.overall(u64::try_from(max).unwrap_or(u64::MAX));
        let late = || Trouble::passing(self.unreachable(format!("{} did not come within {within:?}", call.what)));
        let read = tokio::time::timeout(within, self.body(response, max, &call.what));
        let bytes = read.await.unwrap_or_else(|_| Err(late()))?;
        Ok(Page { status, headers, bytes, url })
    }

    /// What refers to `subject`: by the Referrers API, and where the registry has none, by the referrers tag schema.
    pub(in super::super) async fn referrers(&self, subject: &Digest, max: u32) -> Result<Vec<Descriptor>, Fault> {
        let what = format!("referrers of {subject}");
        let mut call = Call::new(Method::GET, self.url(&format!("referrers/{subject}"))?, &what)
            .header(ACCEPT, media::IMAGE_INDEX);
        let mut found = Referrers::new(self.place(), max);
        for page in 0..MAX_PAGES {
            let absent: &[StatusCode] = if page == 0 { &[StatusCode::NOT_FOUND] } else { &[] };
            let page = self.page(&call, MAX_MANIFEST, absent).await?;
            if page.status == StatusCode::NOT_FOUND {
                return Ok(match self.tagged_referrers(subject).await? {
                    Some(index) => {
                        index.manifests.into_iter().try_for_each(|entry| found.add(entry))?;
                        found.list
                    }
                    None => Vec::new(),
                });
            }
            let index = self.index(&page.bytes, &what)?;
            index.manifests.into_iter().try_for_each(|entry| found.add(entry))?;
            match self.next(&page)? {
                Some(next) => call.url = next,
                None => return Ok(found.list),
            }
        }
        Err(Fault::too_long(self.place(), format!("pages of {what}"), u64::try_from(MAX_PAGES).unwrap_or(u64::MAX)))
    }

    /// The index of the referrers tag schema; `None` when there is none.
    pub(super) async fn tagged_referrers(&self, subject: &Digest) -> Result<Option<Index>, Fault> {
        let tag = tags::referrers(subject);
        match self.manifest(&Target::Tag(tag.clone()), MAX_MANIFEST).await {
            Ok(found) => self.index(&found.bytes, &format!("tag {tag}")).map(Some),
            Err(fault) if fault.is_not_found() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn index(&self, bytes: &[u8], what: &str) -> Result<Index, Fault> {
        match Manifest::parse(bytes, Some(media::IMAGE_INDEX)) {
            Ok(Manifest::Index(index)) => Ok(index),
            Ok(Manifest::Image(_)) => Err(self.broken(format!("{what}: is an image, not an index"))),
            Err(refusal) => Err(Fault::document(self.place(), what, &refusal)),
        }
    }

    /// The next page of a list, which is on the same origin (RFC 8288).
    fn next(&self, page: &Page) -> Result<Option<Url>, Fault> {
        let Some(link) = page.headers.get(LINK).and_then(|link| link.to_str().ok()) else { return Ok(None) };
        let target = link.split(',').find_map(|link| {
            let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
            let next = parameters.split(';').any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"));
            next.then_some(target)
        });
        let Some(target) = target else { return Ok(None) };
        let url = page.url.join(target).map_err(|_| self.broken("the link to the next page is no URL"))?;
        if url.origin() != self.inner.base.origin() {
            return Err(self.broken("the link to the next page leads to another host"));
        }
        Ok(Some(url))
    }

    /// The tags, sorted.
    pub(in super::super) async fn tags(&self, max: u32) -> Result<Vec<String>, Fault> {
        let most = usize::try_from(max).unwrap_or(usize::MAX);
        let mut call = Call::new(Method::GET, self.url("tags/list?n=1000")?, "the list of tags");
        let mut found = BTreeSet::new();
        for _ in 0..MAX_PAGES {
            let page = self.page(&call, MAX_MANIFEST, &[]).await?;
            let limits = json::Limits::bytes(page.bytes.len());
            let value =
                json::parse(&page.bytes, &limits).map_err(|error| self.broken(format!("the list of tags: {error}")))?;
            let no_list = || self.broken("the list of tags holds no `tags`");
            let tags = match value.get("tags") {
                Some(json::Value::Null) => &[][..],
                other => other.and_then(json::Value::as_array).ok_or_else(no_list)?,
            };
            found
                .extend(tags.iter().filter_map(json::Value::as_str).filter(|t| check_tag(t).is_ok()).map(String::from));
            if found.len() > most {
                return Err(Fault::too_long(self.place(), "tags", u64::from(max)));
            }
            match self.next(&page)? {
                Some(next) => call.url = next,
                None => return Ok(found.into_iter().collect()),
            }
        }
        Err(Fault::too_long(self.place(), "pages of tags", u64::try_from(MAX_PAGES).unwrap_or(u64::MAX)))
    }
}
