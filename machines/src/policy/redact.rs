//! What of a call's parameters and output is recorded (SPEC 3 and 4): masked paths first, then a cap on size.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::write_hex;
use crate::json::{Value, escape_into, push_u64};

/// What stands in the place of a masked value.
pub const MASK: &str = "***";
/// Longest compact JSON text of a value that is recorded in full, in bytes.
pub const MAX_VALUE: usize = 4096;
/// Longest path, in bytes.
pub const MAX_PATH: usize = 256;

/// Which of a call's two values a path starts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// The parameters.
    Params,
    /// The tool's output.
    Output,
}

/// A path of `redact`, like `params.password` or `output.items.*.token`.
///
/// Member names joined by dots; the first is `params` or `output`, which alone means the whole value. `*` matches
/// every member of an object and every element of an array; elements are matched by nothing else. Names are
/// compared exactly; a member whose name has a dot, or is `*`, is reached only by `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    root: Root,
    text: String,
}

impl Path {
    /// Reads a path; `None` when it does not start in `params` or `output`, has an empty name or a control
    /// character, or is longer than [`MAX_PATH`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut names = text.split('.');
        let root = match names.next() {
            Some("params") => Root::Params,
            Some("output") => Root::Output,
            Some(_) | None => return None,
        };
        let sound = text.len() <= MAX_PATH && names.all(|name| !name.is_empty()) && !text.contains(char::is_control);
        sound.then(|| Self { root, text: String::from(text) })
    }

    /// The path as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names behind the root.
    fn names(&self) -> core::str::Split<'_, char> {
        let mut names = self.text.split('.');
        names.next();
        names
    }
}

/// Replaces what the paths of `root` reach by `"***"`. Gives the value, borrowed when nothing was reached, and
/// the paths that reached something, as they were written and in their order.
#[must_use]
pub fn mask<'v, 'p>(value: &'v Value, root: Root, paths: &'p [Path]) -> (Cow<'v, Value>, Vec<&'p str>) {
    // All paths are matched against the value as it came, so their order does not matter.
    let hits: Vec<&Path> = paths.iter().filter(|path| path.root == root && reaches(value, path.names())).collect();
    if hits.is_empty() {
        return (Cow::Borrowed(value), Vec::new());
    }
    let mut masked = value.clone();
    for path in &hits {
        cover(&mut masked, path.names());
    }
    (Cow::Owned(masked), hits.into_iter().map(Path::as_str).collect())
}

fn reaches(value: &Value, mut names: core::str::Split<'_, char>) -> bool {
    match (names.next(), value) {
        (None, _) => true,
        (Some("*"), Value::Array(items)) => items.iter().any(|item| reaches(item, names.clone())),
        (Some("*"), Value::Object(members)) => members.values().any(|member| reaches(member, names.clone())),
        (Some(name), Value::Object(members)) => members.get(name).is_some_and(|member| reaches(member, names)),
        (Some(_), Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => false,
    }
}

fn cover(value: &mut Value, mut names: core::str::Split<'_, char>) {
    match (names.next(), value) {
        (None, value) => *value = Value::from(MASK),
        (Some("*"), Value::Array(items)) => items.iter_mut().for_each(|item| cover(item, names.clone())),
        (Some("*"), Value::Object(members)) => members.values_mut().for_each(|member| cover(member, names.clone())),
        (Some(name), Value::Object(members)) => {
            if let Some(member) = members.get_mut(name) {
                cover(member, names);
            }
        }
        (Some(_), Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {}
    }
}

/// Appends `value` as compact JSON in which every value whose text is longer than [`MAX_VALUE`] is replaced by
/// `{"blake3":"blake3:…","bytes":N}`, children before their parents; so at most [`MAX_VALUE`] bytes are appended.
///
/// Hash and length are those of the replaced value's own compact text, before anything within it was replaced.
pub fn write_capped(value: &Value, out: &mut String) {
    let start = out.len();
    value.write(out);
    if out.len().saturating_sub(start) <= MAX_VALUE {
        // No part is longer than the whole.
        return;
    }
    let whole = out.split_off(start);
    cap(value, &whole, 0, out);
}

/// Appends `{"blake3":"blake3:…","bytes":N}` of the value's compact JSON, whatever its size: the record of
/// parameters that no policy said how to treat.
pub fn write_digest(value: &Value, out: &mut String) {
    push_digest(&value.to_text(), out);
}

fn push_digest(text: &str, out: &mut String) {
    out.push_str("{\"blake3\":\"blake3:");
    write_hex(blake3::hash(text.as_bytes()).as_bytes(), out);
    out.push_str("\",\"bytes\":");
    push_u64(out, u64::try_from(text.len()).unwrap_or(u64::MAX));
    out.push('}');
}

/// Appends `value` capped. Its full text is `whole` from byte `at` on; gives where it ends. Walking the full
/// text alongside spares writing each value again to hash it.
fn cap(value: &Value, whole: &str, at: usize, out: &mut String) -> usize {
    let start = out.len();
    let end = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            value.write(out);
            at.saturating_add(out.len().saturating_sub(start))
        }
        Value::Array(items) => {
            out.push('[');
            let mut at = at.saturating_add(1);
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                    at = at.saturating_add(1);
                }
                at = cap(item, whole, at, out);
            }
            out.push(']');
            at.saturating_add(1)
        }
        Value::Object(members) => {
            out.push('{');
            let mut at = at.saturating_add(1);
            for (n, (key, member)) in members.iter().enumerate() {
                let from = out.len();
                if n > 0 {
                    out.push(',');
                }
                escape_into(key, out);
                out.push(':');
                at = at.saturating_add(out.len().saturating_sub(from));
                at = cap(member, whole, at, out);
            }
            out.push('}');
            at.saturating_add(1)
        }
    };
    if out.len().saturating_sub(start) > MAX_VALUE {
        out.truncate(start);
        push_digest(whole.get(at..end).unwrap_or_default(), out);
    }
    end
}

#[cfg(test)]
#[path = "redact_tests.rs"]
mod tests;
