//! The scale searches that several formats share. They have upstream's order of operations and no fused multiply-add,
//! so the encoded bytes are identical to those of upstream. A search processes eight groups in parallel (see `lanes`).
//!
//! Source: llama.cpp's `ggml/src/ggml-quants.c`: `make_qx_quants` ([`symmetric`]), `make_qkx2_quants` and
//! `make_qkx3_quants` ([`affine`]), `make_qp_quants` ([`positive`]). Not here: upstream's other error measures, because
//! no format here uses them.

use super::lanes::{Lanes, Mask, map_lanes};
use pulp::{NullaryFnOnce, Simd, f32x8};

/// A group whose values are all below this magnitude counts as zero.
pub(super) const ZERO_GROUP: f32 = 1e-15;

/// 1.5 · 2²³. Adding and then subtracting it rounds a value to an integer.
const ROUNDER: f32 = 12_582_912.0;

/// Rounds to nearest, ties to even, for magnitudes up to 2²². For larger magnitudes the result is only approximate, but
/// large enough for a following clamp.
#[inline(always)]
pub(super) fn nearest(x: f32) -> f32 {
    // Unlike a call of `round_ties_even`, this is vectorized on each instruction set.
    (x + ROUNDER) - ROUNDER
}

/// Converts an integer from 0 to 255 to a byte. A cast is not vectorized, because it saturates other values.
#[inline(always)]
pub(super) fn byte(x: f32) -> u8 {
    // From 2²³ to 2²⁴, the last bit of the mantissa has the value 1.
    (x + 8_388_608.0).to_bits() as u8
}

/// Truncates `x` to an integer and clamps it to `0..=highest`; returns 0 for NaN.
#[inline(always)]
pub(super) fn truncated(x: f32, highest: f32) -> u8 {
    let x = if x > 0.0 { x } else { 0.0 };
    let x = if x < highest { x } else { highest };
    let rounded = nearest(x);
    byte(rounded - if rounded > x { 1.0 } else { 0.0 })
}

/// Returns the element of largest magnitude, with its sign. Of several such elements it returns the first. Returns 0 if
/// all elements are NaN.
#[inline(always)]
pub(super) fn extreme(x: &[f32]) -> f32 {
    // Computes minimum and maximum, with eight of each in parallel. The order of the elements matters only if both have
    // the same magnitude.
    let (mut lowest, mut highest) = ([0.0f32; 8], [0.0f32; 8]);
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        for ((lowest, highest), &v) in lowest.iter_mut().zip(&mut highest).zip(chunk) {
            *lowest = if v < *lowest { v } else { *lowest };
            *highest = if v > *highest { v } else { *highest };
        }
    }
    for (i, &v) in rest.iter().enumerate() {
        lowest[i] = if v < lowest[i] { v } else { lowest[i] };
        highest[i] = if v > highest[i] { v } else { highest[i] };
    }
    for half in [4, 2, 1] {
        for i in 0..half {
            let (low, high) = (lowest[i + half], highest[i + half]);
            lowest[i] = if low < lowest[i] { low } else { lowest[i] };
            highest[i] = if high > highest[i] { high } else { highest[i] };
        }
    }
    let (low, high) = (lowest[0], highest[0]);
    if high > -low {
        high
    } else if -low > high {
        low
    } else if high == 0.0 {
        0.0
    } else {
        x.iter().copied().find(|v| v.abs() == high).unwrap_or(high)
    }
}

/// Computes [`extreme`] for each lane.
#[inline(always)]
pub(super) fn extremes<const N: usize>(x: &[Lanes; N]) -> Lanes {
    let mut best = Lanes::ZERO;
    for &v in x {
        best = v.abs().greater(best.abs()).select(v, best);
    }
    best
}

/// Returns the mask of the groups that do not count as zero, from their extremes.
#[inline(always)]
pub(super) fn not_zero(extremes: Lanes) -> Mask {
    // `>` with the next smaller float stands for `>=`, which `Lanes` does not have.
    extremes.abs().greater(Lanes::all(ZERO_GROUP.next_down()))
}

/// Returns the smallest and the largest element. It ignores NaN.
#[inline(always)]
pub(super) fn range(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::MAX, -f32::MAX), |(min, max), &v| {
        (if v < min { v } else { min }, if v > max { v } else { max })
    })
}

/// Sums the squares in the order of the elements.
pub(super) fn sum_of_squares(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, x| sum + x * x)
}

/// Computes the weights of the squared errors from the importance: `importance · sqrt(spread + x²)`.
pub(super) fn weights<const N: usize>(x: &[Lanes; N], importance: &[Lanes; N], spread: Lanes) -> [Lanes; N] {
    let mut out = *importance;
    for (weight, &x) in out.iter_mut().zip(x) {
        *weight = *weight * (spread + x * x).sqrt();
    }
    out
}

/// The result of [`symmetric`].
pub(super) struct Symmetric {
    /// `x ≈ scale · (code − half)`.
    pub scale: Lanes,
    /// The factor from values to codes of the best starting scale. It differs from `1 / scale`, because `scale` is
    /// refit.
    inverse: Lanes,
    not_zero: Mask,
    half: f32,
}

impl Symmetric {
    /// Returns the search's own codes; 0 in a group that counts as zero. Upstream keeps these codes if it does not
    /// round again.
    #[inline(always)]
    pub fn code(&self, x: Lanes) -> Lanes {
        let code = (self.inverse * x).nearest().clamp(-self.half, self.half - 1.0) + Lanes::all(self.half);
        self.not_zero.select(code, Lanes::ZERO)
    }
}

/// Searches the scales for `x ≈ scale · l` with the level `l` in `−half..half`. It tries 19 starting scales around the
/// extreme, refits each by weighted least squares, and returns the best. A group that counts as zero gets scale 0.
pub(super) fn symmetric<const N: usize>(half: f32, x: &[Lanes; N], weights: &[Lanes; N]) -> Symmetric {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return simd.vectorize(SymmetricSearch { simd, half, x, weights });
    }
    SymmetricSearch { simd: pulp::Scalar256b, half, x, weights }.call()
}

/// [`symmetric`] as a type, so that it is compiled for each instruction set.
struct SymmetricSearch<'a, S, const N: usize> {
    simd: S,
    half: f32,
    x: &'a [Lanes; N],
    weights: &'a [Lanes; N],
}

impl<S: Simd<f32s = f32x8>, const N: usize> NullaryFnOnce for SymmetricSearch<'_, S, N> {
    type Output = Symmetric;

    #[inline(always)]
    fn call(self) -> Symmetric {
        let Self { simd, half, x, weights } = self;
        let mut products = *weights;
        for (product, &x) in products.iter_mut().zip(x) {
            *product = *product * x;
        }
        let sums = SymmetricSums { simd, half, x, weights, products: &products };

        let extreme = extremes(x);
        let mut inverse = Lanes::all(-half) / extreme;
        let (sum_lx, sum_l2) = sums.with_scale(inverse);
        let mut scale = sum_l2.equal(Lanes::ZERO).select(Lanes::ZERO, sum_lx / sum_l2);
        let mut best = scale * sum_lx;
        for step in (-9i8..=9).filter(|&step| step != 0) {
            let start = Lanes::all(-(half + 0.1 * f32::from(step))) / extreme;
            let (sum_lx, sum_l2) = sums.with_scale(start);
            let better = sum_l2.greater(Lanes::ZERO).and((sum_lx * sum_lx).greater(best * sum_l2));
            let refit = sum_lx / sum_l2;
            inverse = better.select(start, inverse);
            scale = better.select(refit, scale);
            best = better.select(refit * sum_lx, best);
        }
        let not_zero = not_zero(extreme);
        Symmetric { scale: not_zero.select(scale, Lanes::ZERO), inverse, not_zero, half }
    }
}

/// Computes the sums of [`symmetric`] for one starting scale. It uses explicit vector instructions, because the
/// compiler does not vectorize this loop completely for some `N`.
struct SymmetricSums<'a, S, const N: usize> {
    simd: S,
    half: f32,
    x: &'a [Lanes; N],
    weights: &'a [Lanes; N],
    /// Products of the weights and the values.
    products: &'a [Lanes; N],
}

impl<S: Simd<f32s = f32x8>, const N: usize> SymmetricSums<'_, S, N> {
    /// Returns the weighted sums of code · value and of code², with one scale per lane.
    #[inline(always)]
    fn with_scale(&self, inverse: Lanes) -> (Lanes, Lanes) {
        let simd = self.simd;
        let (inverse, rounder) = (pulp::cast(inverse.0), simd.splat_f32s(ROUNDER));
        let (low, high) = (simd.splat_f32s(-self.half), simd.splat_f32s(self.half - 1.0));
        let mut sum_lx = simd.splat_f32s(0.0);
        let mut sum_l2 = sum_lx;
        for ((x, w), wx) in self.x.iter().zip(self.weights).zip(self.products) {
            let l = simd.mul_f32s(inverse, pulp::cast(x.0));
            let l = simd.sub_f32s(simd.add_f32s(l, rounder), rounder);
            let l = simd.min_f32s(high, simd.max_f32s(low, l));
            sum_lx = simd.add_f32s(sum_lx, simd.mul_f32s(pulp::cast(wx.0), l));
            sum_l2 = simd.add_f32s(sum_l2, simd.mul_f32s(simd.mul_f32s(pulp::cast(w.0), l), l));
        }
        (Lanes(pulp::cast(sum_lx)), Lanes(pulp::cast(sum_l2)))
    }
}

/// The starting scales of [`affine`]: `range / (first + step · i + levels)` for `i` in `0..=last`.
#[derive(Clone, Copy)]
pub(super) struct StartingScales {
    pub first: f32,
    pub step: f32,
    pub last: u8,
}

/// Upstream's starting scales of all searches with importance.
pub(super) const WITH_IMPORTANCE: StartingScales = StartingScales { first: -0.9, step: 0.05, last: 36 };

/// The result of [`affine`].
pub(super) struct Affine {
    /// `x ≈ scale · code + least`; 0 if all values of the group are equal.
    pub scale: Lanes,
    /// The value of code 0, never above 0.
    pub least: Lanes,
    /// The search's own codes are `inverse · (x − base)`, rounded and clamped.
    inverse: Lanes,
    base: Lanes,
    levels: f32,
}

impl Affine {
    /// Returns the search's own codes; 0 if all values of the group are equal. Upstream keeps these codes if it does
    /// not round again.
    #[inline(always)]
    pub fn code(&self, x: Lanes) -> Lanes {
        (self.inverse * (x - self.base)).nearest().clamp(0.0, self.levels)
    }
}

/// Searches the scales and least values for `x ≈ scale · l + least`, with the code `l` in `0..=levels` and `least` at
/// most 0. It tries all `starts`, refits each by weighted least squares, and returns the best.
pub(super) fn affine<const N: usize>(
    levels: f32,
    x: &[Lanes; N],
    weights: &[Lanes; N],
    starts: StartingScales,
) -> Affine {
    pulp::Arch::new().dispatch(AffineSearch { levels, x, weights, starts })
}

/// [`affine`] as a type, so that it is compiled for each instruction set.
struct AffineSearch<'a, const N: usize> {
    levels: f32,
    x: &'a [Lanes; N],
    weights: &'a [Lanes; N],
    starts: StartingScales,
}

impl<const N: usize> NullaryFnOnce for AffineSearch<'_, N> {
    type Output = Affine;

    #[inline(always)]
    fn call(self) -> Affine {
        let Self { levels, x, weights, starts } = self;

        let (mut lowest, mut highest) = (x[0], x[0]);
        let (mut sum_w, mut sum_x) = (weights[0], weights[0] * x[0]);
        for (&x, &w) in x.iter().zip(weights).skip(1) {
            lowest = x.less(lowest).select(x, lowest);
            highest = x.greater(highest).select(x, highest);
            sum_w = sum_w + w;
            sum_x = sum_x + w * x;
        }
        lowest = lowest.greater(Lanes::ZERO).select(Lanes::ZERO, lowest);
        let inverse = Lanes::all(levels) / (highest - lowest);
        let mut codes = map_lanes(x, |x| (inverse * (x - lowest)).nearest().clamp(0.0, levels));
        let mut found =
            Affine { scale: Lanes::all(1.0) / inverse, least: lowest, inverse, base: lowest, levels };
        let mut best = affine_error(x, weights, found.scale, found.least, &codes);
        for step in 0..=starts.last {
            // As in upstream, each start uses the least value of the best result so far.
            let base = found.least;
            let start = Lanes::all(starts.first + starts.step * f32::from(step) + levels) / (highest - base);
            let (mut sum_l, mut sum_l2, mut sum_xl) = (Lanes::ZERO, Lanes::ZERO, Lanes::ZERO);
            for ((&x, &w), code) in x.iter().zip(weights).zip(&mut codes) {
                let l = (start * (x - base)).nearest().clamp(0.0, levels);
                let weighted = w * l;
                sum_l = sum_l + weighted;
                sum_l2 = sum_l2 + weighted * l;
                sum_xl = sum_xl + weighted * x;
                *code = l;
            }
            let determinant = sum_w * sum_l2 - sum_l * sum_l;
            let least = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            let scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let above = least.greater(Lanes::ZERO);
            let (least, scale) = (above.select(Lanes::ZERO, least), above.select(sum_xl / sum_l2, scale));
            let this = affine_error(x, weights, scale, least, &codes);
            let better = determinant.greater(Lanes::ZERO).and(this.less(best));
            best = better.select(this, best);
            found.scale = better.select(scale, found.scale);
            found.least = better.select(least, found.least);
            found.inverse = better.select(start, found.inverse);
            found.base = better.select(base, found.base);
        }
        let flat = highest.equal(lowest);
        found.scale = flat.select(Lanes::ZERO, found.scale);
        found.least = flat.select(lowest, found.least);
        found.inverse = flat.select(Lanes::ZERO, found.inverse);
        found
    }
}

/// Computes the weighted squared error of `x ≈ scale · code + least` in each lane. It has no closures, so that the
/// compiler inlines it and compiles it for the caller's instruction set.
#[inline(always)]
fn affine_error<const N: usize>(
    x: &[Lanes; N],
    weights: &[Lanes; N],
    scale: Lanes,
    least: Lanes,
    codes: &[Lanes; N],
) -> Lanes {
    let mut sum = Lanes::ZERO;
    for ((&x, &w), &l) in x.iter().zip(weights).zip(codes) {
        let difference = scale * l + least - x;
        sum = sum + w * (difference * difference);
    }
    sum
}

/// Searches one scale and the codes for non-negative values: `x ≈ scale · l` with the code `l` in `0..=levels`. It
/// takes the best of nine starting scales. Then it changes single codes as long as the error decreases, for at most
/// five rounds.
pub(super) fn positive<const N: usize>(levels: f32, x: &[f32; N], weights: &[f32; N]) -> (f32, [u8; N]) {
    let rounded = |x: f32| {
        let l = nearest(x);
        let l = if l > 0.0 { l } else { 0.0 };
        if l > levels { levels } else { l }
    };
    let largest = x.iter().fold(0.0f32, |largest, &x| if x > largest { x } else { largest });
    if largest < ZERO_GROUP {
        return (0.0, [0; N]);
    }
    let error = |inverse: f32| {
        let scale = 1.0 / inverse;
        x.iter().zip(weights).fold(0.0, |sum, (&x, &w)| {
            let difference = x - scale * rounded(inverse * x);
            sum + w * difference * difference
        })
    };
    let mut inverse = levels / largest;
    let mut best = error(inverse);
    for step in (-4i8..=4).filter(|&step| step != 0) {
        let start = (0.1 * f32::from(step) + levels) / largest;
        let this = error(start);
        if this < best {
            (best, inverse) = (this, start);
        }
    }
    let mut codes = x.map(|x| rounded(inverse * x));
    let (mut sum_lx, mut sum_l2) = (0.0f32, 0.0f32);
    for ((&x, &w), &l) in x.iter().zip(weights).zip(&codes) {
        sum_lx += w * x * l;
        sum_l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((&x, &w), l) in x.iter().zip(weights).zip(&mut codes) {
            let (mut lx, mut l2) = (sum_lx - w * x * *l, sum_l2 - w * *l * *l);
            if lx > 0.0 && l2 > 0.0 {
                let moved = rounded(x * l2 / lx);
                if moved != *l {
                    lx += w * x * moved;
                    l2 += w * moved * moved;
                    if lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                        (*l, sum_lx, sum_l2) = (moved, lx, l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    (if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }, codes.map(|l| l as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_extremes_the_first_counts() {
        for (x, expected) in [
            (vec![1.0, -3.0, 2.0, 3.0], -3.0),
            (vec![1.0, 3.0, -3.0, 2.0], 3.0),
            (vec![0.5; 40].into_iter().chain([-2.0, f32::NAN, 2.0]).collect(), -2.0),
            (vec![-0.0, 0.0, f32::NAN], 0.0),
        ] {
            assert_eq!(extreme(&x).to_bits(), f32::to_bits(expected), "{x:?}");
        }
    }

    #[test]
    fn truncated_is_what_a_cast_gives() {
        for x in
            (-40..=200).map(|i| i as f32 / 8.0).chain([f32::NAN, f32::INFINITY, -f32::INFINITY, 14.999_999])
        {
            assert_eq!(truncated(x, 15.0), (x as i32).clamp(0, 15) as u8, "{x}");
        }
    }
}
