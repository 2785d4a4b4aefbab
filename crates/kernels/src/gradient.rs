//! Backward passes of a network's operations.
//!
//! Each function takes the input of an operation, and the gradient of a scalar (the loss) with respect to the result of
//! the operation. The function computes the gradient of the loss with respect to the input.
//!
//! Invariant: only the shapes determine the order of every sum.
//!
//! Not covered here: gradients with respect to weights; products with a stored matrix, see
//! [`crate::Matrix::add_transposed`].

use crate::dense::{View, product};
use crate::ops::{by_rows, mean_and_scale};
use crate::shared::Shared;
use crate::{AttentionShape, Backend, ClampedSwiglu, Qkv, scratch};

/// Number of queries whose scores are in memory at the same time, per task.
const QUERY_BLOCK: usize = 32;

/// Adds the gradient with respect to the input `x` of [`crate::ops::rms_norm`] to `out`. `gradient` is the gradient
/// with respect to the result of the operation.
///
/// Formula for each row x: s (h − x s² mean(h x)). Here s = 1 / √(mean(x²) + `epsilon`), h = gradient × weight, and
/// mean(…) is the mean over the elements of the row.
pub fn add_rms_norm(
    backend: &Backend,
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    gradient: &[f32],
    out: &mut [f32],
) {
    let columns = weight.len();
    for_each_row(backend, x, columns, gradient, out, |x, gradient, out| {
        let mean = x.iter().fold(0.0, |sum, x| sum + x * x) / columns as f32;
        let scale = 1.0 / (mean + epsilon).sqrt();
        let mean_hx = (0..columns).fold(0.0, |sum, i| sum + gradient[i] * weight[i] * x[i]) / columns as f32;
        for i in 0..columns {
            out[i] += scale * (gradient[i] * weight[i] - x[i] * scale * scale * mean_hx);
        }
    });
}

/// Adds the gradient with respect to the input `x` of [`crate::ops::layer_norm`] to `out`. `gradient` is the gradient
/// with respect to the result of the operation.
///
/// Formula for each row x: s (h − mean(h) − n mean(h n)). Here s = 1 / √(variance(x) + `epsilon`), n = (x − mean(x)) s,
/// h = gradient × weight, and mean(…) is the mean over the elements of the row.
pub fn add_layer_norm(
    backend: &Backend,
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    gradient: &[f32],
    out: &mut [f32],
) {
    let columns = weight.len();
    for_each_row(backend, x, columns, gradient, out, |x, gradient, out| {
        let (mean, scale) = mean_and_scale(x, epsilon);
        let (mut sum_h, mut sum_hn) = (0.0, 0.0);
        for i in 0..columns {
            let h = gradient[i] * weight[i];
            sum_h += h;
            sum_hn += h * (x[i] - mean) * scale;
        }
        let (mean_h, mean_hn) = (sum_h / columns as f32, sum_hn / columns as f32);
        for i in 0..columns {
            out[i] += scale * (gradient[i] * weight[i] - mean_h - (x[i] - mean) * scale * mean_hn);
        }
    });
}

/// Calls `work(row of x, row of gradient, row of out)` for every row of `columns` floats, in parallel.
fn for_each_row(
    backend: &Backend,
    x: &[f32],
    columns: usize,
    gradient: &[f32],
    out: &mut [f32],
    work: impl Fn(&[f32], &[f32], &mut [f32]) + Sync,
) {
    assert!(x.len() == out.len() && x.len() == gradient.len(), "gradients of {} numbers", x.len());
    by_rows(backend, out, columns, &|start, out| {
        let rows = x[start..].chunks_exact(columns).zip(gradient[start..].chunks_exact(columns));
        for ((x, gradient), out) in rows.zip(out.chunks_exact_mut(columns)) {
            work(x, gradient, out);
        }
    });
}

/// Replaces the input `x` of [`crate::ops::gelu`] by the gradient with respect to `x`. `gradient` is the gradient with
/// respect to the result of the operation.
pub fn gelu(backend: &Backend, x: &mut [f32], gradient: &[f32]) {
    assert_eq!(x.len(), gradient.len(), "a gradient for every number");
    let cpu = backend.cpu();
    by_rows(backend, x, 1, &|start, x| {
        cpu.gelu_gradient(x, &gradient[start..][..x.len()]);
    });
}

/// Replaces the input `x` of [`crate::ops::gelu_tanh`] by the gradient with respect to `x`. `gradient` is the gradient
/// with respect to the result of the operation.
pub fn gelu_tanh(backend: &Backend, x: &mut [f32], gradient: &[f32]) {
    assert_eq!(x.len(), gradient.len(), "a gradient for every number");
    let cpu = backend.cpu();
    by_rows(backend, x, 1, &|start, x| {
        cpu.gelu_tanh_gradient(x, &gradient[start..][..x.len()]);
    });
}

/// Replaces the inputs `gate` and `up` of [`crate::ops::swiglu`] by the gradients with respect to these inputs.
/// `gradient` is the gradient with respect to the result of the operation.
pub fn swiglu(backend: &Backend, gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
    assert!(gate.len() == up.len() && gate.len() == gradient.len(), "a gradient for every gate");
    let (cpu, up) = (backend.cpu(), Shared::new(up));
    by_rows(backend, gate, 1, &|start, gate| {
        // SAFETY: tasks have disjoint ranges of `gate`, so their ranges of `up` are disjoint too.
        let up = unsafe { up.part(start, gate.len()) };
        cpu.swiglu_gradient(gate, up, &gradient[start..][..gate.len()]);
    });
}

/// Replaces the inputs `gate` and `up` of [`crate::ops::clamped_swiglu`] by the gradients with respect to these inputs.
/// `gradient` is the gradient with respect to the result of the operation.
pub fn clamped_swiglu(
    backend: &Backend,
    gate: &mut [f32],
    up: &mut [f32],
    gradient: &[f32],
    settings: ClampedSwiglu,
) {
    assert!(gate.len() == up.len() && gate.len() == gradient.len(), "a gradient for every gate");
    let (cpu, up) = (backend.cpu(), Shared::new(up));
    by_rows(backend, gate, 1, &|start, gate| {
        // SAFETY: tasks have disjoint ranges of `gate`, so their ranges of `up` are disjoint too.
        let up = unsafe { up.part(start, gate.len()) };
        cpu.clamped_swiglu_gradient(gate, up, &gradient[start..][..gate.len()], settings);
    });
}

/// Returns the gradients with respect to the inputs of [`crate::attention`], for one sequence without earlier
/// positions. `gradient` is the gradient with respect to the result of the operation.
///
/// Formulas for one head: Q, K and V are the matrices of queries, keys and values, with one row per position. The
/// scores are S = scale Q Kᵀ, the probabilities are P = softmax(S), and the result is O = P V. dX is the gradient with
/// respect to X, ∘ is the element-wise product, and rowsum(…) is the sum of each row.
///
/// dV = Pᵀ dO; dS = P ∘ (dO Vᵀ − rowsum(P ∘ dO Vᵀ)); dQ = scale dS K; dK = scale dSᵀ Q.
///
/// With a soft cap c, the probabilities are P = softmax(c T) with T = tanh(S / c), and dS has the factor 1 − T ∘ T. A
/// sink is one more column of S in the softmax. Its value is 0, so it has no part in rowsum(…).
pub fn attention(backend: &Backend, shape: &AttentionShape, qkv: &Qkv, gradient: &[f32]) -> Qkv {
    let &AttentionShape { heads, kv_heads, head_size, scale, softcap, .. } = shape;
    let (columns, kv_columns) = (heads * head_size, kv_heads * head_size);
    let n = qkv.query.len() / columns;
    assert!(qkv.query.len() == n * columns && gradient.len() == n * columns, "queries are rows of {columns}");
    assert!(qkv.key.len() == n * kv_columns && qkv.value.len() == n * kv_columns, "keys of {n} positions");
    let mut out = Qkv {
        query: vec![0.0; n * columns],
        key: vec![0.0; n * kv_columns],
        value: vec![0.0; n * kv_columns],
    };
    let (group, cpu) = (heads / kv_heads, backend.cpu());
    let queries = Shared::new(&mut out.query);
    let (keys, values) = (Shared::new(&mut out.key), Shared::new(&mut out.value));
    backend.pool().run(kv_heads, &|kv_head| {
        let offset = kv_head * head_size;
        let (mut key_sum, mut value_sum) = (vec![0.0f32; n * head_size], vec![0.0f32; n * head_size]);
        let key = |seen| View::new(&qkv.key[offset..], seen, head_size, kv_columns);
        let value = |seen| View::new(&qkv.value[offset..], seen, head_size, kv_columns);
        for head in kv_head * group..(kv_head + 1) * group {
            for start in (0..n).step_by(QUERY_BLOCK) {
                let count = QUERY_BLOCK.min(n - start);
                let seen = if shape.causal { start + count } else { n };
                let at = start * columns + head * head_size;
                let query = View::new(&qkv.query[at..], count, head_size, columns);
                let gradient = View::new(&gradient[at..], count, head_size, columns);
                scratch::with(2 * count * seen + count * head_size, |buffer| {
                    let (probabilities, rest) = buffer.split_at_mut(count * seen);
                    let (score_gradients, query_sums) = rest.split_at_mut(count * seen);
                    product(probabilities, seen, 0.0, scale, query, key(seen).transposed());
                    product(score_gradients, seen, 0.0, 1.0, gradient, value(seen).transposed());
                    let rows =
                        probabilities.chunks_exact_mut(seen).zip(score_gradients.chunks_exact_mut(seen));
                    for (i, (probabilities, score_gradients)) in rows.enumerate() {
                        let read = shape.read(start + i, n);
                        let (visible, hidden) = probabilities.split_at_mut(read.end);
                        hidden.fill(0.0);
                        let (before_window, visible) = visible.split_at_mut(read.start);
                        before_window.fill(0.0);
                        // The derivative of the soft cap, for each visible score.
                        let cap_derivatives = softcap.map(|cap| apply_softcap(visible, cap));
                        match &shape.sinks {
                            None => cpu.softmax(visible),
                            Some(sinks) => {
                                let share = share_beside_sink(visible, sinks[head]);
                                cpu.softmax(visible);
                                visible.iter_mut().for_each(|probability| *probability *= share);
                            }
                        }
                        let row_sum = cpu.dot(probabilities, score_gradients);
                        score_gradients.iter_mut().zip(&*probabilities).for_each(
                            |(score_gradient, probability)| {
                                *score_gradient = probability * (*score_gradient - row_sum)
                            },
                        );
                        if let Some(derivatives) = cap_derivatives {
                            let visible = &mut score_gradients[read];
                            visible.iter_mut().zip(derivatives).for_each(|(x, derivative)| *x *= derivative);
                        }
                    }
                    let probabilities = View::new(probabilities, count, seen, seen).transposed();
                    product(&mut value_sum[..seen * head_size], head_size, 1.0, 1.0, probabilities, gradient);
                    let score_gradients = View::new(score_gradients, count, seen, seen);
                    product(
                        &mut key_sum[..seen * head_size],
                        head_size,
                        1.0,
                        scale,
                        score_gradients.transposed(),
                        query,
                    );
                    product(query_sums, head_size, 0.0, scale, score_gradients, key(seen));
                    for (i, sum) in query_sums.chunks_exact(head_size).enumerate() {
                        // SAFETY: each task writes the queries of its own heads, so no other task accesses them.
                        let out =
                            unsafe { queries.part((start + i) * columns + head * head_size, head_size) };
                        out.copy_from_slice(sum);
                    }
                });
            }
        }
        for (i, (key, value)) in
            key_sum.chunks_exact(head_size).zip(value_sum.chunks_exact(head_size)).enumerate()
        {
            let at = i * kv_columns + offset;
            // SAFETY: each task writes its own head of the keys and values, so no other task accesses it.
            unsafe {
                keys.part(at, head_size).copy_from_slice(key);
                values.part(at, head_size).copy_from_slice(value);
            }
        }
    });
    out
}

/// Replaces each score x by cap · tanh(x / cap), and returns the derivatives.
fn apply_softcap(scores: &mut [f32], cap: f32) -> Vec<f32> {
    let apply = |x: &mut f32| {
        let tanh = (*x / cap).tanh();
        *x = cap * tanh;
        1.0 - tanh * tanh
    };
    scores.iter_mut().map(apply).collect()
}

/// Returns the sum of the probabilities of `scores` if `sink` is one more score.
fn share_beside_sink(scores: &[f32], sink: f32) -> f32 {
    let maximum = scores.iter().copied().fold(sink, f32::max);
    let sum: f32 = scores.iter().map(|x| (x - maximum).exp()).sum();
    sum / (sum + (sink - maximum).exp())
}
