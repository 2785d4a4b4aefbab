//! The inner loops in plain Rust with arrays of lanes, which the compiler vectorizes. The loops are inlined into
//! functions of each instruction set.
//!
//! `FUSED` is true if the instruction set has fused multiply-add. Without this instruction, `mul_add` would be a slow
//! function call.

use crate::ClampedSwiglu;
use crate::view::View;

/// Number of lanes of a sum: the number of floats in four vectors of eight floats.
const LANES: usize = 32;

/// Returns a · b + c, with one rounding if `FUSED` is true, otherwise with two.
#[inline(always)]
pub(crate) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Returns the dot product of `x` and `y`. The sum has 32 lanes, which are added pairwise at the end. Panics if the
/// lengths differ.
#[inline(always)]
pub(crate) fn dot<const FUSED: bool>(x: &[f32], y: &[f32]) -> f32 {
    assert_eq!(x.len(), y.len(), "a dot product of equal lengths");
    let mut lanes = [0.0f32; LANES];
    let (x, y) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.0.iter().zip(y.0) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane = multiply_add::<FUSED>(*x, *y, *lane);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(x.1).zip(y.1) {
        *lane = multiply_add::<FUSED>(*x, *y, *lane);
    }
    reduce_pairwise(lanes, plus)
}

#[inline(always)]
pub(crate) fn plus(a: f32, b: f32) -> f32 {
    a + b
}

/// Returns b if b is larger than a, otherwise a.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Reduces the lanes to one value: combines the upper half with the lower half until one lane remains. `N` is a power
/// of two.
#[inline(always)]
pub(crate) fn reduce_pairwise<const N: usize>(mut lanes: [f32; N], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = combine(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Returns the XOR of the 64-bit words of all whole lines of 64 bytes. Calls `prefetch` with the address of each line.
#[inline(always)]
pub(crate) fn read_lines(bytes: &[u8], prefetch: impl Fn(*const u8)) -> u64 {
    let mut sums = [0u64; 8];
    for line in bytes.as_chunks::<64>().0 {
        prefetch(line.as_ptr());
        for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum ^= u64::from_ne_bytes(*word);
        }
    }
    sums.into_iter().fold(0, |all, sum| all ^ sum)
}

/// Number of rows of `b` that [`add_few`] multiplies before it continues with the next rows of `b`. One cache line of
/// each of these rows stays in the first-level cache.
const DEPTH: usize = 32;
/// Number of floats of a row that are summed at the same time: one cache line.
const LINE: usize = 16;

/// Computes `out` += `a` · `b`. The rows of `out` are `stride` floats apart. A row of `a` has `b.rows()` floats.
#[inline(always)]
pub(crate) fn add_few<const FUSED: bool>(out: &mut [f32], stride: usize, a: &[f32], b: View<f32>) {
    let rows = a.len() / b.rows();
    let full_columns = b.columns() / LINE * LINE;
    for from in (0..b.rows()).step_by(DEPTH) {
        let depth = from..b.rows().min(from + DEPTH);
        for at in (0..full_columns).step_by(LINE) {
            let mut first = 0;
            while first < rows {
                let out = &mut out[first * stride + at..];
                macro_rules! add {
                    ($rows:literal) => {{
                        let a = std::array::from_fn(|row| &a[(first + row) * b.rows()..][..b.rows()]);
                        add_rows::<FUSED, $rows>(out, stride, a, b, at, depth.clone());
                        first += $rows;
                    }};
                }
                match rows - first {
                    1 => add!(1),
                    2 | 3 => add!(2),
                    _ => add!(4),
                }
            }
        }
        for (row, a) in a.chunks_exact(b.rows()).enumerate() {
            for k in depth.clone() {
                let b = &b.row(k)[full_columns..];
                for (sum, b) in out[row * stride + full_columns..].iter_mut().zip(b) {
                    *sum = multiply_add::<FUSED>(a[k], *b, *sum);
                }
            }
        }
    }
}

/// Computes [`add_few`] for one cache line (16 columns from column `at` on) of `ROWS` rows of the result, and for the
/// rows `depth` of `b`. Four rows of a line fill eight vectors of eight floats.
#[inline(always)]
fn add_rows<const FUSED: bool, const ROWS: usize>(
    out: &mut [f32],
    stride: usize,
    a: [&[f32]; ROWS],
    b: View<f32>,
    at: usize,
    depth: std::ops::Range<usize>,
) {
    let mut sums: [[f32; LINE]; ROWS] =
        std::array::from_fn(|row| *out[row * stride..].first_chunk().expect("a whole line"));
    for k in depth {
        let b = b.row(k)[at..].first_chunk::<LINE>().expect("a whole line");
        for (sums, a) in sums.iter_mut().zip(a) {
            let a = a[k];
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = multiply_add::<FUSED>(a, *b, *sum);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        out[row * stride..][..LINE].copy_from_slice(sums);
    }
}

/// Returns eˣ with an error of at most two units in the last place. Returns 0 if x is below −87, infinity if x is above
/// 88, and NaN if x is NaN.
///
/// The function computes an integer n and a remainder r with x = n ln 2 + r and |r| ≤ ln 2 / 2. The result is 2ⁿ · eʳ.
/// The bits of 2ⁿ are computed directly. eʳ is computed with its Taylor series up to r⁷.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(x: f32) -> f32 {
    // 1.5 · 2²³. After this constant is added to a value, the last bits of the sum are the nearest integer.
    const ROUNDING: f32 = 12_582_912.0;
    // ln 2 as a sum of two parts. The first part has few bits, so its products with n are exact.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    const COEFFICIENTS: [f32; 6] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];
    let clamped = if x < -87.0 { -87.0 } else { x };
    let clamped = if clamped > 88.0 { 88.0 } else { clamped };
    let shifted = multiply_add::<FUSED>(clamped, std::f32::consts::LOG2_E, ROUNDING);
    let n = shifted - ROUNDING;
    let r = multiply_add::<FUSED>(-n, LN_2.1, multiply_add::<FUSED>(-n, LN_2.0, clamped));
    let mut sum = 1.0 / 5040.0;
    for coefficient in COEFFICIENTS {
        sum = multiply_add::<FUSED>(sum, r, coefficient);
    }
    let sum = multiply_add::<FUSED>(sum, r, 1.0);
    let result = sum * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    let result = if x < -87.0 { 0.0 } else { result };
    if x > 88.0 { f32::INFINITY } else { result }
}

/// Computes softmax of `x` in place.
#[inline(always)]
pub(crate) fn softmax<const FUSED: bool>(x: &mut [f32]) {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    for part in x.chunks(LANES) {
        maxima.iter_mut().zip(part).for_each(|(maximum, &x)| *maximum = larger(*maximum, x));
    }
    let maximum = maxima.into_iter().fold(f32::NEG_INFINITY, larger);
    let mut sums = [0.0f32; LANES];
    for part in x.chunks_mut(LANES) {
        for (sum, x) in sums.iter_mut().zip(part) {
            *x = exp::<FUSED>(*x - maximum);
            *sum += *x;
        }
    }
    let inverse = 1.0 / reduce_pairwise(sums, plus);
    x.iter_mut().for_each(|x| *x *= inverse);
}

/// Computes `gate` = silu(`gate`) × `up`.
#[inline(always)]
pub(crate) fn swiglu<const FUSED: bool>(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp::<FUSED>(-*gate)) * up;
    }
}

/// Computes the gradients of [`swiglu`] in place. `gate` and `up` are the inputs of [`swiglu`]; the function replaces
/// them by the gradients with respect to these inputs. `gradient` is the gradient with respect to the output.
#[inline(always)]
pub(crate) fn swiglu_gradient<const FUSED: bool>(gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
    for ((gate, up), gradient) in gate.iter_mut().zip(up).zip(gradient) {
        let sigmoid = 1.0 / (1.0 + exp::<FUSED>(-*gate));
        let silu = *gate * sigmoid;
        let slope = sigmoid + silu * (1.0 - sigmoid);
        (*gate, *up) = (gradient * *up * slope, gradient * silu);
    }
}

/// Computes the clamped SwiGLU of `gate` and `up` in place of `gate`; see [`ClampedSwiglu`].
#[inline(always)]
pub(crate) fn clamped_swiglu<const FUSED: bool>(gate: &mut [f32], up: &[f32], settings: ClampedSwiglu) {
    for (gate, up) in gate.iter_mut().zip(up) {
        let (clamped, up) = settings.clamp(*gate, *up);
        *gate = clamped / (1.0 + exp::<FUSED>(-settings.alpha * clamped)) * (up + 1.0);
    }
}

/// Computes the gradients of [`clamped_swiglu`] in place, as [`swiglu_gradient`] does for [`swiglu`].
#[inline(always)]
pub(crate) fn clamped_swiglu_gradient<const FUSED: bool>(
    gate: &mut [f32],
    up: &mut [f32],
    gradient: &[f32],
    settings: ClampedSwiglu,
) {
    for ((gate, up), gradient) in gate.iter_mut().zip(up).zip(gradient) {
        let (clamped_gate, clamped_up) = settings.clamp(*gate, *up);
        let (gate_moves, up_moves) = settings.moves(*gate, *up);
        let sigmoid = 1.0 / (1.0 + exp::<FUSED>(-settings.alpha * clamped_gate));
        let activated = clamped_gate * sigmoid;
        let slope = sigmoid + settings.alpha * activated * (1.0 - sigmoid);
        *gate = gradient * (clamped_up + 1.0) * slope * gate_moves;
        *up = gradient * activated * up_moves;
    }
}

/// Computes `cap` · tanh(x / `cap`) in place, with tanh(y) = 1 − 2 / (e^(2y) + 1).
#[inline(always)]
pub(crate) fn softcap<const FUSED: bool>(x: &mut [f32], cap: f32) {
    for x in x {
        *x = cap * (1.0 - 2.0 / (exp::<FUSED>(2.0 * *x / cap) + 1.0));
    }
}

/// Returns Φ(x), the distribution function of the standard normal distribution, and e^(−x²/2). The error of Φ is below
/// 1e-6.
///
/// With y = |x| / √2: Φ(|x|) = 1 − erfc(y) / 2, and erfc(y) ≈ p(t) e^(−y²), where t = 1 / (1 + 0.3275911 y) and p is a
/// polynomial. Source: Abramowitz and Stegun, Handbook of Mathematical Functions, formula 7.1.26.
#[inline(always)]
fn normal_distribution<const FUSED: bool>(x: f32) -> (f32, f32) {
    const COEFFICIENTS: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let density = exp::<FUSED>(-0.5 * x * x);
    let mut sum = 0.0;
    for coefficient in COEFFICIENTS {
        sum = multiply_add::<FUSED>(sum, t, coefficient);
    }
    let upper_tail = 0.5 * sum * t * density;
    (if x < 0.0 { upper_tail } else { 1.0 - upper_tail }, density)
}

/// Computes GELU of `x` in place: x Φ(x).
#[inline(always)]
pub(crate) fn gelu<const FUSED: bool>(x: &mut [f32]) {
    for x in x {
        *x *= normal_distribution::<FUSED>(*x).0;
    }
}

/// 1 / √(2π), the largest density of the standard normal distribution.
pub(crate) const LARGEST_DENSITY: f32 = 0.398_942_3;

/// Computes the gradient of [`gelu`] in place. `x` is the input of [`gelu`]; the function replaces `x` by the gradient
/// with respect to this input. `gradient` is the gradient with respect to the output.
#[inline(always)]
pub(crate) fn gelu_gradient<const FUSED: bool>(x: &mut [f32], gradient: &[f32]) {
    for (x, gradient) in x.iter_mut().zip(gradient) {
        let (distribution, density) = normal_distribution::<FUSED>(*x);
        *x = gradient * (distribution + *x * density * LARGEST_DENSITY);
    }
}

/// √(2/π), the outer factor inside the tanh of GELU.
pub(crate) const GELU_SLOPE: f32 = 0.797_884_6;
/// The factor of x³ inside the tanh of GELU.
pub(crate) const GELU_CUBE: f32 = 0.044_715;

/// Computes GELU of `x` in place; [`crate::ops::gelu_tanh`] has the formula.
#[inline(always)]
pub(crate) fn gelu_tanh<const FUSED: bool>(x: &mut [f32]) {
    for x in x {
        let u = GELU_SLOPE * (*x + GELU_CUBE * *x * *x * *x);
        *x /= 1.0 + exp::<FUSED>(-2.0 * u);
    }
}

/// Computes the gradient of [`gelu_tanh`] in place. `x` is the input of [`gelu_tanh`]; the function replaces `x` by the
/// gradient with respect to this input. `gradient` is the gradient with respect to the output.
#[inline(always)]
pub(crate) fn gelu_tanh_gradient<const FUSED: bool>(x: &mut [f32], gradient: &[f32]) {
    for (x, gradient) in x.iter_mut().zip(gradient) {
        let u = GELU_SLOPE * (*x + GELU_CUBE * *x * *x * *x);
        let slope = GELU_SLOPE * (1.0 + 3.0 * GELU_CUBE * *x * *x);
        let sigmoid = 1.0 / (1.0 + exp::<FUSED>(-2.0 * u));
        *x = gradient * (sigmoid + 2.0 * *x * slope * sigmoid * (1.0 - sigmoid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_nearly_exact() {
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            for found in [exp::<false>(x), exp::<true>(x)] {
                assert!((f64::from(found) / exact - 1.0).abs() < 2.5e-7, "{x}: {found}, not {exact}");
            }
        }
        assert_eq!((exp::<true>(f32::NEG_INFINITY), exp::<true>(-1e9)), (0.0, 0.0));
        assert_eq!(exp::<true>(f32::INFINITY), f32::INFINITY);
        assert!(exp::<true>(f32::NAN).is_nan());
    }
}
