//! The text of a manifest, for those who prepare one.

use alloc::string::String;

use base64ct::{Base64, Encoding as _};

use super::{Manifest, Operation};
use crate::json::{escape_into, push_u64};

impl Manifest {
    /// The manifest as JSON, an operation a line, so that people can read what they sign; ends in a line feed.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::from("{\n  \"version\": ");
        push_u64(&mut out, self.version);
        if let Some(node) = &self.node {
            out.push_str(",\n  \"node\": ");
            escape_into(node, &mut out);
        }
        out.push_str(",\n  \"binary_path\": ");
        escape_into(&self.binary_path, &mut out);
        out.push_str(",\n  \"operations\": [");
        for (n, operation) in self.operations.iter().enumerate() {
            out.push_str(if n == 0 { "\n    " } else { ",\n    " });
            operation.write(&mut out);
        }
        out.push_str(if self.operations.is_empty() { "]\n}\n" } else { "\n  ]\n}\n" });
        out
    }
}

impl Operation {
    fn write(&self, out: &mut String) {
        match self {
            Self::CopyBinary { source, destination, mode, blake3 } => {
                out.push_str("{\"op\": \"copy_binary\"");
                member(out, "source", source);
                member(out, "destination", destination);
                member(out, "mode", &alloc::format!("{mode}"));
                member(out, "blake3", &alloc::format!("blake3:{blake3}"));
            }
            Self::EnsureDir { path, mode } => {
                out.push_str("{\"op\": \"ensure_dir\"");
                member(out, "path", path);
                member(out, "mode", &alloc::format!("{mode}"));
            }
            Self::WriteFile { path, mode, content } => {
                out.push_str("{\"op\": \"write_file\"");
                member(out, "path", path);
                member(out, "mode", &alloc::format!("{mode}"));
                member(out, "content_base64", &Base64::encode_string(content));
            }
            Self::Symlink { path, target } => {
                out.push_str("{\"op\": \"symlink\"");
                member(out, "path", path);
                member(out, "target", target);
            }
        }
        out.push('}');
    }
}

fn member(out: &mut String, key: &str, value: &str) {
    out.push_str(", \"");
    out.push_str(key);
    out.push_str("\": ");
    escape_into(value, out);
}
