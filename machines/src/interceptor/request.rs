//! A tool call as it was asked for (SPEC 2): parsed once; what policy judges is what the tool gets.

use alloc::string::{String, ToString};

use crate::json::{self, Value};
use crate::wal::frame::TraceIds;

/// The longest body that is looked at, in bytes.
pub const MAX_BODY: usize = 1024 * 1024;

/// A tool call. Only `parse` makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    kind: String,
    params: Value,
    agent: Option<String>,
    trace: Option<TraceIds>,
}

impl Request {
    /// Reads a request's body and its `traceparent` header.
    ///
    /// # Errors
    /// What is wrong with it, in the words of the answer: `invalid_request: …`.
    pub fn parse(body: &[u8], traceparent: Option<&str>) -> Result<Self, String> {
        Self::read(body, traceparent).map_err(|words| alloc::format!("invalid_request: {words}"))
    }

    fn read(body: &[u8], traceparent: Option<&str>) -> Result<Self, String> {
        let limits = json::Limits { max_bytes: MAX_BODY, ..json::Limits::default() };
        let value = json::parse(body, &limits).map_err(|e| e.to_string())?;
        let Ok(fields) = value.into_object() else { return Err("the body must be a JSON object".into()) };
        let (mut kind, mut params, mut agent) = (None, None, None);
        for (name, value) in fields {
            match (name.as_str(), value) {
                ("kind", Value::String(text)) if is_kind(&text) => kind = Some(text),
                ("kind", _) => return Err("`kind` must be a string of 1 to 64 characters of a-z 0-9 . _ -".into()),
                ("params", value @ Value::Object(_)) => params = Some(value),
                ("params", _) => return Err("`params` must be an object".into()),
                ("agent", Value::String(text)) => agent = Some(text),
                ("agent", _) => return Err("`agent` must be a string".into()),
                (other, _) => {
                    return Err(alloc::format!("unknown field `{}`; known are kind, params, agent", shortened(other)));
                }
            }
        }
        Ok(Self {
            kind: kind.ok_or("`kind` is missing")?,
            params: params.unwrap_or_else(|| Value::Object(alloc::collections::BTreeMap::new())),
            agent,
            trace: traceparent.and_then(TraceIds::parse),
        })
    }

    /// The tool's name: `[a-z0-9._-]{1,64}`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The parameters, an object.
    #[must_use]
    pub const fn params(&self) -> &Value {
        &self.params
    }

    /// Who the caller claims to be.
    #[must_use]
    pub fn agent(&self) -> Option<&str> {
        self.agent.as_deref()
    }

    /// The caller's trace.
    #[must_use]
    pub const fn trace(&self) -> Option<TraceIds> {
        self.trace
    }
}

fn is_kind(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

fn shortened(name: &str) -> String {
    name.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    fn refused(body: &str) -> String {
        Request::parse(body.as_bytes(), None).expect_err(body)
    }

    #[test]
    fn a_request_has_a_kind_and_may_have_params_and_an_agent() {
        let request =
            Request::parse(br#"{"kind":"tool.echo","params":{"message":"hello"},"agent":"a"}"#, None).unwrap();
        assert_eq!(request.kind(), "tool.echo");
        assert_eq!(request.params().get("message").and_then(Value::as_str), Some("hello"));
        assert_eq!(request.agent(), Some("a"));
        let bare = Request::parse(br#"{"kind":"tool.echo"}"#, None).unwrap();
        assert_eq!(bare.params().as_object().map(|o| o.len()), Some(0));
    }

    #[test]
    fn p11_j01_j02_duplicate_keys_are_refused_at_any_depth_and_in_any_spelling() {
        for body in [
            r#"{"kind":"tool.echo","kind":"tool.shell"}"#,
            r#"{"kind":"tool.echo","params":{"a":{"b":1,"b":2}}}"#,
            "{\"kind\":\"tool.echo\",\"\\u006bind\":\"tool.shell\"}",
        ] {
            assert!(refused(body).starts_with("invalid_request: "), "{body}");
        }
    }

    #[test]
    fn p12_a_kind_is_exact_bytes_of_a_declared_charset() {
        for kind in ["", "Tool.echo", "tool.echo\\u0000", "tооl.echo", "tool/echo", "tool echo", &"a".repeat(65)] {
            assert!(refused(&format!(r#"{{"kind":"{kind}"}}"#)).contains("`kind`"), "{kind:?}");
        }
    }

    #[test]
    fn j09_field_names_match_exactly_and_unknown_ones_are_named() {
        assert!(refused(r#"{"kind":"tool.echo","Params":{}}"#).contains("unknown field `Params`"));
        assert!(refused(r#"{"kind":"tool.echo","policy":"allow"}"#).contains("unknown field `policy`"));
        assert!(refused(r#"{"params":{}}"#).contains("`kind` is missing"));
        assert!(refused(r#"[]"#).contains("object"));
        assert!(refused(r#"{"kind":"tool.echo","params":[]}"#).contains("`params`"));
        assert!(refused(r#"{"kind":"tool.echo","agent":null}"#).contains("`agent`"));
    }

    #[test]
    fn p10_j07_nesting_past_64_is_refused() {
        let nested = |depth: usize| {
            // The outer object is level 1, params level 2.
            format!(r#"{{"kind":"t","params":{{"a":{}{}}}}}"#, "[".repeat(depth - 2), "]".repeat(depth - 2))
        };
        assert!(Request::parse(nested(64).as_bytes(), None).is_ok());
        assert!(Request::parse(nested(65).as_bytes(), None).is_err());
    }
}
