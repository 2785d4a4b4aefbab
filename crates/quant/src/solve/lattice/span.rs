//! A closed interval of real numbers, and the `f16` values in it.

use half::f16;

/// The interval from `low` to `high`; empty if `low` is greater than `high`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub low: f64,
    pub high: f64,
}

/// Maximum number of `f16` values on each side of a span's middle. The span of a `bf16` value contains fewer, and so
/// does the span of a difference of two.
const MAX_F16_VALUES: i32 = 256;

impl Span {
    /// All real numbers.
    pub const ALL: Self = Self { low: f64::NEG_INFINITY, high: f64::INFINITY };

    /// A single number.
    pub fn point(x: f64) -> Self {
        Self { low: x, high: x }
    }

    /// Returns the intersection of both.
    pub fn intersect(self, other: Self) -> Self {
        Self { low: self.low.max(other.low), high: self.high.min(other.high) }
    }

    /// Returns the span of x / `divisor`.
    pub fn divided_by(self, divisor: f64) -> Self {
        let (a, b) = (self.low / divisor, self.high / divisor);
        Self { low: a.min(b), high: a.max(b) }
    }

    /// Returns the span of x − y, for x in this span and y in `other`.
    pub fn minus(self, other: Self) -> Self {
        Self { low: self.low - other.high, high: self.high - other.low }
    }

    pub fn middle(self) -> f64 {
        (self.low + self.high) / 2.0
    }

    pub fn is_empty(self) -> bool {
        self.low > self.high
    }

    pub fn contains(self, x: f64) -> bool {
        self.low <= x && x <= self.high
    }

    /// Returns the `f16` values in the span, those near the middle first.
    pub fn f16_values(self) -> impl Iterator<Item = f32> {
        let centre = f16_index(self.middle());
        let reach = (f16_index(self.high) - centre).max(centre - f16_index(self.low)).min(MAX_F16_VALUES);
        let reach = if self.is_empty() { -1 } else { reach };
        let outward = (0..=2 * reach).map(|i| if i % 2 == 0 { -(i / 2) } else { i / 2 + 1 });
        outward.map(move |offset| f16_at(centre + offset)).filter(move |&x| self.contains(f64::from(x)))
    }
}

/// Returns the index of the `f16` value nearest to `x` among all sorted `f16` values; zero has index 0.
fn f16_index(x: f64) -> i32 {
    let bits = i32::from(f16::from_f64(x).to_bits());
    if bits < 0x8000 { bits } else { 0x8000 - bits }
}

/// Returns the `f16` value with this index, the inverse of [`f16_index`]; infinity or NaN beyond the range of `f16`.
fn f16_at(index: i32) -> f32 {
    let magnitude = f16::from_bits(index.unsigned_abs().min(0x7fff) as u16).to_f32();
    if index < 0 { -magnitude } else { magnitude }
}
