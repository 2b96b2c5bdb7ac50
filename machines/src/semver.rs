//! Versions and version ranges (SPEC 3): Semantic Versioning 2.0 to the letter, nothing lenient.
//!
//! Comparison is plain precedence (section 11 of the standard): a pre-release is lower than its release, and
//! build metadata does not count. Unlike in package managers a range has no special rule for pre-releases,
//! so `>=1.0.0` admits `1.1.0-rc.1` and bars `1.0.0-rc.1`, and `<2.0.0` admits `2.0.0-alpha`.

use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;

/// The longest version or range that is read, in bytes.
pub const MAX_LEN: usize = 256;

/// Why a text is no version or no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Longer than [`MAX_LEN`].
    #[error("{0} bytes long; a version or a range has at most {MAX_LEN}")]
    TooLong(usize),
    /// Not a version of Semantic Versioning 2.0.
    #[error("{text:?} is not a version like 1.2.3 (Semantic Versioning 2.0): {cause}")]
    Version {
        /// What was read.
        text: String,
        /// What is wrong with it.
        cause: String,
    },
    /// A range without a constraint.
    #[error("the range is empty; leave it out to admit every version")]
    EmptyRange,
    /// A constraint that starts with none of the operators.
    #[error("constraint {0:?} has no operator; write one of >= > <= < = right before a version, like >=1.2.3")]
    Operator(String),
    /// A constraint names build metadata, which no comparison looks at.
    #[error("constraint {0:?} names build metadata, which does not count in comparison; leave out the part from +")]
    BuildInRange(String),
}

/// A version of Semantic Versioning 2.0.
///
/// Equality is of the whole text; order by precedence is [`Version::precedence`], which ignores build metadata.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Version(::semver::Version);

impl Version {
    /// Reads a version: exactly three numbers without leading zeros, optional pre-release and build metadata.
    ///
    /// # Errors
    /// [`Refusal`] for every other text.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() > MAX_LEN {
            return Err(Refusal::TooLong(text.len()));
        }
        ::semver::Version::parse(text)
            .map(Self)
            .map_err(|cause| Refusal::Version { text: String::from(text), cause: alloc::format!("{cause}") })
    }

    /// The order of two versions as section 11 of the standard defines it.
    #[must_use]
    pub fn precedence(&self, other: &Self) -> Ordering {
        self.0.cmp_precedence(&other.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Constraints on a version, all of which must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range(Vec<Constraint>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Constraint {
    operator: Operator,
    bound: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    AtLeast,
    Above,
    AtMost,
    Below,
    Equal,
}

/// Longer spellings first, so that `>=` is not read as `>`.
const OPERATORS: [(&str, Operator); 5] = [
    (">=", Operator::AtLeast),
    ("<=", Operator::AtMost),
    (">", Operator::Above),
    ("<", Operator::Below),
    ("=", Operator::Equal),
];

impl Range {
    /// Reads constraints joined by spaces, each an operator (`>=`, `>`, `<=`, `<`, `=`) right before a version.
    ///
    /// # Errors
    /// [`Refusal`] for an empty range, a constraint without an operator, anything that is not a full version,
    /// and build metadata.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() > MAX_LEN {
            return Err(Refusal::TooLong(text.len()));
        }
        let constraints: Vec<_> =
            text.split(' ').filter(|part| !part.is_empty()).map(Constraint::parse).collect::<Result<_, _>>()?;
        if constraints.is_empty() { Err(Refusal::EmptyRange) } else { Ok(Self(constraints)) }
    }

    /// Whether every constraint holds for `version`.
    #[must_use]
    pub fn admits(&self, version: &Version) -> bool {
        self.0.iter().all(|constraint| constraint.holds(version))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for constraint in &self.0 {
            let sign = match constraint.operator {
                Operator::AtLeast => ">=",
                Operator::Above => ">",
                Operator::AtMost => "<=",
                Operator::Below => "<",
                Operator::Equal => "=",
            };
            write!(f, "{before}{sign}{}", constraint.bound)?;
            before = " ";
        }
        Ok(())
    }
}

impl Constraint {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let (operator, rest) = OPERATORS
            .iter()
            .find_map(|(sign, operator)| text.strip_prefix(sign).map(|rest| (*operator, rest)))
            .ok_or_else(|| Refusal::Operator(String::from(text)))?;
        if rest.is_empty() || rest.starts_with(['=', '<', '>']) {
            return Err(Refusal::Operator(String::from(text)));
        }
        let bound = Version::parse(rest)?;
        if !bound.0.build.is_empty() {
            return Err(Refusal::BuildInRange(String::from(text)));
        }
        Ok(Self { operator, bound })
    }

    fn holds(&self, version: &Version) -> bool {
        let order = version.precedence(&self.bound);
        match self.operator {
            Operator::AtLeast => order.is_ge(),
            Operator::Above => order.is_gt(),
            Operator::AtMost => order.is_le(),
            Operator::Below => order.is_lt(),
            Operator::Equal => order.is_eq(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;
    use std::string::ToString;

    /// Each lower than the next (section 11.4 of the standard, and around it).
    const RISING: [&str; 31] = [
        "0.0.0-0",
        "0.0.0",
        "0.0.1-alpha",
        "0.0.1",
        "0.1.0",
        "0.9.9",
        "0.10.0",
        "1.0.0-0",
        "1.0.0-1",
        "1.0.0-2",
        "1.0.0-10",
        "1.0.0-99999999999999999999999",
        "1.0.0--",
        "1.0.0-0a",
        "1.0.0-A",
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.1.0",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
        "1.0.1",
        "1.1.0-rc.1",
        "1.1.0",
        "1.10.0",
        "2.0.0-alpha",
        "2.0.0",
        "18446744073709551615.18446744073709551615.18446744073709551615",
    ];

    #[test]
    fn s20_versions_rise_by_precedence() {
        for (i, a) in RISING.iter().enumerate() {
            for (j, b) in RISING.iter().enumerate() {
                let (low, high) = (Version::parse(a).unwrap(), Version::parse(b).unwrap());
                assert_eq!(low.precedence(&high), i.cmp(&j), "{a} and {b}");
                for (sign, holds) in [(">=", i >= j), (">", i > j), ("<=", i <= j), ("<", i < j), ("=", i == j)] {
                    let range = Range::parse(&format!("{sign}{b}")).unwrap();
                    assert_eq!(range.admits(&low), holds, "{a} in {sign}{b}");
                }
            }
        }
    }

    #[test]
    fn s20_build_metadata_does_not_count() {
        for (a, b) in [
            ("1.0.0+a", "1.0.0+b"),
            ("1.0.0", "1.0.0+001"),
            ("1.0.0-rc.1+x", "1.0.0-rc.1"),
            ("1.0.0+21AF26D3---117B344092BD", "1.0.0+-"),
        ] {
            let (a, b) = (Version::parse(a).unwrap(), Version::parse(b).unwrap());
            assert_eq!(a.precedence(&b), Ordering::Equal);
            assert_ne!(a, b, "equality is of the text");
        }
        assert!(Range::parse("=1.0.0").unwrap().admits(&Version::parse("1.0.0+build.5").unwrap()));
        assert!(!Range::parse(">1.0.0").unwrap().admits(&Version::parse("1.0.0+build.5").unwrap()));
    }

    #[test]
    fn s20_what_is_not_a_version_is_refused() {
        for text in [
            "",
            " ",
            "1",
            "1.",
            "1.0",
            "1.0.",
            ".1.0",
            "1.0.0.",
            "1.0.0.0",
            "1..0",
            "01.0.0",
            "1.00.0",
            "1.0.00",
            "00.0.0",
            "1.0.01",
            "+1.0.0",
            "-1.0.0",
            "1.-1.0",
            "v1.0.0",
            "V1.0.0",
            "=1.0.0",
            "^1.0.0",
            "~1.0.0",
            "*",
            "1.*",
            "1.0.*",
            "1.x.0",
            "x",
            "latest",
            "1.0.0-",
            "1.0.0+",
            "1.0.0-+",
            "1.0.0-+b",
            "1.0.0-a.",
            "1.0.0-.a",
            "1.0.0-a..b",
            "1.0.0+a..b",
            "1.0.0+.",
            "1.0.0-01",
            "1.0.0-a.01",
            "1.0.0-00",
            "1.0.0-a_b",
            "1.0.0+a_b",
            "1.0.0+a+b",
            "1.0.0-é",
            "1.0.0 ",
            " 1.0.0",
            "1.0.0\n",
            "1.0.0\0",
            "1 .0.0",
            "1.0.0 -rc",
            "1,0,0",
            "1.0,0",
            "1.0.0/",
            "1.0.0*",
            "\u{661}.0.0",
            "1.0.\u{ff10}",
            "0x1.0.0",
            "1e0.0.0",
            "18446744073709551616.0.0",
            "99999999999999999999.0.0",
            "1.0.0-\u{200b}a",
            "1.0.0;",
            "../1.0.0",
        ] {
            let refusal = Version::parse(text).unwrap_err();
            assert!(matches!(refusal, Refusal::Version { .. }), "{text:?}: {refusal}");
            // An operator in front must not make it one; `<` and `=1.0.0`, though, are a good constraint.
            if text.contains(' ') || text.starts_with('=') {
                continue;
            }
            for sign in [">=", "<", "="] {
                assert!(Range::parse(&format!("{sign}{text}")).is_err(), "{sign}{text:?}");
            }
        }
        assert_eq!(Version::parse(&format!("1.0.0-{}", "a".repeat(251))), Err(Refusal::TooLong(257)));
    }

    #[test]
    fn s20_ranges_admit_what_every_constraint_admits() {
        for (range, admitted, barred) in [
            (">=1.0.0 <2.0.0", "1.0.0 1.9.9 1.1.0-rc.1 2.0.0-alpha 1.0.0+b", "0.9.9 1.0.0-rc.1 2.0.0 2.0.0+b"),
            (">1.0.0 <=2.0.0", "1.0.1-0 1.0.1 2.0.0 2.0.0-rc.1 2.0.0+x", "1.0.0 1.0.0+x 2.0.1-0 3.0.0"),
            ("=1.2.3", "1.2.3 1.2.3+anything", "1.2.3-0 1.2.4 1.2.2 12.3.0"),
            ("=1.2.3-rc.1", "1.2.3-rc.1", "1.2.3 1.2.3-rc.2 1.2.3-rc"),
            ("<1.0.0", "0.0.0 1.0.0-rc.1", "1.0.0 1.0.1"),
            (">=0.0.0-0", "0.0.0-0 0.0.0 99.0.0", ""),
            (">=1.0.0 <1.0.0", "", "0.9.0 1.0.0 1.0.1"),
            ("  >=1.0.0   <=1.0.0  ", "1.0.0", "0.9.9 1.0.1"),
            (">=1.0.0 >=1.5.0 >=1.2.0", "1.5.0 2.0.0", "1.0.0 1.2.0 1.4.9"),
            ("=1.0.0 =1.0.0", "1.0.0", "1.0.1"),
        ] {
            let parsed = Range::parse(range).unwrap();
            for (list, want) in [(admitted, true), (barred, false)] {
                for version in list.split_whitespace() {
                    assert_eq!(parsed.admits(&Version::parse(version).unwrap()), want, "{version} in {range}");
                }
            }
            assert_eq!(Range::parse(&parsed.to_string()), Ok(parsed), "{range}");
        }
    }

    #[test]
    fn s20_ranges_of_other_languages_are_refused() {
        for text in [
            "1.0.0",
            "*",
            "x",
            "latest",
            "any",
            "^1.0.0",
            "~1.0.0",
            "~>1.0.0",
            "!=1.0.0",
            "!1.0.0",
            "==1.0.0",
            "===1.0.0",
            "=>1.0.0",
            "=<1.0.0",
            "><1.0.0",
            "<>1.0.0",
            ">>1.0.0",
            "v1.0.0",
            "1.0.0 - 2.0.0",
            ">= 1.0.0",
            ">=",
            ">",
            "=",
            ">=1.0.0 2.0.0",
            ">=1.0.0 <",
            ">=1.0.0 || <0.5.0",
            "||",
            "≥1.0.0",
            "(>=1.0.0)",
        ] {
            let refusal = Range::parse(text).unwrap_err();
            assert!(matches!(refusal, Refusal::Operator(_)), "{text:?}: {refusal}");
            assert!(refusal.to_string().contains(">= > <= < ="), "{refusal}");
        }
        for text in [
            ">=1",
            ">=1.0",
            ">=1.*",
            ">=*",
            "=1.x",
            ">=v1.0.0",
            ">=1.0.0,",
            ">=1.0.0,<2.0.0",
            ">=1.0.0<2.0.0",
            ">=01.0.0",
            ">=1.0.0\t<2.0.0",
            ">=1.0.0\n",
            "<2.0.0||",
            "=1.0.0-01",
            ">=\u{a0}1.0.0",
        ] {
            assert!(matches!(Range::parse(text), Err(Refusal::Version { .. })), "{text:?}");
        }
        for text in [">=1.0.0+a", "=1.0.0-rc.1+a", ">=1.0.0 <2.0.0+b"] {
            assert!(matches!(Range::parse(text), Err(Refusal::BuildInRange(_))), "{text:?}");
        }
        for text in ["", " ", "   "] {
            assert_eq!(Range::parse(text), Err(Refusal::EmptyRange));
        }
        assert!(matches!(Range::parse(&">=1.0.0 ".repeat(40)), Err(Refusal::TooLong(320))));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_readers_panic(text in r"([><=]=?|[0-9]{1,3}\.|[ +\-a-z0-9.*^~v]){0,20}|\PC{0,20}") {
            if let Ok(version) = Version::parse(&text) {
                prop_assert_eq!(version.to_string(), text.clone());
            }
            if let Ok(range) = Range::parse(&text) {
                prop_assert_eq!(Range::parse(&range.to_string()).unwrap(), range);
            }
        }
    }
}
