//! A gated short convolution with loaded weights: its forward pass and its gradient.

use crate::linear::Linear;
use crate::{ConvolutionSlot, Error, GradientSink, ShortConvolution, Weights, buffers};
use kvant_kernels::{
    Backend, Convolution, PagePool, RecurrentState, ops, short_convolution, short_convolution_gradient,
};

/// Loads the weights of a convolution, kernel size × channels.
pub(crate) fn load_convolution(weights: &Weights, slot: &ConvolutionSlot) -> Result<Vec<f32>, Error> {
    let stored = weights.vector(&slot.name)?;
    let ConvolutionSlot { kernel, channels, .. } = *slot;
    Ok((0..kernel * channels).map(|i| stored[i % channels * kernel + i / channels]).collect())
}

/// A [`ShortConvolution`] with loaded weights.
#[derive(Clone)]
pub(crate) struct LoadedShortConvolution {
    pub input: Linear,
    pub output: Linear,
    /// Kernel size × channels.
    weight: Vec<f32>,
    channels: usize,
    state_length: usize,
}

/// The parts of the input projection, one row of channels per token.
struct Parts {
    /// The product b · v, which is convolved.
    product: Vec<f32>,
    b: Vec<f32>,
    /// The factor of the convolution's result.
    c: Vec<f32>,
    v: Vec<f32>,
}

impl LoadedShortConvolution {
    pub fn load(weights: &Weights, backend: &Backend, spec: &ShortConvolution) -> Result<Self, Error> {
        Ok(Self {
            input: Linear::load(weights, backend, &spec.input)?,
            output: Linear::load(weights, backend, &spec.output)?,
            weight: load_convolution(weights, &spec.convolution)?,
            channels: spec.convolution.channels,
            state_length: spec.convolution.state_length(),
        })
    }

    /// An empty state with memory of its own.
    pub fn empty_state(&self) -> RecurrentState {
        RecurrentState::in_pool(self.state_length, &PagePool::unlimited())
    }

    fn convolution(&self) -> Convolution<'_> {
        Convolution { weight: &self.weight, channels: self.channels, silu: false }
    }

    fn parts(&self, backend: &Backend, input: &[f32]) -> Parts {
        let all = self.input.apply(backend, &self.input.input(input));
        let rows = all.chunks_exact(3 * self.channels);
        let [b, c, v] = [0, 1, 2].map(|part| -> Vec<f32> {
            let columns = part * self.channels..(part + 1) * self.channels;
            rows.clone().flat_map(|row| &row[columns.clone()]).copied().collect()
        });
        buffers::give(all);
        let mut product = b.clone();
        ops::multiply(backend, &mut product, &v);
        Parts { product, b, c, v }
    }

    /// Computes the input of `output`, and advances the state of each sequence by its number of tokens.
    pub fn inner(
        &self,
        backend: &Backend,
        input: &[f32],
        sequences: Vec<(&mut RecurrentState, usize)>,
    ) -> Vec<f32> {
        let Parts { product, c, .. } = self.parts(backend, input);
        let sequences = sequences.into_iter().filter(|(_, tokens)| *tokens > 0);
        let mut states: Vec<_> = sequences.map(|(state, tokens)| (state.advance(tokens), tokens)).collect();
        let mut convolved = buffers::take(product.len());
        short_convolution(backend, &self.convolution(), &product, &mut states, &mut convolved);
        ops::multiply(backend, &mut convolved, &c);
        convolved
    }

    /// Computes the result for one whole sequence.
    pub fn result_alone(&self, backend: &Backend, input: &[f32]) -> Vec<f32> {
        let tokens = input.len() / self.input.weight.columns();
        let inner = self.inner(backend, input, vec![(&mut self.empty_state(), tokens)]);
        self.output.apply(backend, &self.output.input(&inner))
    }

    /// Adds the gradient at `input`, the rows of one whole sequence, to `input_gradient`. `gradient` is the gradient at
    /// the result.
    pub fn backward(
        &self,
        backend: &Backend,
        input: &[f32],
        gradient: &[f32],
        input_gradient: &mut [f32],
        sink: GradientSink,
    ) {
        let Parts { product, b, c, v } = self.parts(backend, input);
        let mut convolved = vec![0.0; product.len()];
        let mut before = vec![0.0; self.state_length];
        let tokens = product.len() / self.channels;
        let convolution = self.convolution();
        short_convolution(backend, &convolution, &product, &mut [(&mut before, tokens)], &mut convolved);
        let mut at_inner = vec![0.0; product.len()];
        self.output.backward(gradient, &mut at_inner, sink);
        let mut at_c = convolved;
        ops::multiply(backend, &mut at_c, &at_inner);
        ops::multiply(backend, &mut at_inner, &c);
        let at_product = short_convolution_gradient(backend, &convolution, &product, &at_inner);
        let [mut at_b, mut at_v] = [v, b];
        ops::multiply(backend, &mut at_b, &at_product);
        ops::multiply(backend, &mut at_v, &at_product);
        let at_all = crate::backward::concatenate_rows([&at_b, &at_c, &at_v], [self.channels; 3]);
        self.input.backward(&at_all, input_gradient, sink);
    }
}
