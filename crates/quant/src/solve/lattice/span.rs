//! A closed interval of real numbers (a span), and the `f16` values in it.

use half::f16;

/// The interval from `low` to `high`, inclusive. It is empty if `low` is greater than `high`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub low: f64,
    pub high: f64,
}

/// Maximum number of `f16` values on each side of a span's middle. The span of a `bf16` value contains fewer `f16`
/// values. The span of a difference of two `bf16` values also contains fewer.
const MAX_F16_VALUES: i32 = 256;

impl Span {
    /// The span of all real numbers.
    pub const ALL: Self = Self { low: f64::NEG_INFINITY, high: f64::INFINITY };

    /// Returns the span of a single number.
    pub fn point(x: f64) -> Self {
        Self { low: x, high: x }
    }

    /// Returns the intersection of both spans.
    pub fn intersect(self, other: Self) -> Self {
        Self { low: self.low.max(other.low), high: self.high.min(other.high) }
    }

    /// Returns the span of x / `divisor`, for x in this span.
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

    /// Returns the `f16` values in the span. Values near the middle come first.
    pub fn f16_values(self) -> impl Iterator<Item = f32> {
        let centre = f16_index(self.middle());
        let reach = (f16_index(self.high) - centre).max(centre - f16_index(self.low)).min(MAX_F16_VALUES);
        let reach = if self.is_empty() { -1 } else { reach };
        let outward = (0..=2 * reach).map(|i| if i % 2 == 0 { -(i / 2) } else { i / 2 + 1 });
        outward.map(move |offset| f16_at(centre + offset)).filter(move |&x| self.contains(f64::from(x)))
    }
}

/// Returns the index of the `f16` value nearest to `x` in the ascending order of all `f16` values. Zero has index 0.
fn f16_index(x: f64) -> i32 {
    let bits = i32::from(f16::from_f64(x).to_bits());
    if bits < 0x8000 { bits } else { 0x8000 - bits }
}

/// Returns the `f16` value with this index, the inverse of [`f16_index`]. Returns infinity or NaN if the index is
/// beyond the range of `f16`.
fn f16_at(index: i32) -> f32 {
    let magnitude = f16::from_bits(index.unsigned_abs().min(0x7fff) as u16).to_f32();
    if index < 0 { -magnitude } else { magnitude }
}
