//! `rejected/<seq>.json`: records that a receiver did not take, with its words, for people to look at (SPEC 5).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::json::{escape_into, push_u64};
use crate::time::Wall;
use crate::wal::frame::Frame;

use super::batch::{Batch, event_id};

/// The longest words that are kept, in characters.
const WORDS: usize = 4096;

/// Why records are put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason<'a> {
    /// The status of the answer.
    pub status: u16,
    /// How many of the records the receiver rejected; which ones it did not say.
    pub rejected: u64,
    /// The receiver's words.
    pub words: &'a str,
    /// When.
    pub at: Wall,
}

/// One JSON object with the reason and the records from `from` up to `to`, and a line feed.
pub fn to_bytes(batch: &Batch, from: usize, to: usize, reason: Reason<'_>) -> Vec<u8> {
    let mut text = String::from("{\"at\":\"");
    reason.at.write_rfc3339(&mut text);
    text.push_str("\",\"status\":");
    push_u64(&mut text, u64::from(reason.status));
    text.push_str(",\"rejected\":");
    push_u64(&mut text, reason.rejected);
    text.push_str(",\"words\":");
    let words: String = reason.words.chars().take(WORDS).collect();
    escape_into(&words, &mut text);
    text.push_str(&format!(",\"class\":\"{}\",\"log_id\":\"{}\",\"node_id\":", batch.class.name(), batch.log_id));
    escape_into(&batch.node_id, &mut text);
    text.push_str(",\"records\":[");
    for (i, frame) in batch.frames(from, to).enumerate() {
        if i > 0 {
            text.push(',');
        }
        record(&batch.node_id, &frame, &mut text);
    }
    text.push_str("]}\n");
    text.into_bytes()
}

fn record(node_id: &str, frame: &Frame<'_>, text: &mut String) {
    text.push_str("{\"event_id\":");
    escape_into(&event_id(node_id, frame), text);
    text.push_str(",\"seq\":");
    push_u64(text, frame.seq.get());
    text.push_str(&format!(
        ",\"ts\":\"{}\",\"kind\":\"{}\",\"audit_id\":\"{}\",\"h\":\"{}\",\"body\":{}}}",
        frame.ts,
        frame.kind.as_str(),
        frame.audit_id,
        frame.h,
        frame.body
    ));
}
