//! Time as it is given to a machine: `Mono` measures, `Wall` only labels.

use alloc::string::String;
use core::fmt;

/// A span of time, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// A span of `n` nanoseconds.
    #[must_use]
    pub const fn from_nanos(n: u64) -> Self {
        Self(n)
    }

    /// A span of `n` microseconds; saturates.
    #[must_use]
    pub const fn from_micros(n: u64) -> Self {
        Self(n.saturating_mul(1_000))
    }

    /// A span of `n` milliseconds; saturates.
    #[must_use]
    pub const fn from_millis(n: u64) -> Self {
        Self(n.saturating_mul(1_000_000))
    }

    /// A span of `n` seconds; saturates.
    #[must_use]
    pub const fn from_secs(n: u64) -> Self {
        Self(n.saturating_mul(1_000_000_000))
    }

    /// Whole nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole microseconds, rounded down.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Whole milliseconds, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }
}

/// A point on the monotonic clock, in nanoseconds since an origin that only the driver knows.
///
/// All waiting is measured with it; a step of the wall clock changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(u64);

impl Mono {
    /// The clock's origin.
    pub const ZERO: Self = Self(0);

    /// The point `n` nanoseconds after the origin.
    #[must_use]
    pub const fn from_nanos(n: u64) -> Self {
        Self(n)
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The point `span` later; saturates at the end of time.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The time from `earlier` to this point; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

/// A reading of the wall clock, in microseconds since 1970-01-01T00:00:00Z.
///
/// It labels records and is never used to measure. Readings past the year 9999 are held there, so that
/// every label has the same width (FAULTS D20).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(u64);

/// 9999-12-31T23:59:59.999999Z.
const LAST_WALL_MICROS: u64 = 253_402_300_799_999_999;

impl Wall {
    /// The reading `n` microseconds after the Unix epoch.
    #[must_use]
    pub const fn from_micros(n: u64) -> Self {
        Self(if n > LAST_WALL_MICROS { LAST_WALL_MICROS } else { n })
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// The time from `earlier` to this reading; zero when the clock was set back in between.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Span {
        Span::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The reading so much later, at most the last that has a label.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Self::from_micros(self.0.saturating_add(span.as_micros()))
    }

    /// Appends the reading as RFC 3339 in UTC with six fractional digits, always 27 characters.
    pub fn write_rfc3339(self, out: &mut String) {
        let secs = self.0 / 1_000_000;
        let (year, month, day) = civil(secs / 86_400);
        let of_day = secs % 86_400;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let fields = [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, of_day / 3_600),
            (14, 2, of_day / 60 % 60),
            (17, 2, of_day % 60),
            (20, 6, self.0 % 1_000_000),
        ];
        for (at, width, mut n) in fields {
            for slot in text.iter_mut().skip(at).take(width).rev() {
                *slot = b'0' + u8::try_from(n % 10).unwrap_or(0);
                n /= 10;
            }
        }
        out.push_str(core::str::from_utf8(&text).unwrap_or(""));
    }

    /// Reads what `write_rfc3339` writes; `None` for any other text, also for other valid RFC 3339.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let b: &[u8; 27] = text.as_bytes().try_into().ok()?;
        let digits = |from: usize, len: usize| -> Option<u64> {
            b.get(from..from.checked_add(len)?)?.iter().try_fold(0u64, |n, d| match d {
                b'0'..=b'9' => Some(n * 10 + u64::from(d - b'0')),
                _ => None,
            })
        };
        for (at, want) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (26, b'Z')] {
            if b.get(at) != Some(&want) {
                return None;
            }
        }
        let (year, month, day) = (digits(0, 4)?, digits(5, 2)?, digits(8, 2)?);
        let (hour, minute, second) = (digits(11, 2)?, digits(14, 2)?, digits(17, 2)?);
        let days = days_from_civil(year, month, day)?;
        if hour > 23 || minute > 59 || second > 59 || civil(days) != (year, month, day) {
            return None;
        }
        let secs = days * 86_400 + hour * 3_600 + minute * 60 + second;
        Some(Self::from_micros(secs * 1_000_000 + digits(20, 6)?))
    }
}

impl Wall {
    /// Reads any RFC 3339 time from 1970 on: fractions are cut to microseconds, an offset is taken into account. A leap
    /// second counts as the second before it.
    #[must_use]
    pub fn parse_any_rfc3339(text: &str) -> Option<Self> {
        let (date_time, rest) = text.split_at_checked(19)?;
        let (fraction, zone) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at_checked(rest.find(|c: char| !c.is_ascii_digit())?)?,
            None => ("000000", rest),
        };
        if !(1..=9).contains(&fraction.len()) {
            return None;
        }
        let micros: String = fraction.chars().chain("000000".chars()).take(6).collect();
        let upper = date_time.to_ascii_uppercase().replace(":60", ":59");
        let local = Self::parse_rfc3339(&alloc::format!("{upper}.{micros}Z"))?;
        let offset = match zone {
            "Z" | "z" => 0,
            zone => {
                let (sign, hours, minutes) = (zone.get(..1)?, zone.get(1..3)?, zone.get(4..)?);
                let all_digits = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
                if zone.get(3..4)? != ":" || !all_digits(hours) || !all_digits(minutes) {
                    return None;
                }
                let (hours, minutes) = (hours.parse::<i64>().ok()?, minutes.parse::<i64>().ok()?);
                if hours > 23 || minutes > 59 {
                    return None;
                }
                let micros = (hours * 60 + minutes) * 60_000_000;
                match sign {
                    "+" => micros,
                    "-" => -micros,
                    _ => return None,
                }
            }
        };
        local.0.checked_add_signed(-offset).map(Self::from_micros)
    }
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write_rfc3339(&mut text);
        f.write_str(&text)
    }
}

/// The time of one event: a reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub mono: Mono,
    /// The wall clock.
    pub wall: Wall,
}

/// Days since 1970-01-01 to year, month, day of the proleptic Gregorian calendar, by 400-year eras that
/// start on 1 March (the leap day then ends the year).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let y = if month <= 2 { year - 1 } else { year };
    let era = y / 400;
    let yoe = y % 400;
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    (era * 146_097 + doe).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn labels_round_trip_and_have_one_width() {
        for micros in [0, 1, 951_782_400_000_000, 1_763_724_637_123_456, LAST_WALL_MICROS] {
            let text = Wall::from_micros(micros).to_string();
            assert_eq!(text.len(), 27);
            assert_eq!(Wall::parse_rfc3339(&text), Some(Wall::from_micros(micros)), "{text}");
        }
        assert_eq!(Wall::from_micros(951_782_400_000_000).to_string(), "2000-02-29T00:00:00.000000Z");
    }

    #[test]
    fn d20_time_past_the_year_9999_is_held_at_the_last_label() {
        assert_eq!(Wall::from_micros(u64::MAX).to_string(), "9999-12-31T23:59:59.999999Z");
        assert_eq!(Mono::from_nanos(u64::MAX).after(Span::from_secs(u64::MAX)), Mono::from_nanos(u64::MAX));
    }

    #[test]
    fn other_spellings_are_not_labels() {
        for text in ["", "2026-02-30T00:00:00.000000Z", "2026-11-21T11:30:37Z", "2026-11-21t11:30:37.000000z"] {
            assert_eq!(Wall::parse_rfc3339(text), None, "{text}");
        }
    }
}
