//! One exchange with a registry: credentials, redirects, and trying again.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use machines::json;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::time::{sleep, timeout};

use super::Registry;
use super::auth::{self, Challenge, MAX_TOKEN};
use super::upload::Upload;
use crate::Fault;

/// How many redirects of a blob are followed.
const MAX_REDIRECTS: usize = 3;
/// The longest wait between two tries, of our own and of the registry's choice.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// How much of an error's words is read, in bytes, and shown, in characters.
const MAX_WORDS: usize = 8 * 1024;
const SHOWN_WORDS: usize = 300;

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// Whether redirects are followed.
    pub(super) redirects: bool,
    /// What is asked for, in words.
    pub(super) what: String,
}

/// What is sent along; it can be sent again.
#[derive(Clone, Debug)]
pub(super) enum Body {
    None,
    Bytes(Bytes),
    Blob(Upload),
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::Blob(upload) => upload.len(),
        }
    }
}

impl Call {
    pub(super) fn new(method: Method, url: Url, what: impl Into<String>) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Body::None, redirects: false, what: what.into() }
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        // Media types and ranges that we made are header values; a media type that is none is left out and then refused.
        self.headers.extend(HeaderValue::try_from(value).ok().map(|value| (name, value)));
        self
    }

    pub(super) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    pub(super) const fn follow(mut self) -> Self {
        self.redirects = true;
        self
    }
}

/// An exchange that failed, and whether it may succeed when it is tried again, after how long at least.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) fault: Fault,
    pub(super) again: Option<Duration>,
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self { fault, again: None }
    }
}

impl Trouble {
    pub(super) const fn passing(fault: Fault) -> Self {
        Self { fault, again: Some(Duration::ZERO) }
    }
}

/// Tries of one thing.
pub(super) struct Tries {
    left: u32,
    wait: Duration,
}

impl Tries {
    pub(super) fn new(registry: &Registry) -> Self {
        let options = &registry.inner.options;
        Self { left: options.tries.saturating_sub(1), wait: options.backoff }
    }

    /// Waits before the next try, or gives up.
    pub(super) async fn again(&mut self, trouble: Trouble) -> Result<(), Fault> {
        let (Some(least), Some(left)) = (trouble.again, self.left.checked_sub(1)) else { return Err(trouble.fault) };
        self.left = left;
        sleep(self.wait.max(least)).await;
        self.wait = self.wait.saturating_mul(2).min(MAX_BACKOFF);
        Ok(())
    }
}

impl Registry {
    /// Sends a request until there is an answer that is neither a failure of the network nor of the registry.
    pub(super) async fn send(&self, call: &Call) -> Result<Response, Fault> {
        let mut tries = Tries::new(self);
        loop {
            match self.attempt(call).await {
                Ok(response) => return Ok(response),
                Err(trouble) => tries.again(trouble).await?,
            }
        }
    }

    /// Sends a request once, with the credentials that the registry wants to see.
    pub(super) async fn attempt(&self, call: &Call) -> Result<Response, Trouble> {
        let within = self.inner.options.timeouts.overall(call.body.len());
        let late = || Trouble::passing(self.unreachable(format!("no answer about {} within {within:?}", call.what)));
        timeout(within, self.authorised(call)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn authorised(&self, call: &Call) -> Result<Response, Trouble> {
        let sent = self.inner.auth.header();
        let response = self.redirected(call, sent.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED || response.url().origin() != self.inner.base.origin() {
            return self.usable(response, call).await;
        }
        // A token ends some day, and another repository may want another one.
        self.inner.auth.set(None);
        let Some(header) = self.answer(&response).await? else {
            return Err(self.denied(response, call).await.into());
        };
        if sent.as_ref() == Some(&header) {
            return Err(self.denied(response, call).await.into());
        }
        drop(response);
        let response = self.redirected(call, Some(&header)).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(self.denied(response, call).await.into());
        }
        self.inner.auth.set(Some(header));
        self.usable(response, call).await
    }

    /// The header that answers a challenge.
    async fn answer(&self, response: &Response) -> Result<Option<HeaderValue>, Trouble> {
        let base = &self.inner.base;
        let loopback = base.scheme() == "http" && !self.inner.options.plain_http;
        match auth::challenge(response.headers()) {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(self.inner.auth.basic(base, loopback)),
            Some(Challenge::Bearer { realm, service }) => {
                let (url, login) = self.inner.auth.token_request(base, loopback, (&realm, service.as_deref()))?;
                let call = Call::new(Method::GET, url, "a token");
                let response = self.exchange(&call.url, &call, login.as_ref()).await?;
                if !response.status().is_success() {
                    return match self.usable(response, &call).await {
                        Ok(response) => Err(self.denied(response, &call).await.into()),
                        Err(trouble) => Err(trouble),
                    };
                }
                let bytes = self.body(response, MAX_TOKEN, &call.what).await?;
                let none = || Trouble::from(self.broken("the token service's answer holds no token"));
                auth::token(&bytes).map(Some).ok_or_else(none)
            }
        }
    }

    /// Sends a request and follows where its answers lead: at most three times, never from TLS to plain HTTP, and with
    /// credentials only on the registry's own origin.
    async fn redirected(&self, call: &Call, header: Option<&HeaderValue>) -> Result<Response, Trouble> {
        let mut url = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let own = url.origin() == self.inner.base.origin();
            let response = self.exchange(&url, call, header.filter(|_| own)).await?;
            if !call.redirects || !is_redirect(response.status()) {
                return Ok(response);
            }
            let next = location(&response).ok_or_else(|| self.broken("a redirect leads nowhere"))?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(self
                    .broken(format!("{} redirects from TLS to {}, which is refused", call.what, next.scheme()))
                    .into());
            }
            if !next.username().is_empty() || next.password().is_some() {
                return Err(self.broken("a redirect holds a user name, which is refused").into());
            }
            url = next;
        }
        Err(self.broken(format!("more than {MAX_REDIRECTS} redirects for {}", call.what)).into())
    }

    async fn exchange(&self, url: &Url, call: &Call, header: Option<&HeaderValue>) -> Result<Response, Trouble> {
        let client = self.inner.net.client(url).await?;
        let mut request = client.request(call.method.clone(), url.clone()).headers(call.headers.clone());
        if let Some(header) = header {
            request = request.header(AUTHORIZATION, header.clone());
        }
        request = match &call.body {
            Body::None if matches!(call.method, Method::GET | Method::HEAD | Method::DELETE) => request,
            Body::None => request.header(CONTENT_LENGTH, 0),
            Body::Bytes(bytes) => request.body(bytes.clone()),
            Body::Blob(upload) => request.body(reqwest::Body::wrap(upload.start())),
        };
        request.send().await.map_err(|error| self.of_network(error, &call.what))
    }

    /// Answers that say "later" are no answers.
    async fn usable(&self, response: Response, call: &Call) -> Result<Response, Trouble> {
        let status = response.status();
        if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
            return Ok(response);
        }
        let again = Some(retry_after(&response).unwrap_or_default());
        let words = self.words(response).await;
        let fault = self.unreachable(format!("the registry answered {} about {}{words}", status.as_u16(), call.what));
        Err(Trouble { fault, again })
    }

    async fn denied(&self, response: Response, call: &Call) -> Fault {
        let status = response.status().as_u16();
        let words = self.words(response).await;
        let why = format!("the registry answered {status} about {}{words}; {}", call.what, self.inner.auth.advice());
        Fault::Denied { place: self.inner.place.clone(), why }
    }

    /// What an answer that is no success means.
    pub(super) async fn refusal(&self, response: Response, call: &Call) -> Fault {
        match response.status() {
            StatusCode::NOT_FOUND => Fault::missing(&self.inner.place, call.what.clone()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(response, call).await,
            status => {
                let words = self.words(response).await;
                self.broken(format!("the registry answered {} about {}{words}", status.as_u16(), call.what))
            }
        }
    }

    /// The registry's own words, cut and without control characters.
    async fn words(&self, response: Response) -> String {
        let Ok(bytes) = self.body(response, MAX_WORDS, "an error").await else { return String::new() };
        let value = json::parse(&bytes, &json::Limits::bytes(MAX_WORDS)).ok();
        let first = value.as_ref().and_then(|value| value.get("errors")?.as_array()?.first());
        let text = |field: &str| first.and_then(|error| error.get(field)).and_then(json::Value::as_str);
        let words = match (text("code"), text("message")) {
            (Some(code), Some(message)) => format!("{code}, {message}"),
            (Some(one), None) | (None, Some(one)) => one.to_owned(),
            (None, None) => return String::new(),
        };
        let clean: String = words.chars().take(SHOWN_WORDS).map(|c| if c.is_control() { ' ' } else { c }).collect();
        format!(": {clean}")
    }

    /// The whole body, when it has at most `max` bytes; reading stops behind them (FAULTS S13).
    pub(super) async fn body(&self, mut response: Response, max: usize, what: &str) -> Result<Vec<u8>, Trouble> {
        let long =
            || Fault::too_long(&self.inner.place, format!("bytes of {what}"), u64::try_from(max).unwrap_or(u64::MAX));
        if response.content_length().is_some_and(|len| usize::try_from(len).is_ok_and(|len| len > max)) {
            return Err(long().into());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(&mut response, what).await? {
            if bytes.len().saturating_add(chunk.len()) > max {
                return Err(long().into());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// The next part of a body, awaited as long as a connection may be silent.
    pub(super) async fn chunk(&self, response: &mut Response, what: &str) -> Result<Option<Bytes>, Trouble> {
        match timeout(self.inner.options.timeouts.idle, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(self.of_network(error, what)),
            Err(_) => Err(Trouble::passing(self.unreachable(format!("the registry went silent within {what}")))),
        }
    }

    fn of_network(&self, error: reqwest::Error, what: &str) -> Trouble {
        // URLs may hold what gives access to a blob.
        let error = error.without_url();
        let mut words = error.to_string();
        let mut cause = std::error::Error::source(&error);
        let mut tls = false;
        while let Some(inner) = cause {
            words = format!("{words}: {inner}");
            tls = tls || is_tls(inner);
            cause = inner.source();
        }
        let fault = self.unreachable(format!("{what}: {words}"));
        if tls { fault.into() } else { Trouble::passing(fault) }
    }
}

/// A certificate that is not taken now will not be taken in a second.
fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>())
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where `Location` leads, seen from where the answer came from.
pub(super) fn location(response: &Response) -> Option<Url> {
    response.url().join(response.headers().get(LOCATION)?.to_str().ok()?).ok()
}

/// `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3), up to a minute.
fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let wait = match text.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).unwrap_or_default(),
    };
    Some(wait.min(MAX_RETRY_AFTER))
}
