//! Pushing to a registry (distribution-spec, "Push").

use machines::oci::{Descriptor, Digest, Index, Manifest, Target, media, tags};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE};
use reqwest::{Method, Response, StatusCode, Url};

use super::super::local;
use super::Registry;
use super::http::{Body, Call, Tries, Trouble, location};
use super::upload::Upload;
use crate::Fault;
use crate::blob::Blob;

/// How often the index of the referrers tag schema is written, when somebody else writes it as well.
const MAX_INDEX_WRITES: u32 = 4;

impl Registry {
    /// Uploads a blob unless it is there: with one request, or in parts when it is long.
    ///
    /// # Errors
    /// When the blob is not what the descriptor says, or the registry does not take it.
    pub async fn put_blob(&self, descriptor: &Descriptor, blob: &Blob) -> Result<(), Fault> {
        if blob.size() != descriptor.size {
            let why =
                format!("{} has {} bytes, its descriptor says {}", descriptor.digest, blob.size(), descriptor.size);
            return Err(Fault::broken(blob.place(), why));
        }
        if self.has_blob(descriptor).await? {
            return Ok(());
        }
        let mut tries = Tries::new(self);
        loop {
            match self.upload(descriptor, blob).await {
                Ok(()) => return Ok(()),
                Err(trouble) => tries.again(trouble).await?,
            }
        }
    }

    async fn upload(&self, descriptor: &Descriptor, blob: &Blob) -> Result<(), Trouble> {
        let what = format!("the upload of {}", descriptor.digest);
        let begin = Call::new(Method::POST, self.url("blobs/uploads/")?, &what);
        let response = self.attempt(&begin).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refusal(response, &begin).await.into());
        }
        let mut session = self.session(&response)?;
        let mut body = Body::Blob(Upload::whole(blob.clone(), descriptor.digest));
        let chunk = self.inner.options.chunk_bytes.max(1);
        if descriptor.size > chunk {
            session = self.parts(session, blob, chunk, &what).await?;
            body = Body::None;
        }
        session.query_pairs_mut().append_pair("digest", &descriptor.digest.to_string());
        let end = Call::new(Method::PUT, session, &what).header(CONTENT_TYPE, media::OCTET_STREAM).body(body);
        let response = self.attempt(&end).await?;
        if response.status().is_success() { Ok(()) } else { Err(self.refusal(response, &end).await.into()) }
    }

    async fn parts(&self, mut session: Url, blob: &Blob, chunk: u64, what: &str) -> Result<Url, Trouble> {
        let mut at = 0;
        while at < blob.size() {
            let len = chunk.min(blob.size().saturating_sub(at));
            let end = at.saturating_add(len);
            let call = Call::new(Method::PATCH, session, what)
                .header(CONTENT_TYPE, media::OCTET_STREAM)
                .header(CONTENT_RANGE, &format!("{at}-{}", end.saturating_sub(1)))
                .body(Body::Blob(Upload::part(blob.clone(), at, len)));
            let response = self.attempt(&call).await?;
            if response.status() != StatusCode::ACCEPTED {
                return Err(self.refusal(response, &call).await.into());
            }
            session = self.session(&response)?;
            at = end;
        }
        Ok(session)
    }

    /// Where an upload goes on. Credentials go there only when it is the registry's own origin.
    fn session(&self, response: &Response) -> Result<Url, Fault> {
        let url = location(response).ok_or_else(|| self.broken("the registry does not say where an upload goes on"))?;
        if self.inner.base.scheme() == "https" && url.scheme() != "https" {
            return Err(self.broken("the registry leads an upload from TLS to plain HTTP, which is refused"));
        }
        Ok(url)
    }

    /// Has the registry take a blob over from another of its repositories; `false` when it does not.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn mount(&self, descriptor: &Descriptor, from: &str) -> Result<bool, Fault> {
        self.inner.auth.also_pull(from);
        let mut url = self.url("blobs/uploads/")?;
        url.query_pairs_mut().append_pair("mount", &descriptor.digest.to_string()).append_pair("from", from);
        let call = Call::new(Method::POST, url, format!("taking over {} from {from}", descriptor.digest));
        let response = self.send(&call).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(true);
        }
        if response.status() == StatusCode::ACCEPTED
            && let Ok(session) = self.session(&response)
        {
            // An upload was begun instead, which nobody wants; it ends by itself if this fails.
            let _ = self.attempt(&Call::new(Method::DELETE, session, "ending an upload")).await;
        }
        Ok(false)
    }

    /// Uploads a manifest; where the registry does not keep the list of referrers itself, it is brought up to date.
    pub(in super::super) async fn put_manifest(
        &self,
        target: &Target,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> Result<Digest, Fault> {
        let (digest, manifest) = local::check_put(self.place(), target, media_type, &bytes)?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let name = match target {
            Target::Tag(tag) => tag.clone(),
            Target::Digest(_) | Target::Only => digest.to_string(),
        };
        let response = self.upload_manifest(&name, media_type, bytes).await?;
        let Some(subject) = manifest.subject() else { return Ok(digest) };
        let listed = response.headers().get("oci-subject").and_then(|value| value.to_str().ok());
        if listed != Some(subject.digest.to_string().as_str()) {
            self.list_referrer(&subject.digest, local::described(digest, size, &manifest)).await?;
        }
        Ok(digest)
    }

    async fn upload_manifest(&self, name: &str, media_type: &str, bytes: Vec<u8>) -> Result<Response, Fault> {
        let call =
            Call::new(Method::PUT, self.url(&format!("manifests/{name}"))?, format!("the upload of manifest {name}"))
                .header(CONTENT_TYPE, media_type)
                .body(Body::Bytes(bytes.into()));
        let response = self.send(&call).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response, &call).await) }
    }

    /// Adds an entry to the index of the referrers tag schema. Two that write at once could lose one of the entries, so it
    /// is read back.
    async fn list_referrer(&self, subject: &Digest, entry: Descriptor) -> Result<(), Fault> {
        let empty = || Index::new(media::IMAGE_INDEX.into(), Vec::new());
        for _ in 0..MAX_INDEX_WRITES {
            let mut index = self.tagged_referrers(subject).await?.unwrap_or_else(empty);
            if index.manifests.iter().any(|listed| listed.digest == entry.digest) {
                return Ok(());
            }
            index.manifests.push(entry.clone());
            let bytes = index.to_bytes();
            // What cannot be read again must not be written.
            Manifest::parse(&bytes, Some(media::IMAGE_INDEX))
                .map_err(|refusal| Fault::document(self.place(), "the index of referrers", &refusal))?;
            self.upload_manifest(&tags::referrers(subject), media::IMAGE_INDEX, bytes).await?;
        }
        let index = self.tagged_referrers(subject).await?.unwrap_or_else(empty);
        if index.manifests.iter().any(|listed| listed.digest == entry.digest) {
            return Ok(());
        }
        Err(self
            .unreachable(format!("the index of what refers to {subject} is written by others all the time; try again")))
    }
}
