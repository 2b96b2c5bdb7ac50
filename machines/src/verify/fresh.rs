//! Freshness: how old a signature may be, without trusting the clock to be right (SPEC 7; FAULTS T09 to T11).

use alloc::string::String;

use super::Options;
use super::hunt::{SignedAt, Valid};
use crate::time::{Span, Wall};

/// When an image was signed, checked against the options. A clock that was set back is replaced by the floor, and nothing is
/// held against a signature that is younger than both.
///
/// # Errors
/// In words, with the command that helps.
pub(super) fn of_image(valid: &Valid, options: &Options, now: Wall) -> Result<Option<Wall>, String> {
    match &valid.signed_at {
        None if options.allow_undated => Ok(None),
        None => Err(alloc::format!(
            "the signature does not say when it was made; sign with `autonomy oci sign --image {image} --key FILE`, or with \
             `cosign sign --key FILE -a autonomy.signed-at=$(date -u +%Y-%m-%dT%H:%M:%SZ) {image}`",
            image = options.reference
        )),
        Some(signed_at) => young(signed_at, options, now).map(Some),
    }
}

/// The same of a signature that need not have a date.
///
/// # Errors
/// In words.
pub(super) fn of_attached(valid: &Valid, options: &Options, now: Wall) -> Result<(), String> {
    match &valid.signed_at {
        None => Ok(()),
        Some(signed_at) => young(signed_at, options, now).map(|_| ()),
    }
}

fn young(signed_at: &SignedAt, options: &Options, now: Wall) -> Result<Wall, String> {
    let at = match signed_at {
        SignedAt::At(at) => *at,
        SignedAt::Unreadable(text) => {
            return Err(alloc::format!("autonomy.signed-at {text:?} is no RFC 3339 time from 1970 on"));
        }
    };
    let today = now.max(options.time_floor);
    let age = today.since(at);
    if age > options.max_age {
        return Err(alloc::format!(
            "expired: signed at {at}, {} ago by {today}, the limit is {} (--max-age)",
            words(age),
            words(options.max_age)
        ));
    }
    Ok(at)
}

/// A span in days or hours.
fn words(span: Span) -> String {
    let hours = span.as_millis() / 3_600_000;
    match hours {
        0 => alloc::format!("{} s", span.as_millis() / 1_000),
        1..48 => alloc::format!("{hours} h"),
        more => alloc::format!("{} days", more / 24),
    }
}
