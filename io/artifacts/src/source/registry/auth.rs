//! Who we are towards a registry: Basic, or a token that is fetched with it (distribution's token specification).
//!
//! Credentials come from the `auths` of a Docker configuration file; no helper program is run and no environment variable
//! is read. They go to the registry's own origin, and to a token service elsewhere only when the operator named it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use base64ct::{Base64, Encoding};
use machines::json;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use super::Options;
use crate::Fault;

/// The longest Docker configuration file, in bytes.
const MAX_CONFIG: u64 = 1024 * 1024;
/// The longest answer of a token service, in bytes.
pub(super) const MAX_TOKEN: usize = 64 * 1024;

/// User names and passwords by registry.
#[derive(Clone, Default)]
pub struct Credentials {
    hosts: Arc<BTreeMap<String, HeaderValue>>,
}

impl std::fmt::Debug for Credentials {
    /// For whom, and nothing of what.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.hosts.keys()).finish()
    }
}

impl Credentials {
    /// One registry's user name and password.
    #[must_use]
    pub fn of(host: &str, user: &str, password: &str) -> Self {
        let mut hosts = BTreeMap::new();
        hosts.extend(basic(user, password).map(|value| (host.to_owned(), value)));
        Self { hosts: Arc::new(hosts) }
    }

    /// Reads the `auths` of a Docker configuration file (`config.json`, `auth.json`).
    ///
    /// # Errors
    /// When the file cannot be read, or an entry is not what it must be.
    pub fn read(path: &Path) -> Result<Self, Fault> {
        let place = path.display().to_string();
        let file = std::fs::File::open(path).map_err(|error| Fault::file(path, "cannot be opened", error))?;
        let bytes = crate::blob::Blob::from_file(file, &place)?.read(MAX_CONFIG)?;
        let limits = json::Limits::bytes(usize::try_from(MAX_CONFIG).unwrap_or(usize::MAX));
        let value = json::parse(&bytes, &limits).map_err(|error| Fault::broken(&place, error.to_string()))?;
        let mut hosts = BTreeMap::new();
        let Some(auths) = value.get("auths").and_then(json::Value::as_object) else { return Ok(Self::default()) };
        for (name, entry) in auths {
            let text = |field: &str| entry.get(field).and_then(json::Value::as_str).filter(|text| !text.is_empty());
            let login = match (text("auth"), text("username"), text("password")) {
                (Some(auth), _, _) => HeaderValue::try_from(format!("Basic {auth}"))
                    .ok()
                    .filter(|_| Base64::decode_vec(auth).is_ok_and(|pair| pair.contains(&b':'))),
                (None, Some(user), Some(password)) => basic(user, password),
                // A name that a helper program knows about.
                (None, _, _) => continue,
            };
            let wrong = || Fault::broken(&place, format!("auths of {name:?}: must be Base64 of user:password"));
            let mut login = login.ok_or_else(wrong)?;
            login.set_sensitive(true);
            hosts.insert(host_of(name).to_owned(), login);
        }
        Ok(Self { hosts: Arc::new(hosts) })
    }
}

fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let pair = Base64::encode_string(format!("{user}:{password}").as_bytes());
    let mut value = HeaderValue::try_from(format!("Basic {pair}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The host of an entry: older files have URLs.
fn host_of(name: &str) -> &str {
    let rest = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    rest.split('/').next().unwrap_or(rest)
}

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// The header that is sent to one registry, once it is known.
pub(super) struct Auth {
    place: String,
    login: Option<HeaderValue>,
    token_hosts: Vec<String>,
    scopes: Mutex<Vec<String>>,
    header: Mutex<Option<HeaderValue>>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Auth {
    pub(super) fn new(place: &str, host: &str, repository: &str, options: &Options, write: bool) -> Self {
        let scope = format!("repository:{repository}:{}", if write { "pull,push" } else { "pull" });
        Self {
            place: place.to_owned(),
            login: options.credentials.hosts.get(host).cloned(),
            token_hosts: options.token_hosts.clone(),
            scopes: Mutex::new(vec![scope]),
            header: Mutex::default(),
        }
    }

    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, header: Option<HeaderValue>) {
        *self.header.lock().unwrap_or_else(PoisonError::into_inner) = header;
    }

    /// Another repository is to be read from, too; the next token is for both.
    pub(super) fn also_pull(&self, repository: &str) {
        let scope = format!("repository:{repository}:pull");
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        if !scopes.contains(&scope) {
            scopes.push(scope);
            drop(scopes);
            self.set(None);
        }
    }

    /// What answers a challenge of Basic on this origin.
    pub(super) fn basic(&self, base: &Url, loopback: bool) -> Option<HeaderValue> {
        self.login.clone().filter(|_| base.scheme() == "https" || loopback)
    }

    /// Where a token is asked for, and with which credentials.
    ///
    /// Credentials go to the registry's own origin, or over TLS to a host that the operator named, when the registry itself
    /// is spoken to over TLS or on this machine; elsewhere a token is asked for without them.
    pub(super) fn token_request(
        &self,
        base: &Url,
        loopback: bool,
        (realm, service): (&str, Option<&str>),
    ) -> Result<(Url, Option<HeaderValue>), Fault> {
        let bad =
            |why: &str| Fault::broken(&self.place, format!("the registry asks to fetch tokens at {realm:?}: {why}"));
        let mut url = Url::parse(realm).map_err(|_| bad("that is no URL"))?;
        if url.username() != "" || url.password().is_some() {
            return Err(bad("a user name has no place in it"));
        }
        if base.scheme() == "https" && url.scheme() != "https" {
            return Err(bad("tokens are not fetched without TLS"));
        }
        let same = url.origin() == base.origin() && (url.scheme() == "https" || loopback);
        // What the credentials buy is sent to the registry: that must be no place where others read it.
        let private = base.scheme() == "https" || loopback;
        let named = private && url.scheme() == "https" && self.token_hosts.iter().any(|host| authority(&url) == *host);
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        for scope in self.scopes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            query.append_pair("scope", scope);
        }
        drop(query);
        Ok((url, self.login.clone().filter(|_| same || named)))
    }

    /// What to do when the registry still says no.
    pub(super) fn advice(&self) -> &'static str {
        if self.login.is_some() {
            "the credentials for it were not taken, or its token service lies on a host that was not named"
        } else {
            "there are no credentials for it; log in with a Docker configuration file"
        }
    }
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The header that a token service's answer makes.
pub(super) fn token(bytes: &[u8]) -> Option<HeaderValue> {
    let value = json::parse(bytes, &json::Limits::bytes(MAX_TOKEN)).ok()?;
    let text = |field: &str| value.get(field).and_then(json::Value::as_str).filter(|text| !text.is_empty());
    let token = text("token").or_else(|| text("access_token"))?;
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The first challenge that we can answer; a token before a password.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            let mut parameters = parameters(rest);
            if let Some(realm) = parameters.remove("realm") {
                return Some(Challenge::Bearer { realm, service: parameters.remove("service") });
            }
        }
    }
    basic
}

/// `name=value` and `name="value"`, separated by commas (RFC 9110 section 11.2).
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted),
            None => {
                let (value, next) = after.split_once(',').unwrap_or((after, ""));
                (value.trim().to_owned(), next)
            }
        };
        found.entry(name).or_insert(value);
        rest = next;
    }
    found
}

/// A quoted string without its first quote, and what follows it.
fn quoted_string(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, text.get(at + 1..).unwrap_or_default()),
            _ => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(String::from) })
        };
        let usual =
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a:pull""#;
        assert_eq!(challenge(&headers(&[usual])), bearer("https://auth.docker.io/token", Some("registry.docker.io")));
        assert_eq!(
            challenge(&headers(&[r#"bearer service=x, realm="https://h/t?a=b,c""#])),
            bearer("https://h/t?a=b,c", Some("x"))
        );
        assert_eq!(challenge(&headers(&[r#"Bearer realm="a\"b""#])), bearer("a\"b", None));
        assert_eq!(challenge(&headers(&[r#"Basic realm="r""#])), Some(Challenge::Basic));
        assert_eq!(challenge(&headers(&["Basic realm=x", "Bearer realm=\"r\""])), bearer("r", None));
        for nothing in ["", "Negotiate", "Bearer", "Bearer scope=\"x\"", "Bearer realm"] {
            assert_eq!(challenge(&headers(&[nothing])), None, "{nothing}");
        }
    }

    #[test]
    fn credentials_go_to_the_registry_and_to_named_hosts_alone() {
        let credentials = Credentials::of("r.example", "u", "p");
        let options = Options { credentials, token_hosts: vec!["auth.example".into()], ..Options::default() };
        let auth = Auth::new("r.example/app", "r.example", "app", &options, true);
        let base = Url::parse("https://r.example/").unwrap();
        let ask = |realm: &str| auth.token_request(&base, false, (realm, Some("s")));
        let (url, login) = ask("https://r.example/token?x=1").unwrap();
        assert_eq!(url.as_str(), "https://r.example/token?x=1&service=s&scope=repository%3Aapp%3Apull%2Cpush");
        assert_eq!(login.unwrap(), "Basic dTpw");
        assert!(ask("https://auth.example/t").unwrap().1.is_some());
        for elsewhere in [
            "https://evil.example/t",
            "https://r.example:8443/t",
            "https://auth.example:1/t",
            "https://r.example.evil/",
        ] {
            assert!(ask(elsewhere).unwrap().1.is_none(), "{elsewhere}");
        }
        let plain = Url::parse("http://r.example/").unwrap();
        let bought = |loopback| auth.token_request(&plain, loopback, ("https://auth.example/t", None)).unwrap().1;
        assert!(bought(false).is_none(), "a token that credentials buy is not sent in the clear");
        assert!(bought(true).is_some());
        for refused in ["http://r.example/t", "http://auth.example/t", "ftp://x/", "token", "https://u:p@r.example/"] {
            assert!(ask(refused).is_err(), "{refused}");
        }
        assert!(auth.basic(&base, false).is_some());
        assert!(auth.basic(&Url::parse("http://r.example/").unwrap(), false).is_none(), "never in the clear");
        assert!(!format!("{options:?} {auth:?}").contains("dTpw"));
    }

    #[test]
    fn docker_configuration_files_are_read_and_helpers_are_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"r.example:5000":{"username":"u","password":"p"},
                "helped.example":{}},"credsStore":"desktop","credHelpers":{"x":"y"}}"#,
        );
        let credentials = Credentials::read(&path).unwrap();
        assert_eq!(credentials.hosts.keys().collect::<Vec<_>>(), ["index.docker.io", "r.example:5000"]);
        assert!(credentials.hosts.values().all(|login| login == "Basic dTpw" && login.is_sensitive()));
        write("{}");
        assert!(Credentials::read(&path).unwrap().hosts.is_empty());
        for bad in [
            r#"{"auths":{"r":{"auth":"!"}}}"#,
            r#"{"auths":{"r":{"auth":"dTpw\n"}}}"#,
            r#"{"auths":{"r":{"auth":"dXA="}}}"#,
            "x",
        ] {
            write(bad);
            let fault = Credentials::read(&path).unwrap_err().to_string();
            assert!(fault.contains("config.json"), "{fault}");
        }
        assert!(Credentials::read(&folder.path().join("none")).is_err());
    }

    #[test]
    fn tokens_are_read_by_either_name() {
        assert_eq!(token(br#"{"token":"a","expires_in":300}"#).unwrap(), "Bearer a");
        assert_eq!(token(br#"{"access_token":"b"}"#).unwrap(), "Bearer b");
        for nothing in [&b"{}"[..], b"", b"x", br#"{"token":""}"#, br#"{"token":"a\nb"}"#] {
            assert_eq!(token(nothing), None);
        }
    }
}
