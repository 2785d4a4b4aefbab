//! The gated delta rule and the short convolution: operations that read a state of fixed size instead of all earlier
//! positions.
//!
//! For each head of the values, the state is a matrix S, key size × value size, which is zero before the first token.
//! With the query q, the key k, the value v, the decay a = e^g and the strength β of a token:
//!
//! ```text
//! S ← a S,   S ← S + k (β (v − Sᵀ k))ᵀ,   result = Sᵀ q
//! ```
//!
//! Source: Yang et al., Gated Delta Networks, arXiv 2412.06464, equation 10.
//!
//! A tile is [`TILE`] = 32 columns of S. The columns do not depend on each other, so each tile is a task. Invariant: the
//! result of a token depends only on the state and on the earlier tokens of its sequence, also in the last bit.

mod gradient;
mod state;
#[cfg(test)]
mod tests;

use crate::Backend;
use crate::cpu::generic::recurrent::{TILE, TileToken};
use crate::ops::by_rows;
use crate::shared::Shared;
pub use gradient::{DeltaGradient, delta_rule_gradient, short_convolution_gradient};
pub use state::RecurrentState;

/// Channels of one task of a convolution.
const CHANNELS: usize = 256;

/// The key head that a value head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadOrder {
    /// Value head `h` reads key head `h / (value heads / key heads)`.
    Grouped,
    /// Value head `h` reads key head `h % key heads`.
    Tiled,
}

/// The sizes of a gated delta rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaShape {
    /// The number of heads of queries and keys.
    pub key_heads: usize,
    /// The number of heads of values; a multiple of `key_heads`.
    pub value_heads: usize,
    /// Elements of a query and of a key, per head.
    pub key_size: usize,
    /// Elements of a value, per head.
    pub value_size: usize,
    /// The key head of each value head.
    pub order: HeadOrder,
}

impl DeltaShape {
    /// Returns the key head that value head `head` reads.
    pub fn key_head(&self, head: usize) -> usize {
        match self.order {
            HeadOrder::Grouped => head / (self.value_heads / self.key_heads),
            HeadOrder::Tiled => head % self.key_heads,
        }
    }

    /// The number of tiles of a head.
    fn tiles(&self) -> usize {
        self.value_size.div_ceil(TILE)
    }

    /// The number of floats in a tile.
    fn tile_length(&self) -> usize {
        self.key_size * TILE
    }

    /// The number of floats in the state of one sequence.
    pub fn state_length(&self) -> usize {
        self.value_heads * self.tiles() * self.tile_length()
    }

    /// Floats of the queries of one token, and of its keys.
    pub fn keys(&self) -> usize {
        self.key_heads * self.key_size
    }

    /// Floats of the values of one token, and of its results.
    pub fn values(&self) -> usize {
        self.value_heads * self.value_size
    }
}

/// The inputs of a gated delta rule, one row per token.
#[derive(Clone, Copy)]
pub struct DeltaInput<'a> {
    /// Queries, tokens × key heads × key size.
    pub query: &'a [f32],
    /// Keys, as the queries.
    pub key: &'a [f32],
    /// Values, tokens × value heads × value size.
    pub value: &'a [f32],
    /// Logarithms g of the decays, tokens × value heads.
    pub log_decay: &'a [f32],
    /// Strengths β, tokens × value heads.
    pub strength: &'a [f32],
}

impl DeltaInput<'_> {
    /// Returns the number of tokens. Panics if the lengths contradict each other.
    fn tokens(&self, shape: &DeltaShape) -> usize {
        let tokens = self.log_decay.len() / shape.value_heads;
        assert!(
            self.query.len() == tokens * shape.keys()
                && self.key.len() == self.query.len()
                && self.value.len() == tokens * shape.values()
                && self.log_decay.len() == tokens * shape.value_heads
                && self.strength.len() == self.log_decay.len(),
            "inputs of {tokens} tokens"
        );
        tokens
    }
}

/// Applies the gated delta rule. `sequences` has the state of each sequence ([`DeltaShape::state_length`] floats) and the
/// number of its tokens; the states change. The results are written to `out`, tokens × value heads × value size.
pub fn delta_rule(
    backend: &Backend,
    shape: &DeltaShape,
    input: &DeltaInput,
    sequences: &mut [(&mut [f32], usize)],
    out: &mut [f32],
) {
    let tokens = input.tokens(shape);
    assert_eq!(out.len(), input.value.len(), "a result for each value");
    assert_eq!(sequences.iter().map(|(_, tokens)| tokens).sum::<usize>(), tokens, "tokens of the sequences");
    let (cpu, out) = (backend.cpu(), Shared::new(out));
    let states = with_starts(sequences, shape.state_length());
    let (tiles, length) = (shape.tiles(), shape.tile_length());
    let tasks = shape.value_heads * tiles;
    backend.pool().run(states.len() * tasks, &|task| {
        let ((state, start, count), part) = (&states[task / tasks], task % tasks);
        let (head, tile) = (part / tiles, part % tiles);
        // SAFETY: each task has its own tile of its sequence's state.
        let (rows, _) = unsafe { state.part(part * length, length) }.as_chunks_mut::<TILE>();
        for token in *start..start + count {
            let mut result = [0.0; TILE];
            with_token(shape, input, token, head, tile, |token| cpu.delta_tile(rows, token, &mut result));
            let width = shape.tile_width(tile);
            // SAFETY: each task writes its own columns of its sequence's tokens.
            let own = unsafe { out.part(shape.value_start(token, head, tile), width) };
            own.copy_from_slice(&result[..width]);
        }
    });
}

/// Returns each sequence's state of `length` floats, the index of its first token, and the number of its tokens.
fn with_starts<'a>(
    sequences: &'a mut [(&mut [f32], usize)],
    length: usize,
) -> Vec<(Shared<'a, f32>, usize, usize)> {
    let mut end = 0;
    let with_start = |(state, count): &'a mut (&mut [f32], usize)| {
        assert_eq!(state.len(), length, "a state of this shape");
        end += *count;
        (Shared::new(state), end - *count, *count)
    };
    sequences.iter_mut().map(with_start).collect()
}

impl DeltaShape {
    /// The number of columns of a tile that the values have; the others are padding.
    fn tile_width(&self, tile: usize) -> usize {
        (self.value_size - tile * TILE).min(TILE)
    }

    /// The index of the first value of a tile.
    fn value_start(&self, token: usize, head: usize, tile: usize) -> usize {
        (token * self.value_heads + head) * self.value_size + tile * TILE
    }
}

/// Calls `work` with one token's inputs of one tile.
fn with_token<R>(
    shape: &DeltaShape,
    input: &DeltaInput,
    token: usize,
    head: usize,
    tile: usize,
    work: impl FnOnce(&TileToken) -> R,
) -> R {
    let mut value = [0.0; TILE];
    let width = shape.tile_width(tile);
    value[..width].copy_from_slice(&input.value[shape.value_start(token, head, tile)..][..width]);
    let at = (token * shape.key_heads + shape.key_head(head)) * shape.key_size;
    let scalar = token * shape.value_heads + head;
    work(&TileToken {
        query: &input.query[at..][..shape.key_size],
        key: &input.key[at..][..shape.key_size],
        value: &value,
        decay: input.log_decay[scalar].exp(),
        strength: input.strength[scalar],
    })
}

/// A causal convolution of each channel with its own weights.
pub struct Convolution<'a> {
    /// Weights, kernel size × channels; the last row is the weight of the current token.
    pub weight: &'a [f32],
    /// The number of channels.
    pub channels: usize,
    /// True if SiLU follows.
    pub silu: bool,
}

impl Convolution<'_> {
    /// The number of earlier tokens that the convolution reads.
    fn past(&self) -> usize {
        self.weight.len() / self.channels - 1
    }
}

/// Applies a convolution. `sequences` has the number of tokens of each sequence, and its last inputs before them, oldest
/// first: (kernel size − 1) × channels numbers, zero before the first token. These inputs change. `x` and `out` have a row
/// of channels for each token.
pub fn short_convolution(
    backend: &Backend,
    convolution: &Convolution,
    x: &[f32],
    sequences: &mut [(&mut [f32], usize)],
    out: &mut [f32],
) {
    let (channels, past) = (convolution.channels, convolution.past());
    assert!(convolution.weight.len() == (past + 1) * channels, "a weight of each channel and each token");
    assert_eq!(x.len(), out.len(), "a result for each number");
    assert_eq!(sequences.iter().map(|(_, tokens)| tokens * channels).sum::<usize>(), x.len(), "all tokens");
    let (cpu, out) = (backend.cpu(), Shared::new(out));
    let states = with_starts(sequences, past * channels);
    let parts = channels.div_ceil(CHANNELS);
    backend.pool().run(states.len() * parts, &|task| {
        let (state, start, count) = &states[task / parts];
        let begin = task % parts * CHANNELS;
        let width = CHANNELS.min(channels - begin);
        // The inputs of this task's channels: the earlier tokens, then the new ones.
        let mut rows: Vec<f32> = Vec::with_capacity((past + count) * width);
        for row in 0..past {
            // SAFETY: each task has its own channels of its sequence's state.
            rows.extend_from_slice(unsafe { state.part(row * channels + begin, width) });
        }
        for token in *start..start + count {
            rows.extend_from_slice(&x[token * channels + begin..][..width]);
        }
        let weights: Vec<&[f32]> =
            (0..=past).map(|row| &convolution.weight[row * channels + begin..][..width]).collect();
        for token in 0..*count {
            // SAFETY: each task writes its own channels of its sequence's tokens.
            let own = unsafe { out.part((start + token) * channels + begin, width) };
            cpu.convolve(&rows[token * width..], &weights, convolution.silu, own);
        }
        for row in 0..past {
            // SAFETY: as above.
            let own = unsafe { state.part(row * channels + begin, width) };
            own.copy_from_slice(&rows[(count + row) * width..][..width]);
        }
    });
}

/// Divides each row of `size` floats by its norm √(Σ x² + ε), ε = 1e-6, and multiplies it by `factor`.
pub fn unit_rows(backend: &Backend, x: &mut [f32], size: usize, factor: f32) {
    by_rows(backend, x, size, &|_, x| {
        for row in x.chunks_exact_mut(size) {
            let scale = factor * inverse_norm(row);
            row.iter_mut().for_each(|x| *x *= scale);
        }
    });
}

/// Returns 1 / √(Σ x² + ε).
fn inverse_norm(row: &[f32]) -> f32 {
    const EPSILON: f32 = 1e-6;
    1.0 / (row.iter().fold(0.0, |sum, x| sum + x * x) + EPSILON).sqrt()
}

/// Replaces `gradient`, the gradient at the results of [`unit_rows`], by the gradient at its inputs `x`.
pub fn unit_rows_gradient(x: &[f32], size: usize, factor: f32, gradient: &mut [f32]) {
    for (x, gradient) in x.chunks_exact(size).zip(gradient.chunks_exact_mut(size)) {
        let scale = inverse_norm(x);
        let dot = x.iter().zip(&*gradient).fold(0.0, |sum, (x, gradient)| sum + x * gradient);
        for (gradient, x) in gradient.iter_mut().zip(x) {
            *gradient = factor * scale * (*gradient - x * scale * scale * dot);
        }
    }
}
