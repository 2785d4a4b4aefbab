//! The scale searches that several formats share: upstream's, in fixed order, without fused multiply-add.
//!
//! Source: llama.cpp's `ggml/src/ggml-quants.c` (`make_qx_quants`, `make_qkx2_quants`, `quantize_row_iq4_nl_impl`),
//! which the encoded bytes have to equal where the rounding is a search's result. Each returns scales as real
//! numbers; the caller stores them and rounds codes against what is stored.

/// Below this a group counts as zero.
pub(super) const ZERO_GROUP: f32 = 1e-15;

/// Rounds to nearest, ties to even, for |x| < 2²²; beyond it the result is meaningless but defined.
#[inline(always)]
pub(super) fn nearest_int(x: f32) -> i32 {
    // Adding 1.5·2²³ leaves the rounded integer in the low mantissa bits: unlike a call of `round`, this vectorizes
    // on every instruction set.
    ((x + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// The element of largest magnitude, with its sign; 0 for an empty or all-NaN group.
pub(super) fn extreme(x: &[f32]) -> f32 {
    let (mut magnitude, mut extreme) = (0.0f32, 0.0f32);
    for &v in x {
        if v.abs() > magnitude {
            magnitude = v.abs();
            extreme = v;
        }
    }
    extreme
}

/// Smallest and largest element; NaN is passed over.
pub(super) fn range(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::MAX, -f32::MAX), |(min, max), &v| {
        (if v < min { v } else { min }, if v > max { v } else { max })
    })
}

/// Weights of a group's squared errors: `importance · sqrt(σ² + x²)` where there is importance, else `default(x)`.
pub(super) fn weights<const N: usize>(
    x: &[f32],
    importance: Option<&[f32]>,
    mean_square: f32,
    default: impl Fn(f32) -> f32,
) -> [f32; N] {
    let mut weights = [0.0; N];
    match importance {
        Some(importance) => {
            for ((w, &x), &i) in weights.iter_mut().zip(x).zip(importance) {
                *w = i * (mean_square + x * x).sqrt();
            }
        }
        None => weights.iter_mut().zip(x).for_each(|(w, &x)| *w = default(x)),
    }
    weights
}

pub(super) fn mean_square(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, v| sum + v * v) / x.len() as f32
}

/// Scale for `x ≈ scale · l`, `l` in `−n..n`: the best of 19 starting scales around the extreme, each refit by
/// weighted least squares.
pub(super) fn symmetric<const N: usize>(n: i32, x: &[f32; N], weights: &[f32; N]) -> f32 {
    let max = extreme(x);
    if max.abs() < ZERO_GROUP {
        return 0.0;
    }
    let sums = |inverse: f32| {
        let (mut sum_lx, mut sum_l2) = (0.0f32, 0.0f32);
        for (&x, &w) in x.iter().zip(weights) {
            let l = nearest_int(inverse * x).clamp(-n, n - 1) as f32;
            sum_lx += w * x * l;
            sum_l2 += w * l * l;
        }
        (sum_lx, sum_l2)
    };
    let (sum_lx, sum_l2) = sums(-(n as f32) / max);
    let mut scale = if sum_l2 != 0.0 { sum_lx / sum_l2 } else { 0.0 };
    let mut best = scale * sum_lx;
    for step in (-9..=9).filter(|&s| s != 0) {
        let (sum_lx, sum_l2) = sums(-(n as f32 + 0.1 * step as f32) / max);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
        }
    }
    scale
}

/// The starting scales of [`affine`]: `(first + step · i + n) / range` for `i` in `0..=count`.
#[derive(Clone, Copy)]
pub(super) struct Ladder {
    pub first: f32,
    pub step: f32,
    pub count: usize,
}

/// Scale and (not negative) minimum for `x ≈ scale · l − minimum`, `l` in `0..=n`: the best of a ladder of starting
/// scales, each refit by weighted least squares.
pub(super) fn affine<const N: usize>(n: i32, x: &[f32; N], weights: &[f32; N], ladder: Ladder) -> (f32, f32) {
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (weights[0], weights[0] * x[0]);
    for (&x, &w) in x.iter().zip(weights).skip(1) {
        min = if x < min { x } else { min };
        max = if x > max { x } else { max };
        sum_w += w;
        sum_x += w * x;
    }
    min = if min > 0.0 { 0.0 } else { min };
    if max == min {
        return (0.0, -min);
    }
    let error = |scale: f32, min: f32, codes: &[f32; N]| {
        let mut sum = 0.0f32;
        for ((&x, &w), &l) in x.iter().zip(weights).zip(codes) {
            let difference = scale * l + min - x;
            sum += w * (difference * difference);
        }
        sum
    };
    let base = min;
    let round = |inverse: f32, codes: &mut [f32; N]| {
        for (l, &x) in codes.iter_mut().zip(x) {
            *l = nearest_int(inverse * (x - base)).clamp(0, n) as f32;
        }
    };
    let mut codes = [0.0f32; N];
    let inverse = n as f32 / (max - min);
    let mut scale = 1.0 / inverse;
    round(inverse, &mut codes);
    let mut best = error(scale, min, &codes);
    // As upstream, every later start is measured from the minimum found so far.
    let mut start = min;
    for step in 0..=ladder.count {
        let inverse = (ladder.first + ladder.step * step as f32 + n as f32) / (max - start);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for ((l, &x), &w) in codes.iter_mut().zip(x).zip(weights) {
            *l = nearest_int(inverse * (x - start)).clamp(0, n) as f32;
            sum_l += w * *l;
            sum_l2 += w * *l * *l;
            sum_xl += w * *l * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if this_min > 0.0 {
                this_min = 0.0;
                this_scale = sum_xl / sum_l2;
            }
            let this = error(this_scale, this_min, &codes);
            if this < best {
                (best, scale, start) = (this, this_scale, this_min);
            }
        }
    }
    (scale, -start)
}

/// The index in an ascending table nearest to `x`, the higher on a tie, the first for NaN.
#[inline]
pub(super) fn nearest_in(table: &[i8; 16], x: f32) -> u8 {
    // Counting the midpoints that lie at or below has no branches; the table is short.
    let mut index = 0;
    for pair in table.windows(2) {
        let (low, high) = (f32::from(pair[0]), f32::from(pair[1]));
        index += u8::from(x - low >= high - x);
    }
    index
}

/// Scale for `x ≈ scale · table[l]`: the best of 15 starting scales around the extreme, each refit by weighted
/// least squares.
pub(super) fn table(values: &[i8; 16], x: &[f32; 32], weights: &[f32; 32]) -> f32 {
    const TRIES: i32 = 7;
    let max = extreme(x);
    if max.abs() < ZERO_GROUP {
        return 0.0;
    }
    let sums = |inverse: f32| {
        let (mut sum_qx, mut sum_q2) = (0.0f32, 0.0f32);
        for (&x, &w) in x.iter().zip(weights) {
            let q = f32::from(values[usize::from(nearest_in(values, inverse * x))]);
            sum_qx += w * q * x;
            sum_q2 += w * q * q;
        }
        (sum_qx, sum_q2)
    };
    let (sum_qx, sum_q2) = sums(1.0 / (-max / f32::from(values[0])));
    let mut scale = if sum_q2 > 0.0 { sum_qx / sum_q2 } else { 0.0 };
    let mut best = scale * sum_qx;
    for step in -TRIES..=TRIES {
        let (sum_qx, sum_q2) = sums((step + i32::from(values[0])) as f32 / max);
        if sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2 {
            scale = sum_qx / sum_q2;
            best = scale * sum_qx;
        }
    }
    scale
}
