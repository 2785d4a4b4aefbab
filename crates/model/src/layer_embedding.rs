//! The body that adds a block's layer embedding of each token through a gate, with loaded weights, and its gradient.

use crate::backward::activation_gradient;
use crate::feed_forward::activate;
use crate::linear::Linear;
use crate::stream::StreamPart;
use crate::{Activation, Error, GradientSink, LayerGate, Weights};
use kvant_kernels::{Backend, ops};

/// A [`LayerGate`] with loaded weights.
#[derive(Clone)]
pub(crate) struct LoadedLayerGate {
    pub gate: Linear,
    activation: Activation,
    pub output: Linear,
    /// The block's layer embeddings in the stream.
    pub part: StreamPart,
}

impl LoadedLayerGate {
    pub fn load(
        weights: &Weights,
        backend: &Backend,
        spec: &LayerGate,
        part: StreamPart,
    ) -> Result<Self, Error> {
        Ok(Self {
            gate: Linear::load(weights, backend, &spec.gate)?,
            activation: spec.activation,
            output: Linear::load(weights, backend, &spec.output)?,
            part,
        })
    }

    /// Computes the input of `output`. `embeddings` are the layer embeddings of the tokens.
    pub fn inner(&self, backend: &Backend, input: &[f32], embeddings: &[f32]) -> Vec<f32> {
        let mut inner = self.gate.apply(backend, &self.gate.input(input));
        activate(backend, self.activation, &mut inner, Some(embeddings));
        inner
    }

    /// Adds the gradient at `input` to `input_gradient`, and the gradient at the layer embeddings to
    /// `embedding_gradient`. `gradient` is the gradient at the result.
    pub fn backward(
        &self,
        backend: &Backend,
        [input, embeddings]: [&[f32]; 2],
        gradient: &[f32],
        [input_gradient, embedding_gradient]: [&mut [f32]; 2],
        sink: GradientSink,
    ) {
        let mut inner_gradient = vec![0.0; embeddings.len()];
        self.output.backward(gradient, &mut inner_gradient, sink);
        let mut gate = self.gate.apply(backend, &self.gate.input(input));
        let mut activated = gate.clone();
        activate(backend, self.activation, &mut activated, None);
        ops::multiply(backend, &mut activated, &inner_gradient);
        ops::add(backend, embedding_gradient, &activated);
        ops::multiply(backend, &mut inner_gradient, embeddings);
        activation_gradient(backend, self.activation, &mut gate, &inner_gradient);
        self.gate.backward(&gate, input_gradient, sink);
    }
}
