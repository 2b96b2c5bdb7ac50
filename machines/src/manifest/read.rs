//! From bytes to a manifest: a closed schema over what can be signed (SPEC 6's rules for JSON).

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use base64ct::{Base64, Encoding as _};

use super::{MAX_BYTES, MAX_CONTENT, MAX_OPERATIONS, MAX_TARGET, MAX_VERSION, Manifest, Operation, Refusal};
use crate::canonical;
use crate::fields::{self, Fields, Wrong};
use crate::json::Value;
use crate::tree::{Mode, Path};

const OPERATIONS: &str = "a list of at most 4096 operations";
const NODE: &str = "a node's id: 1 to 128 characters of a-z A-Z 0-9 . _ -";
const OP: &str = "\"copy_binary\", \"ensure_dir\", \"write_file\" or \"symlink\"";
const MODE: &str = "permission bits in octal, like \"0755\"; no set-user-id, set-group-id or sticky bit";
const FOLDER_MODE: &str = "permission bits in octal with all of the owner's, like \"0755\"; later operations and the next manifest write there";
const PATH: &str = "a path of 1 to 1024 bytes";
const TARGET: &str = "the link's target, 1 to 1024 printable characters";
const BLAKE3: &str = "\"blake3:\" and 64 lower-case hex digits";
const CONTENT: &str = "base64 with padding, of at most 1 MiB";

impl Manifest {
    /// Parses a manifest, whether or not it is signed: for people who prepare one. What is carried out comes from
    /// [`super::Verified::parse`].
    ///
    /// # Errors
    /// What is wrong with it, naming the field.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let most = usize::try_from(MAX_BYTES).unwrap_or(usize::MAX);
        let mut top = Fields::open(canonical::parse(bytes, most)?, "manifest")?;
        let version = top.need("version", "a whole number from 1 to 2^53-1", |value| {
            value.as_u64().filter(|n| (1..=MAX_VERSION).contains(n))
        })?;
        let node = top.take("node", NODE, |value| value.as_str().filter(|id| is_node_id(id)).map(ToOwned::to_owned))?;
        let binary_path = path(&mut top, "binary_path")?;
        let items = top.need("operations", OPERATIONS, |value| match value {
            Value::Array(items) if items.len() <= MAX_OPERATIONS => Some(items),
            Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                None
            }
        })?;
        top.finish()?;
        let operations = items.into_iter().enumerate().map(|(n, item)| operation(n, item)).collect::<Result<_, _>>()?;
        Ok(Self { version, node, binary_path, operations })
    }
}

fn operation(n: usize, item: Value) -> Result<Operation, Wrong> {
    let mut fields = Fields::open(item, &alloc::format!("operations[{n}]"))?;
    let kind = fields.text("op")?;
    let operation = match kind.as_str() {
        "copy_binary" => Operation::CopyBinary {
            source: path(&mut fields, "source")?,
            destination: path(&mut fields, "destination")?,
            mode: mode(&mut fields)?,
            blake3: fields.need("blake3", BLAKE3, |value| fields::blake3(&value))?,
        },
        "ensure_dir" => Operation::EnsureDir {
            path: path(&mut fields, "path")?,
            mode: fields.need("mode", FOLDER_MODE, |value| {
                Mode::parse(value.as_str()?).filter(|mode| mode.is_usable_folder())
            })?,
        },
        "write_file" => Operation::WriteFile {
            path: path(&mut fields, "path")?,
            mode: mode(&mut fields)?,
            content: fields.need("content_base64", CONTENT, |value| content(value.as_str()?))?,
        },
        "symlink" => Operation::Symlink { path: path(&mut fields, "path")?, target: target(&mut fields)? },
        _ => {
            return Err(Wrong::Value {
                field: alloc::format!("operations[{n}].op"),
                must: OP,
                found: alloc::format!("{:?}", kind.chars().take(40).collect::<String>()),
            });
        }
    };
    fields.finish()?;
    Ok(operation)
}

fn path(fields: &mut Fields, key: &'static str) -> Result<String, Wrong> {
    fields.need(key, PATH, |value| {
        value.as_str().filter(|text| (1..=Path::MOST).contains(&text.len())).map(ToOwned::to_owned)
    })
}

fn target(fields: &mut Fields) -> Result<String, Wrong> {
    fields.need("target", TARGET, |value| {
        let printable =
            |text: &&str| (1..=MAX_TARGET).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        value.as_str().filter(printable).map(ToOwned::to_owned)
    })
}

fn mode(fields: &mut Fields) -> Result<Mode, Wrong> {
    fields.need("mode", MODE, |value| Mode::parse(value.as_str()?))
}

fn content(text: &str) -> Option<Vec<u8>> {
    if text.len() / 4 * 3 > MAX_CONTENT + 2 {
        return None;
    }
    Base64::decode_vec(text).ok().filter(|bytes| bytes.len() <= MAX_CONTENT)
}

/// What a node may be called: 1 to 128 characters of `a-z A-Z 0-9 . _ -`.
#[must_use]
pub fn is_node_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
