//! Which endpoint a request's target names (distribution-spec, "Endpoints"): exact, without decoding (FAULTS U22).
//!
//! Nothing that the endpoints' names are made of needs percent-encoding in a path, so a path with a `%` names nothing.
//! Repository names, tags and digests are held to their grammars here and nowhere else (FAULTS F01); what comes out is
//! safe to name a file with.

use machines::oci::{Digest, Place, Reference, Target, check_tag};

use super::answer::{Code, Refusal};

/// A repository's name in the specification's grammar: no component begins with `_` or `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repository(String);

impl Repository {
    /// Reads a name.
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        // One grammar for names everywhere: the one of references.
        let whole = Reference::parse(&format!("localhost/{name}"));
        match whole.map(|reference| reference.place) {
            Ok(Place::Registry { repository, .. }) if repository == name => Ok(Self(repository)),
            Ok(_) | Err(_) => Err(Refusal::new(
                Code::NameInvalid,
                "a repository's name is of a-z 0-9, separated by . _ __ - or /, at most 255 bytes",
            )),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/blobs/<digest>`
    Blob(Repository, Digest),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(Repository),
    /// `/v2/<name>/blobs/uploads/<session>`
    Upload(Repository, String),
    /// `/v2/<name>/manifests/<tag or digest>`
    Manifest(Repository, Target),
    /// `/v2/<name>/tags/list`
    Tags(Repository),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(Repository, Digest),
}

impl Route {
    /// The endpoint that `path` names.
    pub fn of(path: &str) -> Result<Self, Refusal> {
        let nowhere =
            || Refusal::new(Code::NotFound, "no such endpoint; paths begin with /v2/ and are taken as they are");
        let rest = path.strip_prefix("/v2/").filter(|rest| !rest.contains('%')).ok_or_else(nowhere)?;
        match rest {
            "" => return Ok(Self::Base),
            "_catalog" => return Ok(Self::Catalog),
            _ => {}
        }
        let (head, last) = rest.rsplit_once('/').ok_or_else(nowhere)?;
        if let Some(name) = head.strip_suffix("/blobs/uploads") {
            let repository = Repository::parse(name)?;
            return Ok(if last.is_empty() {
                Self::Uploads(repository)
            } else {
                Self::Upload(repository, session(last)?)
            });
        }
        let (name, kind) = head.rsplit_once('/').ok_or_else(nowhere)?;
        match (kind, last) {
            ("blobs", digest) => Ok(Self::Blob(Repository::parse(name)?, parse_digest(digest)?)),
            ("manifests", reference) => Ok(Self::Manifest(Repository::parse(name)?, target(reference)?)),
            ("referrers", digest) => Ok(Self::Referrers(Repository::parse(name)?, parse_digest(digest)?)),
            ("tags", "list") => Ok(Self::Tags(Repository::parse(name)?)),
            _ => Err(nowhere()),
        }
    }

    /// The methods that the endpoint takes, for `Allow`.
    pub const fn methods(&self) -> &'static str {
        match self {
            Self::Base | Self::Catalog | Self::Tags(_) | Self::Referrers(..) => "GET, HEAD",
            Self::Blob(..) => "GET, HEAD, DELETE",
            Self::Uploads(_) => "POST",
            Self::Upload(..) => "GET, PATCH, PUT, DELETE",
            Self::Manifest(..) => "GET, HEAD, PUT, DELETE",
        }
    }
}

/// A digest as the endpoints take it.
pub fn parse_digest(text: &str) -> Result<Digest, Refusal> {
    Digest::parse(text).map_err(|refusal| Refusal::new(Code::DigestInvalid, &refusal.to_string()))
}

fn target(reference: &str) -> Result<Target, Refusal> {
    if reference.contains(':') {
        return parse_digest(reference).map(Target::Digest);
    }
    check_tag(reference).map_err(|why| Refusal::new(Code::TagInvalid, why))?;
    Ok(Target::Tag(reference.into()))
}

/// The name of a session: what [`super::uploads`] gives out, 32 hex digits.
fn session(id: &str) -> Result<String, Refusal> {
    let fits = id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if fits { Ok(id.into()) } else { Err(Refusal::new(Code::BlobUploadUnknown, "no such upload session")) }
}

/// The values of a query (`application/x-www-form-urlencoded`, but `+` stands for itself: media types hold it).
#[derive(Debug)]
pub struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    pub fn of(uri: &'a hyper::Uri) -> Self {
        Self(uri.query().unwrap_or_default())
    }

    /// The value of a field that may be there once.
    pub fn get(&self, field: &str) -> Result<Option<String>, Refusal> {
        let mut found = self.0.split('&').filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name == field).then_some(value)
        });
        let bad = |why: &str| Refusal::new(Code::Unsupported, &format!("the query's `{field}` {why}"));
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => decode(value).map(Some).ok_or_else(|| bad("is not encoded as a query must be")),
            (Some(_), Some(_)) => Err(bad("is there more than once")),
        }
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let byte = if *first == b'%' {
            let (code, after) = rest.split_at_checked(2)?;
            rest = after;
            let digit = |b: &u8| char::from(*b).to_digit(16);
            let high = digit(code.first()?)?;
            u8::try_from(high * 16 + digit(code.last()?)?).ok()?
        } else {
            *first
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

/// A text as a query's value.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn refused(path: &str) -> u16 {
        Route::of(path).expect_err(path).status()
    }

    #[test]
    fn every_endpoint_has_its_path() {
        let name = |name: &str| Repository::parse(name).unwrap();
        let digest = Digest::parse(DIGEST).unwrap();
        let id = "0123456789abcdef0123456789abcdef";
        for (path, route) in [
            ("/v2/".to_owned(), Route::Base),
            ("/v2/_catalog".to_owned(), Route::Catalog),
            (format!("/v2/a/blobs/{DIGEST}"), Route::Blob(name("a"), digest)),
            ("/v2/a/b/blobs/uploads/".to_owned(), Route::Uploads(name("a/b"))),
            (format!("/v2/a/blobs/uploads/{id}"), Route::Upload(name("a"), id.into())),
            (
                "/v2/a-b/c__d/manifests/v1.0_X".to_owned(),
                Route::Manifest(name("a-b/c__d"), Target::Tag("v1.0_X".into())),
            ),
            (format!("/v2/a/manifests/{DIGEST}"), Route::Manifest(name("a"), Target::Digest(digest))),
            ("/v2/a/tags/list".to_owned(), Route::Tags(name("a"))),
            (format!("/v2/a/referrers/{DIGEST}"), Route::Referrers(name("a"), digest)),
            // Names that are words of the endpoints.
            ("/v2/blobs/manifests/uploads".to_owned(), Route::Manifest(name("blobs"), Target::Tag("uploads".into()))),
            ("/v2/tags/list/tags/list".to_owned(), Route::Tags(name("tags/list"))),
        ] {
            assert_eq!(Route::of(&path).unwrap(), route, "{path}");
        }
    }

    #[test]
    fn u22_paths_are_taken_as_they_are() {
        for path in [
            "",
            "/",
            "/v2",
            "/v1/",
            "//v2/",
            "/v2//",
            "/V2/",
            "/v2/a",
            "/v2/_catalog/",
            "/v2/a/tags/list/",
            "/v2/a%2fb/tags/list",
            "/v2/%2e%2e/tags/list",
            "/v2/a/manifests/v1%00",
            "/v2/a/tags",
            "/v2/a/other/x",
            "/v2/../v2/",
            "/x/v2/",
            "/v2/a/blobs/uploads/x",
        ] {
            assert_eq!(refused(path), 404, "{path}");
        }
    }

    #[test]
    fn f01_names_tags_and_digests_outside_their_grammars_are_refused() {
        let long = "a".repeat(256);
        for name in [
            "",
            "A",
            "..",
            ".",
            "a/..",
            "../a",
            "a//b",
            "/a",
            "a/",
            "_a",
            "a_",
            ".a",
            "a.",
            "a..b",
            "a___b",
            "a b",
            "a:b",
            "a@b",
            "a\\b",
            "é",
            "a/_tags",
            "_catalog",
            long.as_str(),
        ] {
            assert_eq!(refused(&format!("/v2/{name}/tags/list")), 400, "{name:?}");
        }
        for tag in ["", ".", "..", "-a", ".a", "a b", "a+b", "é", &"a".repeat(129)] {
            assert_eq!(refused(&format!("/v2/a/manifests/{tag}")), 404, "{tag:?}");
        }
        let upper = DIGEST.to_uppercase();
        for digest in ["", "..", "sha256:", "sha256:..", "sha512:00", "md5:00", upper.as_str(), &format!("{DIGEST}0")] {
            for kind in ["blobs", "referrers"] {
                assert_eq!(refused(&format!("/v2/a/{kind}/{digest}")), 400, "{digest:?}");
            }
        }
    }

    #[test]
    fn a_querys_values_are_decoded_once() {
        let uri = hyper::Uri::from_static(
            "/v2/?digest=sha256%3Aab&a=x+y%2Bz&twice=1&twice=2&bad=%zz&cut=%4&deep=%2525&empty=",
        );
        let query = Query::of(&uri);
        assert_eq!(query.get("digest").unwrap().as_deref(), Some("sha256:ab"));
        assert_eq!(query.get("a").unwrap().as_deref(), Some("x+y+z"));
        assert_eq!(query.get("deep").unwrap().as_deref(), Some("%25"));
        assert_eq!(query.get("empty").unwrap().as_deref(), Some(""));
        assert_eq!(query.get("none").unwrap(), None);
        for field in ["twice", "bad", "cut"] {
            assert_eq!(query.get(field).unwrap_err().status(), 400, "{field}");
        }
        assert_eq!(
            decode(&encode("application/vnd.x+json; a=\"b\"")).as_deref(),
            Some("application/vnd.x+json; a=\"b\"")
        );
    }
}
