//! The operations of a network other than matrix products: norms, elementwise operations, activation functions and
//! RoPE.
//!
//! Each operation divides its input into tasks of whole rows, with about [`CHUNK`] floats per task. An input that needs
//! only one task is processed on the calling thread.

use crate::shared::Shared;
use crate::{Backend, ClampedSwiglu};

/// Approximate number of floats per task.
const CHUNK: usize = 16 * 1024;

/// Computes `out` = `x` / √(mean(`x`²) + `epsilon`) × `weight`, for every row of `weight.len()` floats. mean(…) is the
/// mean over the elements of the row.
pub fn rms_norm(backend: &Backend, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    for_each_row(backend, x, weight.len(), out, |x, out| {
        let mean = x.iter().fold(0.0, |sum, x| sum + x * x) / x.len() as f32;
        let scale = 1.0 / (mean + epsilon).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    });
}

/// Computes `out` = (`x` − mean) / √(variance + `epsilon`) × `weight` + `bias`, for every row of `weight.len()` floats.
/// The mean and the variance belong to the row. Source: Ba et al., Layer Normalization, arXiv 1607.06450.
pub fn layer_norm(
    backend: &Backend,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
    out: &mut [f32],
) {
    assert!(bias.is_none_or(|bias| bias.len() == weight.len()), "a bias for every column");
    for_each_row(backend, x, weight.len(), out, |x, out| {
        let (mean, scale) = mean_and_scale(x, epsilon);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = (x - mean) * scale * weight;
        }
        if let Some(bias) = bias {
            out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
        }
    });
}

/// Calls `work(row of x, row of out)` for every row of `columns` floats, in parallel.
fn for_each_row(
    backend: &Backend,
    x: &[f32],
    columns: usize,
    out: &mut [f32],
    work: impl Fn(&[f32], &mut [f32]) + Sync,
) {
    assert!(x.len() == out.len() && x.len().is_multiple_of(columns.max(1)), "rows of {columns} numbers");
    by_rows(backend, out, columns, &|start, out| {
        let x = &x[start..start + out.len()];
        x.chunks_exact(columns).zip(out.chunks_exact_mut(columns)).for_each(|(x, out)| work(x, out));
    });
}

/// Returns the mean of a row and 1 / √(variance + `epsilon`).
pub(crate) fn mean_and_scale(x: &[f32], epsilon: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = x.iter().fold(0.0, |sum, x| sum + x) / count;
    let variance = x.iter().fold(0.0, |sum, x| sum + (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// Computes `x` += `y`.
pub fn add(backend: &Backend, x: &mut [f32], y: &[f32]) {
    elementwise(backend, x, y, |x, y| x + y);
}

/// Computes `x` += `factor` · `y`.
pub fn add_scaled(backend: &Backend, x: &mut [f32], factor: f32, y: &[f32]) {
    elementwise(backend, x, y, |x, y| x + factor * y);
}

/// Computes `x` *= `y`.
pub fn multiply(backend: &Backend, x: &mut [f32], y: &[f32]) {
    elementwise(backend, x, y, |x, y| x * y);
}

/// Computes `x` −= `y`.
pub fn subtract(backend: &Backend, x: &mut [f32], y: &[f32]) {
    elementwise(backend, x, y, |x, y| x - y);
}

/// Replaces every `x[i]` by `operation(x[i], y[i])`.
fn elementwise(backend: &Backend, x: &mut [f32], y: &[f32], operation: impl Fn(f32, f32) -> f32 + Sync) {
    assert_eq!(x.len(), y.len(), "vectors of equal lengths");
    by_rows(backend, x, 1, &|start, x| {
        x.iter_mut().zip(&y[start..]).for_each(|(x, y)| *x = operation(*x, *y));
    });
}

/// Multiplies each row i of `x` by `factors[i]` and writes the result to `out`.
pub fn scale_rows(backend: &Backend, x: &[f32], factors: &[f32], out: &mut [f32]) {
    let columns = x.len() / factors.len().max(1);
    assert!(x.len() == factors.len() * columns && out.len() == x.len(), "a factor for every row");
    by_rows(backend, out, columns, &|start, out| {
        let rows = x[start..].chunks_exact(columns).zip(out.chunks_exact_mut(columns));
        for ((x, out), factor) in rows.zip(&factors[start / columns..]) {
            out.iter_mut().zip(x).for_each(|(out, x)| *out = x * factor);
        }
    });
}

/// Copies row `rows[i]` of `x` to row i of `out`, for each i. A row has `columns` floats.
pub fn copy_rows(backend: &Backend, x: &[f32], columns: usize, rows: &[usize], out: &mut [f32]) {
    assert_eq!(out.len(), rows.len() * columns, "a row for each index");
    by_rows(backend, out, columns, &|start, out| {
        for (out, row) in out.chunks_exact_mut(columns).zip(&rows[start / columns..]) {
            out.copy_from_slice(&x[row * columns..][..columns]);
        }
    });
}

/// Adds groups of rows of `columns` floats with factors: row i of `out` is the sum of the rows of group i of `x`, each
/// multiplied by its factor. Each group has the same number of rows, and `factors` has a number for each row of `x`.
pub fn weighted_sums(backend: &Backend, x: &[f32], factors: &[f32], columns: usize, out: &mut [f32]) {
    assert_eq!(x.len(), factors.len() * columns, "a factor for every row");
    let group = x.len() / out.len().max(1);
    assert_eq!(out.len() * group, x.len(), "equal groups");
    by_rows(backend, out, columns, &|start, out| {
        for (i, out) in out.chunks_exact_mut(columns).enumerate() {
            let first = (start / columns + i) * group;
            out.fill(0.0);
            for row in first..first + group {
                let factor = factors[row];
                let x = &x[row * columns..][..columns];
                out.iter_mut().zip(x).for_each(|(out, x)| *out += factor * x);
            }
        }
    });
}

/// Adds `bias` to every row of `x`.
pub fn add_bias(backend: &Backend, x: &mut [f32], bias: &[f32]) {
    assert!(x.len().is_multiple_of(bias.len().max(1)), "rows of {} numbers", bias.len());
    by_rows(backend, x, bias.len(), &|_, x| {
        for x in x.chunks_exact_mut(bias.len()) {
            for (x, bias) in x.iter_mut().zip(bias) {
                *x += bias;
            }
        }
    });
}

/// Computes `gate` = silu(`gate`) × `up`, where silu(x) = x / (1 + e⁻ˣ).
pub fn swiglu(backend: &Backend, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "a gate for every number");
    let cpu = backend.cpu();
    by_rows(backend, gate, 1, &|start, gate| {
        cpu.swiglu(gate, &up[start..][..gate.len()]);
    });
}

/// Computes `gate` = the clamped SwiGLU of `gate` and `up`.
pub fn clamped_swiglu(backend: &Backend, gate: &mut [f32], up: &[f32], settings: ClampedSwiglu) {
    assert_eq!(gate.len(), up.len(), "a gate for every number");
    let cpu = backend.cpu();
    by_rows(backend, gate, 1, &|start, gate| {
        cpu.clamped_swiglu(gate, &up[start..][..gate.len()], settings);
    });
}

/// Computes `x` = `cap` · tanh(`x` / `cap`).
pub fn softcap(backend: &Backend, x: &mut [f32], cap: f32) {
    let cpu = backend.cpu();
    by_rows(backend, x, 1, &|_, x| cpu.softcap(x, cap));
}

/// Computes `x` = GELU(`x`): GELU(x) = x Φ(x), where Φ is the distribution function of the standard normal distribution.
/// Source: Hendrycks and Gimpel, Gaussian Error Linear Units, arXiv 1606.08415.
pub fn gelu(backend: &Backend, x: &mut [f32]) {
    let cpu = backend.cpu();
    by_rows(backend, x, 1, &|_, x| cpu.gelu(x));
}

/// Computes `x` = GELU(`x`) with the tanh approximation: GELU(x) = x / (1 + e^(−2u)) with u = √(2/π) (x + 0.044715 x³).
/// Source: Hendrycks and Gimpel, Gaussian Error Linear Units, arXiv 1606.08415, section 2.
pub fn gelu_tanh(backend: &Backend, x: &mut [f32]) {
    let cpu = backend.cpu();
    by_rows(backend, x, 1, &|_, x| cpu.gelu_tanh(x));
}

/// Specifies which two elements of a head form a pair. The two elements of a pair are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// Two adjacent elements: (2i, 2i + 1).
    Interleaved,
    /// One element of each half of the rotated part: (i, i + [`Rotation::rotated`] / 2).
    Half,
}

/// Rotary position embeddings (RoPE) of some tokens.
pub struct Rotation<'a> {
    /// Floats per head.
    pub head_size: usize,
    /// Number of floats at the start of every head that are rotated; an even number.
    pub rotated: usize,
    /// Specifies which two of the rotated floats form a pair.
    pub layout: RopeLayout,
    /// Cosines of the angles, with the shape tokens × `rotated / 2`.
    pub cosines: &'a [f32],
    /// Sines of the angles, with the shape tokens × `rotated / 2`.
    pub sines: &'a [f32],
}

/// Rotates the pairs of every head in `x` by the angles of the token. `x` has the shape tokens × heads × head size.
pub fn rope(backend: &Backend, x: &mut [f32], heads: usize, rotation: &Rotation<'_>) {
    let Rotation { head_size, rotated, layout, cosines, sines } = *rotation;
    let (columns, half) = (heads * head_size, rotated / 2);
    assert!(
        rotated.is_multiple_of(2) && rotated <= head_size,
        "the rotated part is an even number of floats, at most {head_size}, not {rotated}"
    );
    assert!(x.len().is_multiple_of(columns.max(1)), "rows of {columns} numbers");
    let tokens = x.len() / columns.max(1);
    assert!(cosines.len() == tokens * half && sines.len() == tokens * half, "angles of {tokens} tokens");
    if half == 0 {
        return;
    }
    by_rows(backend, x, columns, &|start, x| {
        for (i, x) in x.chunks_exact_mut(columns).enumerate() {
            let token = start / columns + i;
            let (cosines, sines) = (&cosines[token * half..][..half], &sines[token * half..][..half]);
            for head in x.chunks_exact_mut(head_size) {
                let head = &mut head[..rotated];
                match layout {
                    RopeLayout::Interleaved => {
                        for ((pair, cos), sin) in
                            head.as_chunks_mut::<2>().0.iter_mut().zip(cosines).zip(sines)
                        {
                            let [a, b] = *pair;
                            *pair = [a * cos - b * sin, a * sin + b * cos];
                        }
                    }
                    RopeLayout::Half => {
                        let (first, second) = head.split_at_mut(half);
                        for ((a, b), (cos, sin)) in
                            first.iter_mut().zip(second).zip(cosines.iter().zip(sines))
                        {
                            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                        }
                    }
                }
            }
        }
    });
}

/// Divides `x` into parts of whole rows, with about [`CHUNK`] floats per part. Calls `work(start, part)` for each part,
/// in parallel. `start` is the index in `x` of the first float of the part.
pub(crate) fn by_rows(
    backend: &Backend,
    x: &mut [f32],
    columns: usize,
    work: &(dyn Fn(usize, &mut [f32]) + Sync),
) {
    if x.is_empty() {
        return;
    }
    let (length, part) = (x.len(), (CHUNK / columns).max(1) * columns);
    let x = Shared::new(x);
    backend.pool().run(length.div_ceil(part), &|task| {
        let start = task * part;
        // SAFETY: the parts of different tasks are disjoint.
        work(start, unsafe { x.part(start, part.min(length - start)) });
    });
}
