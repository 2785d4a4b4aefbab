//! Gradients of the gated delta rule and of the short convolution, for one whole sequence from an empty state.

use super::{Convolution, DeltaInput, DeltaShape, TILE, TileToken, with_token};
use crate::Backend;
use crate::shared::Shared;

/// Gradients with respect to the inputs of [`super::delta_rule`].
#[derive(Clone, Debug)]
pub struct DeltaGradient {
    /// At the queries, tokens × key heads × key size.
    pub query: Vec<f32>,
    /// At the keys, as the queries.
    pub key: Vec<f32>,
    /// At the values, tokens × value heads × value size.
    pub value: Vec<f32>,
    /// At the logarithms of the decays, tokens × value heads.
    pub log_decay: Vec<f32>,
    /// At the strengths, tokens × value heads.
    pub strength: Vec<f32>,
}

/// Computes the gradients of [`super::delta_rule`] with respect to its inputs. `gradient` is the gradient with respect to
/// the results.
///
/// With the state S before a token, S' = a S, d = β (v − S'ᵀ k) and S'' = S' + k dᵀ, and the gradient D at S'' from later
/// tokens: D ← D + q gᵀ; at q: S'' g; at d: e = Dᵀ k; at v: β e; at β: e · (v − S'ᵀ k); at k: D d − β S' e; D ← D − β k eᵀ;
/// at log a: Σ D ∘ S'; D ← a D.
pub fn delta_rule_gradient(
    backend: &Backend,
    shape: &DeltaShape,
    input: &DeltaInput,
    gradient: &[f32],
) -> DeltaGradient {
    let tokens = input.tokens(shape);
    assert_eq!(gradient.len(), input.value.len(), "a gradient for each result");
    let (heads, size) = (shape.value_heads, shape.key_size);
    // Value heads that share a key head are added at the end, in the order of the heads.
    let mut of_queries = vec![0.0; heads * tokens * size];
    let mut of_keys = of_queries.clone();
    let mut of_scalars = vec![0.0; heads * tokens * 2];
    let mut value = vec![0.0; input.value.len()];
    {
        let [queries, keys, scalars, values] =
            [&mut of_queries, &mut of_keys, &mut of_scalars, &mut value].map(|all| Shared::new(all));
        backend.pool().run(heads, &|head| {
            // SAFETY: each task has its own head.
            let [queries, keys] =
                [&queries, &keys].map(|all| unsafe { all.part(head * tokens * size, tokens * size) });
            // SAFETY: as above.
            let scalars = unsafe { scalars.part(head * tokens * 2, tokens * 2) };
            for tile in 0..shape.tiles() {
                let states = states_before(shape, input, head, tile, tokens);
                let mut after = vec![[0.0f32; TILE]; size];
                for token in (0..tokens).rev() {
                    let width = shape.tile_width(tile);
                    let start = shape.value_start(token, head, tile);
                    let mut own = [0.0; TILE];
                    own[..width].copy_from_slice(&gradient[start..][..width]);
                    let of_value = with_token(shape, input, token, head, tile, |at| {
                        let sums = (&mut queries[token * size..][..size], &mut keys[token * size..][..size]);
                        let scalars = &mut scalars[token * 2..][..2];
                        step_back(&states[token * size..][..size], at, &own, &mut after, sums, scalars)
                    });
                    // SAFETY: each task writes the columns of its own head.
                    let out = unsafe { values.part(start, width) };
                    out.copy_from_slice(&of_value[..width]);
                }
            }
        });
    }
    let mut result = DeltaGradient {
        query: vec![0.0; input.query.len()],
        key: vec![0.0; input.key.len()],
        value,
        log_decay: vec![0.0; input.log_decay.len()],
        strength: vec![0.0; input.strength.len()],
    };
    for head in 0..heads {
        for token in 0..tokens {
            let (from, scalar) = ((head * tokens + token) * size, token * heads + head);
            let to = (token * shape.key_heads + shape.key_head(head)) * size;
            for (out, sums) in [(&mut result.query, &of_queries), (&mut result.key, &of_keys)] {
                out[to..to + size].iter_mut().zip(&sums[from..]).for_each(|(out, x)| *out += x);
            }
            result.log_decay[scalar] = of_scalars[(head * tokens + token) * 2];
            result.strength[scalar] = of_scalars[(head * tokens + token) * 2 + 1];
        }
    }
    result
}

/// Returns a tile's state before each token, tokens × key size rows.
fn states_before(
    shape: &DeltaShape,
    input: &DeltaInput,
    head: usize,
    tile: usize,
    tokens: usize,
) -> Vec<[f32; TILE]> {
    let size = shape.key_size;
    let mut states = vec![[0.0; TILE]; tokens * size];
    for token in 1..tokens {
        let (before, after) = states.split_at_mut(token * size);
        after[..size].copy_from_slice(&before[(token - 1) * size..]);
        with_token(shape, input, token - 1, head, tile, |at| {
            let error = prediction_error(&after[..size], at);
            for (row, key) in after[..size].iter_mut().zip(at.key) {
                for (x, error) in row.iter_mut().zip(&error) {
                    *x = at.decay * *x + key * at.strength * error;
                }
            }
        });
    }
    states
}

/// Returns v − a Sᵀ k, where S is the state before the token.
fn prediction_error(state: &[[f32; TILE]], at: &TileToken) -> [f32; TILE] {
    let mut error = *at.value;
    for (row, key) in state.iter().zip(at.key) {
        error.iter_mut().zip(row).for_each(|(error, x)| *error -= at.decay * x * key);
    }
    error
}

/// Goes back over one token of one tile. `state` is the state before the token. `after` is the gradient at the state
/// after the token, and becomes that at the state before the token. The gradients at the query and at the key are added
/// to `sums`, those at the logarithm of the decay and at the strength to `scalars`. Returns the gradient at the value.
fn step_back(
    state: &[[f32; TILE]],
    at: &TileToken,
    gradient: &[f32; TILE],
    after: &mut [[f32; TILE]],
    (of_query, of_key): (&mut [f32], &mut [f32]),
    scalars: &mut [f32],
) -> [f32; TILE] {
    let dot = |a: &[f32; TILE], b: &[f32; TILE]| a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b);
    let error = prediction_error(state, at);
    let change = error.map(|x| at.strength * x);
    let mut of_change = [0.0; TILE];
    for (i, row) in after.iter_mut().enumerate() {
        for lane in 0..TILE {
            let updated = at.decay * state[i][lane] + at.key[i] * change[lane];
            of_query[i] += updated * gradient[lane];
            row[lane] += at.query[i] * gradient[lane];
            of_change[lane] += row[lane] * at.key[i];
        }
    }
    let of_value = of_change.map(|x| at.strength * x);
    for (i, row) in after.iter_mut().enumerate() {
        for lane in 0..TILE {
            let decayed = at.decay * state[i][lane];
            of_key[i] += row[lane] * change[lane] - decayed * of_value[lane];
            row[lane] -= at.key[i] * of_value[lane];
            scalars[0] += row[lane] * decayed;
            row[lane] *= at.decay;
        }
    }
    scalars[1] += dot(&of_change, &error);
    of_value
}

/// Returns the gradient at the inputs `x` of [`super::short_convolution`] from `gradient`, the gradient at its results.
/// The sequence begins with the first row.
pub fn short_convolution_gradient(
    backend: &Backend,
    convolution: &Convolution,
    x: &[f32],
    gradient: &[f32],
) -> Vec<f32> {
    let (channels, past) = (convolution.channels, convolution.past());
    let tokens = x.len() / channels;
    assert_eq!(x.len(), gradient.len(), "a gradient for each result");
    let mut out = vec![0.0; x.len()];
    let columns = Shared::new(&mut out);
    backend.pool().run(channels, &|channel| {
        let weight = |row: usize| convolution.weight[row * channels + channel];
        for token in 0..tokens {
            let sources = |row: usize| (token + row).checked_sub(past).map(|from| from * channels + channel);
            let sum = (0..=past).filter_map(|row| Some(weight(row) * x[sources(row)?])).sum::<f32>();
            let sigmoid = 1.0 / (1.0 + (-sum).exp());
            let of_activation = if convolution.silu { sigmoid * (1.0 + sum * (1.0 - sigmoid)) } else { 1.0 };
            let slope = of_activation * gradient[token * channels + channel];
            for row in 0..=past {
                if let Some(at) = sources(row) {
                    // SAFETY: each task has its own channel.
                    let own = unsafe { columns.part(at, 1) };
                    own[0] += weight(row) * slope;
                }
            }
        }
    });
    out
}
