//! From a request to its endpoint: who asks, what for, and by which rules.

use std::io;
use std::sync::Arc;

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use io_http::{Foreign, Site};
use machines::json::Value;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::Limits;
use super::access::{Access, Wish};
use super::answer::{Answer, Buffers, Code, Refusal, json};
use super::blobs::Reading;
use super::route::{Query, Route};
use super::store::Store;
use super::uploads::Uploads;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// What every request needs.
#[derive(Debug)]
pub struct Registry {
    pub(super) store: Arc<Store>,
    pub(super) limits: Limits,
    pub(super) buffers: Buffers,
    pub(super) uploads: Uploads,
    /// KiB of the bodies of manifests under way.
    pub(super) manifests: Arc<Semaphore>,
    pub(super) site: Site,
    pub(super) access: Access,
    pub(super) read_only: bool,
    pub(super) deletes: bool,
}

/// Does what waits for the disk on a thread that may wait.
pub async fn on_disk<T: Send + 'static>(
    doing: &'static str,
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let done = spawn_blocking(job).await.map_err(io::Error::other).flatten();
    done.map_err(|error| Refusal::of_disk(doing, &error))
}

impl Registry {
    /// The answer to a request; one that is `ambiguous` says its length in two ways.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>, ambiguous: bool) -> Answer {
        let (parts, body) = request.into_parts();
        let unread = !body.is_end_stream();
        let answered = if ambiguous {
            let words = "Content-Length and Transfer-Encoding: a request says its length once";
            Err(Refusal::new(Code::Unsupported, words))
        } else {
            self.dispatch(&parts, body).await
        };
        let mut answer = match answered {
            Ok(answer) => answer,
            Err(refusal) => {
                let mut answer = refusal.answer();
                // The body behind it may not have been read: there is no next request.
                if unread {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                answer
            }
        };
        let headers = answer.headers_mut();
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        answer
    }

    async fn dispatch(self: &Arc<Self>, parts: &Parts, body: Incoming) -> Result<Answer, Refusal> {
        if let Err(foreign) = self.site.check(&parts.uri, &parts.headers) {
            let code = match foreign {
                Foreign::NoHost => Code::Unsupported,
                Foreign::Host | Foreign::Origin => Code::Denied,
            };
            return Err(Refusal::new(code, &foreign.to_string()));
        }
        let route = Route::of(parts.uri.path())?;
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        let wish = match (&route, reads) {
            (Route::Base, _) => Wish::Greet,
            (Route::Upload(..), _) | (_, false) => Wish::Write,
            (_, true) => Wish::Read,
        };
        self.access.check(wish, &parts.headers)?;
        if self.read_only && !reads {
            return Err(Refusal::method("GET, HEAD", "this registry is read-only"));
        }
        if !self.deletes && parts.method == Method::DELETE && !matches!(route, Route::Upload(..)) {
            return Err(Refusal::method("GET, HEAD, PUT", "this registry deletes nothing"));
        }
        self.endpoint(route, parts, body).await
    }

    async fn endpoint(self: &Arc<Self>, route: Route, parts: &Parts, body: Incoming) -> Result<Answer, Refusal> {
        let (headers, query) = (&parts.headers, Query::of(&parts.uri));
        let wrong = Refusal::method(route.methods(), "the endpoint does not take this method");
        let method = &parts.method;
        let reads = matches!(*method, Method::GET | Method::HEAD);
        match route {
            Route::Base if reads => Ok(json(StatusCode::OK, "application/json", &Value::Object([].into()))),
            Route::Catalog if reads => self.list_repositories(&query).await,
            Route::Tags(name) if reads => self.list_tags(name, &query).await,
            Route::Referrers(name, subject) if reads => self.list_referrers(name, subject, &query).await,
            Route::Blob(name, digest) if reads => self.get_blob(name, digest, Reading::of(method, headers, true)).await,
            Route::Blob(name, digest) if method == Method::DELETE => self.delete_blob(name, digest).await,
            Route::Manifest(name, target) if reads => self.get_manifest(name, target, method, headers).await,
            Route::Manifest(name, target) if method == Method::PUT => {
                self.put_manifest(name, target, headers, body).await
            }
            Route::Manifest(name, target) if method == Method::DELETE => self.delete_manifest(name, target).await,
            Route::Uploads(name) if method == Method::POST => self.post_upload(name, &query, headers, body).await,
            Route::Upload(name, id) if method == Method::GET => self.upload_status(&name, &id),
            Route::Upload(name, id) if method == Method::PATCH => self.patch_upload(&name, &id, headers, body).await,
            Route::Upload(name, id) if method == Method::PUT => self.put_upload(name, &id, &query, headers, body).await,
            Route::Upload(name, id) if method == Method::DELETE => self.cancel_upload(&name, &id),
            Route::Base
            | Route::Catalog
            | Route::Tags(_)
            | Route::Referrers(..)
            | Route::Blob(..)
            | Route::Manifest(..)
            | Route::Uploads(_)
            | Route::Upload(..) => Err(wrong),
        }
    }
}
