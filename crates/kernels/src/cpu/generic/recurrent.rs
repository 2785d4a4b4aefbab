//! The inner loops of recurrent layers: one token of one tile of a state, and one token of a convolution.

use super::loops::{exp, multiply_add};

/// Columns of a tile of the state.
pub(crate) const TILE: usize = 32;

/// One token's inputs of one tile.
pub(crate) struct TileToken<'a> {
    pub query: &'a [f32],
    pub key: &'a [f32],
    pub value: &'a [f32; TILE],
    pub decay: f32,
    pub strength: f32,
}

/// Updates the rows of a tile by one token and writes the result. The source of the formula is in `recurrent.rs`.
#[inline(always)]
pub(crate) fn delta_tile<const FUSED: bool>(
    state: &mut [[f32; TILE]],
    token: &TileToken,
    out: &mut [f32; TILE],
) {
    let mut change = [0.0f32; TILE];
    for (row, key) in state.iter_mut().zip(token.key) {
        for (x, sum) in row.iter_mut().zip(&mut change) {
            *x *= token.decay;
            *sum = multiply_add::<FUSED>(*x, *key, *sum);
        }
    }
    for (change, value) in change.iter_mut().zip(token.value) {
        *change = token.strength * (value - *change);
    }
    let mut result = [0.0f32; TILE];
    for ((row, key), query) in state.iter_mut().zip(token.key).zip(token.query) {
        for ((x, change), sum) in row.iter_mut().zip(&change).zip(&mut result) {
            *x = multiply_add::<FUSED>(*key, *change, *x);
            *sum = multiply_add::<FUSED>(*x, *query, *sum);
        }
    }
    *out = result;
}

/// Computes Σ weight row · input row for each channel, and applies SiLU if `silu` is true. `rows` has one row of
/// `out.len()` channels for each row of `weights`, and may be longer.
#[inline(always)]
pub(crate) fn convolve<const FUSED: bool>(rows: &[f32], weights: &[&[f32]], silu: bool, out: &mut [f32]) {
    let channels = out.len();
    out.fill(0.0);
    for (row, weights) in rows.chunks_exact(channels).zip(weights) {
        for ((out, x), weight) in out.iter_mut().zip(row).zip(*weights) {
            *out = multiply_add::<FUSED>(*x, *weight, *out);
        }
    }
    if silu {
        for x in out {
            *x /= 1.0 + exp::<FUSED>(-*x);
        }
    }
}
