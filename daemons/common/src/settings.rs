//! Reading a TOML file against a closed schema: every fault with its line, an unknown key with the nearest known
//! name (FAULTS X12, J12).

use std::cell::RefCell;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A parsed file.
pub struct Document<'t> {
    text: &'t str,
    root: Spanned<DeTable<'t>>,
    /// With their lines; what is missing has none and comes last.
    faults: RefCell<Vec<(usize, String)>>,
}

/// One table of it, or an absent one, which has no keys.
pub struct Section<'d, 't> {
    document: &'d Document<'t>,
    path: String,
    table: Option<&'d DeTable<'t>>,
    known: RefCell<Vec<&'static str>>,
}

impl<'t> Document<'t> {
    /// Parses the file.
    ///
    /// # Errors
    /// The first fault of its syntax, with its line.
    pub fn parse(text: &'t str) -> Result<Self, String> {
        match DeTable::parse(text) {
            Ok(root) => Ok(Self { text, root, faults: RefCell::default() }),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                Err(format!("{} at line {}", error.message(), line_of(text, at)))
            }
        }
    }

    /// The top table.
    pub fn root<'d>(&'d self) -> Section<'d, 't> {
        self.table(String::new(), Some(self.root.get_ref()))
    }

    /// All faults that were found, in the order of their lines.
    pub fn into_faults(self) -> Vec<String> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|(line, _)| *line);
        faults.into_iter().map(|(_, words)| words).collect()
    }

    fn table<'d>(&'d self, path: String, table: Option<&'d DeTable<'t>>) -> Section<'d, 't> {
        Section { document: self, path, table, known: RefCell::default() }
    }

    fn fault(&self, line: usize, what: String) {
        self.faults.borrow_mut().push((line, what));
    }
}

impl<'d, 't> Section<'d, 't> {
    /// The table under `key`.
    pub fn section(&self, key: &'static str) -> Section<'d, 't> {
        let is_table = self.value(key, "a table", |value| value.is_table().then_some(())).is_some();
        let table = self.table.filter(|_| is_table).and_then(|table| table.get(key)?.get_ref().as_table());
        self.document.table(self.full(key), table)
    }

    /// The tables of the list under `key`, as `[[key]]` writes them; at most `most`.
    pub fn sections(&self, key: &'static str, most: usize) -> Vec<Section<'d, 't>> {
        let must = format!("a list of tables, [[{}]], at most {most}", self.full(key));
        let fits = self.value(key, &must, |value| {
            let items = value.as_array()?;
            (items.len() <= most && items.iter().all(|item| item.get_ref().is_table())).then_some(())
        });
        let items = self.table.filter(|_| fits.is_some()).and_then(|table| table.get(key)?.get_ref().as_array());
        let tables = items.into_iter().flat_map(|items| items.iter()).enumerate();
        tables
            .map(|(n, item)| self.document.table(format!("{}[{n}]", self.full(key)), item.get_ref().as_table()))
            .collect()
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Notes a fault of a key that is there, or of the table where it is not.
    pub fn fault(&self, key: &str, what: impl Display) {
        let at = self.table.and_then(|table| table.get(key)).map(|value| value.span().start);
        let line = at.map(|at| line_of(self.document.text, at));
        let at_line = line.map(|line| format!(" at line {line}")).unwrap_or_default();
        self.document.fault(line.unwrap_or(usize::MAX), format!("`{}`{at_line} {what}", self.full(key)));
    }

    /// A text that is read further; the error says what it is or must be, as in "must be an address".
    pub fn parsed<T, E: Display>(&self, key: &'static str, read: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        match read(&self.text(key)?) {
            Ok(value) => Some(value),
            Err(words) => {
                self.fault(key, words);
                None
            }
        }
    }

    /// A truth value.
    pub fn bool(&self, key: &'static str) -> Option<bool> {
        self.value(key, "true or false", DeValue::as_bool)
    }

    /// A text.
    pub fn text(&self, key: &'static str) -> Option<String> {
        self.value(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A path.
    pub fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// Texts.
    pub fn texts(&self, key: &'static str) -> Option<Vec<String>> {
        self.value(key, "a list of texts", |value| {
            value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
        })
    }

    /// A whole number within bounds.
    pub fn number(&self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        self.value(key, &format!("a whole number from {least} to {most}"), |value| {
            let number = value.as_integer()?;
            let n = u64::from_str_radix(number.as_str(), number.radix()).ok()?;
            (least..=most).contains(&n).then_some(n)
        })
    }

    /// A span of time such as `"30s"`; numbers without a unit are refused.
    pub fn span(&self, key: &'static str) -> Option<Duration> {
        self.value(key, "a span of time like \"250ms\", \"30s\", \"5m\", \"12h\" or \"7d\"", |value| {
            parse_span(value.as_str()?).ok()
        })
    }

    /// One of some words.
    pub fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.value(key, &words.join(" or "), |value| {
            let given = value.as_str()?;
            choices.iter().find(|(word, _)| *word == given).map(|(_, choice)| *choice)
        })
    }

    /// Notes every key that was not asked for as unknown. To be called once all keys were.
    pub fn finish(self) {
        let known = self.known.borrow();
        for key in self.table.into_iter().flat_map(|table| table.keys()) {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let line = line_of(self.document.text, key.span().start);
            let near = nearest(name, &known).map(|near| format!(", did you mean `{}`?", self.full(near)));
            let known = || format!("; known here: {}", known.join(", "));
            let hint = near.unwrap_or_else(known);
            self.document.fault(line, format!("unknown key `{}` at line {line}{hint}", self.full(name)));
        }
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn value<T>(&self, key: &'static str, must: &str, read: impl FnOnce(&DeValue<'t>) -> Option<T>) -> Option<T> {
        self.known.borrow_mut().push(key);
        let value = self.table?.get(key)?;
        let read = read(value.get_ref());
        if read.is_none() {
            let line = line_of(self.document.text, value.span().start);
            self.document.fault(line, format!("`{}` at line {line} must be {must}", self.full(key)));
        }
        read
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
}

/// Reads a span of time: a whole number and one of `ms`, `s`, `m`, `h`, `d`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no span of time; write one like 250ms, 30s, 5m, 12h or 7d");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(bad)?;
    let number: u64 = number.parse().map_err(|_| bad())?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    };
    millis.map(Duration::from_millis).ok_or_else(bad)
}

/// The known name that a mistyped one was most likely meant to be.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = known.iter().map(|known| (distance(name, known), *known)).min()?;
    (near.0 <= (near.1.len() / 3).max(2)).then_some(near.1)
}

/// The edit distance of Levenshtein.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cb, above) in b.iter().zip(row.iter_mut().skip(1)) {
            let cost = (diagonal + usize::from(ca != *cb)).min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, cost);
            left = cost;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let document = Document::parse(text).unwrap();
        let root = document.root();
        root.bool("strict");
        let wal = root.section("wal");
        wal.number("max_bytes", 10, 20);
        wal.span("retain");
        wal.choice("on_full", &[("deny", 1), ("shed_lifecycle", 2)]);
        wal.finish();
        root.finish();
        document.into_faults()
    }

    #[test]
    fn x12_an_unknown_key_is_named_with_its_line_and_the_nearest_name() {
        assert_eq!(faults("\n\nstirct = true\n"), ["unknown key `stirct` at line 3, did you mean `strict`?"]);
        assert_eq!(
            faults("[wal]\nmax_byte = 12\n"),
            ["unknown key `wal.max_byte` at line 2, did you mean `wal.max_bytes`?"]
        );
        assert_eq!(faults("zzzzzzzz = 1\n"), ["unknown key `zzzzzzzz` at line 1; known here: strict, wal"]);
        assert_eq!(faults("Strict = true\n"), ["unknown key `Strict` at line 1, did you mean `strict`?"]);
    }

    #[test]
    fn j12_values_have_one_type_and_one_unit_each() {
        assert_eq!(faults("strict = false\n[wal]\nmax_bytes = 0x10\nretain = \"7d\"\non_full = \"deny\""), [""; 0]);
        for (text, fault) in [
            ("strict = 1", "`strict` at line 1 must be true or false"),
            ("wal = 1", "`wal` at line 1 must be a table"),
            ("[wal]\nmax_bytes = 9", "`wal.max_bytes` at line 2 must be a whole number from 10 to 20"),
            ("[wal]\nmax_bytes = 12.0", "`wal.max_bytes` at line 2 must be a whole number from 10 to 20"),
            ("[wal]\non_full = \"drop\"", "`wal.on_full` at line 2 must be \"deny\" or \"shed_lifecycle\""),
        ] {
            assert_eq!(faults(text), [fault]);
        }
        assert_eq!(faults("[wal]\nretain = 30").len(), 1);
        let both = faults("stirct = 1\n[wal]\nmax_bytes = 9\n");
        assert!(
            both.len() == 2 && both[0].contains("line 1") && both[1].contains("line 3"),
            "in their order: {both:?}"
        );
    }

    #[test]
    fn x12_lists_of_tables_and_values_that_are_read_further_have_lines_too() {
        let read = |text: &str| {
            let document = Document::parse(text).unwrap();
            let root = document.root();
            let peers = root.sections("peers", 2);
            let ids: Vec<_> = peers.iter().map(|peer| peer.parsed("id", |id| id.parse::<u8>())).collect();
            if peers.len() == 1 && !peers[0].has("id") {
                peers[0].fault("id", "is missing");
            }
            peers.into_iter().for_each(Section::finish);
            root.finish();
            (ids, document.into_faults())
        };
        assert_eq!(read("[[peers]]\nid = \"1\"\n[[peers]]\nid = \"2\""), (vec![Some(1), Some(2)], vec![]));
        let (ids, faults) = read("[[peers]]\nid = \"1\"\n[[peers]]\nid = \"x\"\nidd = 1");
        assert_eq!(ids, [Some(1), None]);
        assert_eq!(
            faults,
            [
                "`peers[1].id` at line 4 invalid digit found in string",
                "unknown key `peers[1].idd` at line 5, did you mean `peers[1].id`?"
            ]
        );
        assert_eq!(read("[[peers]]\n").1, ["`peers[0].id` is missing"]);
        for text in ["peers = 1", "peers = [1]", "[peers]\nid = \"1\"", "peers = [{}, {}, {}]"] {
            let faults = read(text).1;
            assert!(faults.len() == 1 && faults[0].contains("a list of tables, [[peers]], at most 2"), "{faults:?}");
        }
    }

    #[test]
    fn j12_duplicate_keys_and_tables_are_refused_with_their_line() {
        for text in ["strict = true\nstrict = false", "[wal]\n[wal]", "wal.retain = \"1s\"\n[wal]"] {
            let fault = Document::parse(text).err().unwrap();
            assert!(fault.ends_with("at line 2"), "{fault}");
        }
    }

    #[test]
    fn spans_have_a_unit() {
        assert_eq!(parse_span("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_span("7d"), Ok(Duration::from_secs(604_800)));
        for text in ["", "30", "s", "1.5s", "-1s", "1 s", "99999999999999999999s", "99999999999999d"] {
            assert!(parse_span(text).is_err(), "{text}");
        }
    }
}
