//! A difference that a person can read.

use std::fmt::Write as _;
use std::path::Path;

use similar::TextDiff;

/// How many differing lines are shown.
const MAX_LINES: usize = 60;

/// The difference between what is on disk and what was computed: lines for text, the first differing bytes for
/// anything else.
#[must_use]
pub fn describe(path: &Path, old: &[u8], new: &[u8]) -> String {
    let mut text = format!("{} differs (- on disk, + computed now)\n", path.display());
    match (plain(old), plain(new)) {
        (Some(old), Some(new)) => {
            let diff = TextDiff::from_lines(old, new);
            let unified = diff.unified_diff().context_radius(1).to_string();
            for line in unified.lines().take(MAX_LINES) {
                let _ = writeln!(text, "  {line}");
            }
        }
        (Some(_) | None, Some(_) | None) => bytes(old, new, &mut text),
    }
    text
}

fn plain(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.chars().any(|c| c.is_control() && c != '\n' && c != '\t')).then_some(text)
}

fn bytes(old: &[u8], new: &[u8], text: &mut String) {
    let same = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let _ = writeln!(text, "  {} bytes on disk, {} computed, equal up to offset {same}", old.len(), new.len());
    for (sign, side) in [('-', old), ('+', new)] {
        let from = same.saturating_sub(8);
        let window = side.get(from..side.len().min(same + 24)).unwrap_or_default();
        let hex: Vec<String> = window.iter().map(|b| format!("{b:02x}")).collect();
        let _ = writeln!(text, "  {sign} {from:>8}: {} {}", hex.join(" "), window.escape_ascii());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_shows_its_lines_and_bytes_their_offset() {
        let shown = describe(Path::new("a.txt"), b"one\ntwo\n", b"one\n2\n");
        assert!(shown.contains("  -two\n  +2\n"), "{shown}");
        let shown = describe(Path::new("a.bin"), &[0, 1, 2, 3], &[0, 1, 9, 3]);
        assert!(shown.contains("equal up to offset 2") && shown.contains("00 01 09 03"), "{shown}");
    }
}
