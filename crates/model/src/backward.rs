//! What a change at any place of a block means for the network's output: gradients, backwards through one block.
//!
//! Only activations have gradients here, no weights: that is what calibration asks for. One sequence at a time, which
//! nothing precedes; what the block computed on the way is computed anew. Source: the chain rule; the
//! judge in the tests is finite differences of the forward pass, which is held against `transformers`' itself.

use crate::block::{Linear, apply_all};
use crate::{Block, Positions};
use kvant_kernels::{attention, gradient, ops};

/// Hears the gradient at a map's result, by its weight's name: tokens × the map's rows.
pub type Hear<'a> = &'a mut dyn FnMut(&str, &[f32]);

impl Block {
    /// The gradient at the residual stream before the block, of a number whose gradient after the block is
    /// `after`; `residual` is the stream before the block, tokens × hidden. `hear` is told the gradient at every
    /// map's result.
    pub fn backward(&self, residual: &[f32], after: &[f32], positions: &Positions, hear: Hear) -> Vec<f32> {
        let backend = &self.backend;
        // Forwards, keeping what the way back reads.
        let input = self.enter(residual);
        let read = self.attended(&input, positions);
        let mut attended = vec![0.0; read.query.len()];
        let mut seen = self.no_key_values();
        attention(backend, &self.shape, &read, &mut [&mut seen], &mut attended);
        let mut middle = residual.to_vec();
        ops::add(backend, &mut middle, &self.output.apply(backend, &self.output.input(&attended)));
        let input = self.normed(&middle, &self.feed_forward_norm);
        let [mut gate, mut up] = apply_all(backend, [&self.gate, &self.up], &input);
        // Back through the feed-forward network.
        let mut gated = vec![0.0; gate.len()];
        self.down.back(after, &mut gated, hear);
        gradient::swiglu(backend, &mut gate, &mut up, &gated);
        let mut normed = vec![0.0; input.len()];
        self.gate.back(&gate, &mut normed, hear);
        self.up.back(&up, &mut normed, hear);
        let mut gradient = after.to_vec();
        let epsilon = self.norm_epsilon;
        gradient::add_rms_norm(backend, &middle, &self.feed_forward_norm, epsilon, &normed, &mut gradient);
        // Back through the attention.
        attended.fill(0.0);
        self.output.back(&gradient, &mut attended, hear);
        let mut at = gradient::attention(backend, &self.shape, &read, &attended);
        self.turn(&mut at, &positions.turned_back());
        normed.fill(0.0);
        self.query.back(&at.query, &mut normed, hear);
        self.key.back(&at.key, &mut normed, hear);
        self.value.back(&at.value, &mut normed, hear);
        gradient::add_rms_norm(backend, residual, &self.attention_norm, epsilon, &normed, &mut gradient);
        gradient
    }
}

impl Linear {
    /// Tells `hear` of the gradient at the map's result, and adds what it means for what the map read.
    fn back(&self, gradient: &[f32], read: &mut [f32], hear: Hear) {
        hear(&self.name, gradient);
        self.weight.add_transposed(gradient, read);
    }
}
