//! A range of real numbers that all serve, and the `f16` numbers in it.

use half::f16;

/// From `low` to `high`; empty where `low` is greater.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub low: f64,
    pub high: f64,
}

/// How many `f16` numbers to either side of a span's middle are tried: more than one value of `bf16` has in itself,
/// and enough for a difference of two.
const REACH: i32 = 256;

impl Span {
    /// All numbers.
    pub const ALL: Self = Self { low: f64::NEG_INFINITY, high: f64::INFINITY };

    /// One number.
    pub fn of(x: f64) -> Self {
        Self { low: x, high: x }
    }

    /// What lies in both.
    pub fn meet(self, other: Self) -> Self {
        Self { low: self.low.max(other.low), high: self.high.min(other.high) }
    }

    /// Each number over `divisor`.
    pub fn over(self, divisor: f64) -> Self {
        let (a, b) = (self.low / divisor, self.high / divisor);
        Self { low: a.min(b), high: a.max(b) }
    }

    /// Each number less each of `other`.
    pub fn less(self, other: Self) -> Self {
        Self { low: self.low - other.high, high: self.high - other.low }
    }

    pub fn middle(self) -> f64 {
        (self.low + self.high) / 2.0
    }

    pub fn is_empty(self) -> bool {
        self.low > self.high
    }

    pub fn holds(self, x: f64) -> bool {
        self.low <= x && x <= self.high
    }

    /// Numbers of `f16` in it, those near the middle first.
    pub fn halves(self) -> impl Iterator<Item = f32> {
        let centre = order(self.middle());
        let reach = (order(self.high) - centre).max(centre - order(self.low)).min(REACH);
        let reach = if self.is_empty() { -1 } else { reach };
        let outward = (0..=2 * reach).map(|i| if i % 2 == 0 { -(i / 2) } else { i / 2 + 1 });
        outward.map(move |offset| at(centre + offset)).filter(move |&x| self.holds(f64::from(x)))
    }
}

/// Where the `f16` nearest to `x` stands in their order, zero at 0.
fn order(x: f64) -> i32 {
    let bits = i32::from(f16::from_f64(x).to_bits());
    if bits < 0x8000 { bits } else { 0x8000 - bits }
}

/// The inverse of [`order`]; infinite or not a number beyond `f16`'s range.
fn at(order: i32) -> f32 {
    let magnitude = f16::from_bits(order.unsigned_abs().min(0x7fff) as u16).to_f32();
    if order < 0 { -magnitude } else { magnitude }
}
