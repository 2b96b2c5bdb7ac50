//! The one number model: exact integers and proper fractions, each value with one representation.

/// Integral values above this size are only taken when they were spelled as plain integers: beyond 2^53 an
/// f64 no longer tells neighbouring integers apart.
const LAST_EXACT: u64 = 1 << 53;

/// A JSON number: an integer in the range of `i64` or `u64`, exactly, or a finite f64 that is not integral.
///
/// A number spelled with a fraction or an exponent is first taken as the nearest f64 (as ECMAScript and
/// RFC 8785 do); when that is integral and at most 2^53 in size it *is* the integer (`1.0`, `1e0` and `1`
/// are equal, `-0` is `0`); integral beyond that, or infinite, it is no number here (FAULTS P13).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number(NumberKind);

/// A number, opened up. Each value has exactly one kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NumberKind {
    /// An integer from 0.
    Unsigned(u64),
    /// An integer below 0.
    Negative(i64),
    /// Finite and not integral.
    Fraction(f64),
}

// A fraction is never NaN, so equality is total.
impl Eq for Number {}

impl Number {
    /// Zero.
    pub const ZERO: Self = Self(NumberKind::Unsigned(0));

    /// The number equal to `x`; `None` when `x` is not finite, or integral beyond 2^53.
    #[must_use]
    pub fn from_f64(x: f64) -> Option<Self> {
        // IEEE 754 binary64: sign, 11 bits of exponent, 52 bits of mantissa with a hidden leading 1.
        let bits = x.to_bits();
        let exponent = (bits >> 52) & 0x7ff;
        let mantissa = bits & ((1 << 52) - 1);
        if exponent == 0x7ff {
            return None;
        }
        if exponent == 0 {
            // Zero of either sign, or subnormal and thus a fraction.
            return Some(if mantissa == 0 { Self::ZERO } else { Self(NumberKind::Fraction(x)) });
        }
        let significand = mantissa | 1 << 52;
        // x = ± significand / 2^places
        let Some(places) = 1075_u64.checked_sub(exponent) else {
            // |x| ≥ 2^53; 2^53 itself is the one that is still taken.
            return (exponent == 1076 && mantissa == 0).then(|| Self::signed(LAST_EXACT, x.is_sign_negative()));
        };
        if places > 52 || significand & ((1 << places) - 1) != 0 {
            return Some(Self(NumberKind::Fraction(x)));
        }
        Some(Self::signed(significand >> places, x.is_sign_negative()))
    }

    /// `size` is at most 2^53, so its negative fits.
    fn signed(size: u64, negative: bool) -> Self {
        if negative { Self::from(0_i64.saturating_sub_unsigned(size)) } else { Self::from(size) }
    }

    /// What kind of number it is, with its value.
    #[must_use]
    pub const fn kind(self) -> NumberKind {
        self.0
    }

    /// The integer from 0 to `u64::MAX`, when it is one.
    #[must_use]
    pub const fn as_u64(self) -> Option<u64> {
        match self.0 {
            NumberKind::Unsigned(n) => Some(n),
            NumberKind::Negative(_) | NumberKind::Fraction(_) => None,
        }
    }

    /// The integer in the range of `i64`, when it is one.
    #[must_use]
    pub fn as_i64(self) -> Option<i64> {
        match self.0 {
            NumberKind::Unsigned(n) => i64::try_from(n).ok(),
            NumberKind::Negative(n) => Some(n),
            NumberKind::Fraction(_) => None,
        }
    }

    /// The value when it is a fraction; integers are not converted.
    #[must_use]
    pub const fn as_fraction(self) -> Option<f64> {
        match self.0 {
            NumberKind::Fraction(x) => Some(x),
            NumberKind::Unsigned(_) | NumberKind::Negative(_) => None,
        }
    }
}

impl From<u64> for Number {
    fn from(n: u64) -> Self {
        Self(NumberKind::Unsigned(n))
    }
}

impl From<i64> for Number {
    fn from(n: i64) -> Self {
        Self(u64::try_from(n).map_or(NumberKind::Negative(n), NumberKind::Unsigned))
    }
}
