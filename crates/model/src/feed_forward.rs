//! A feed-forward network with loaded weights: one network, or the equal networks of experts.

use crate::linear::{Linear, apply_all, apply_many};
use crate::{Activation, Error, Expansion, FeedForward, Slot, Weights, buffers};
use kvant_kernels::{Backend, ops};

/// A feed-forward network with loaded weights.
#[derive(Clone)]
pub(crate) struct LoadedFeedForward {
    pub gate: Option<Linear>,
    pub up: Linear,
    pub activation: Activation,
    /// The map of the factor of the input of `down`, before the sigmoid function.
    pub factor: Option<Linear>,
    pub down: Linear,
}

impl LoadedFeedForward {
    pub fn load(weights: &Weights, backend: &Backend, spec: &FeedForward) -> Result<Self, Error> {
        Ok(Self::load_experts(weights, backend, spec, 1)?.remove(0))
    }

    /// Loads `count` networks, whose maps are stored one after the other.
    pub fn load_experts(
        weights: &Weights,
        backend: &Backend,
        spec: &FeedForward,
        count: usize,
    ) -> Result<Vec<Self>, Error> {
        // Loads part `part` of `parts` equal parts of each network's map.
        let load = |slot: &Slot, part: usize, parts: usize| -> Result<Vec<Linear>, Error> {
            let rows = slot.rows / parts;
            let start = |index: usize| index * slot.rows + part * rows;
            let ranges = (0..count).map(|index| (backend, start(index)..start(index) + rows));
            Linear::load_parts(weights, slot, ranges)
        };
        let optional = |maps: Vec<Linear>| maps.into_iter().map(Some).collect();
        let none = || vec![None; count];
        let (gates, ups): (Vec<Option<Linear>>, _) = match &spec.expansion {
            Expansion::Plain(up) => (none(), load(up, 0, 1)?),
            Expansion::Gated { gate, up } => (optional(load(gate, 0, 1)?), load(up, 0, 1)?),
            Expansion::FusedGated(slot) => (optional(load(slot, 0, 2)?), load(slot, 1, 2)?),
        };
        let factors = match &spec.factor {
            Some(slot) => optional(load(slot, 0, 1)?),
            None => none(),
        };
        let networks = gates.into_iter().zip(ups).zip(factors).zip(load(&spec.down, 0, 1)?);
        let activation = spec.activation;
        Ok(networks.map(|(((gate, up), factor), down)| Self { gate, up, activation, factor, down }).collect())
    }

    pub fn maps(&self) -> Vec<&Linear> {
        self.gate.iter().chain([&self.up]).chain(&self.factor).chain([&self.down]).collect()
    }

    pub fn maps_mut(&mut self) -> Vec<&mut Linear> {
        self.gate.iter_mut().chain([&mut self.up]).chain(&mut self.factor).chain([&mut self.down]).collect()
    }

    /// Computes the input of `down`.
    pub fn inner(&self, backend: &Backend, input: &[f32]) -> Vec<f32> {
        let mut inner = self.unscaled_inner(backend, input);
        if let Some(factors) = self.factors(backend, input) {
            scale_rows(&mut inner, &factors);
        }
        inner
    }

    /// Computes the input of `down` without the factor.
    pub fn unscaled_inner(&self, backend: &Backend, input: &[f32]) -> Vec<f32> {
        let Some(gate) = &self.gate else {
            let mut up = self.up.apply(backend, &self.up.input(input));
            activate(backend, self.activation, &mut up, None);
            return up;
        };
        let [mut gate, up] = apply_all(backend, [gate, &self.up], input);
        activate(backend, self.activation, &mut gate, Some(&up));
        buffers::give(up);
        gate
    }

    /// Computes the factor of each row, if there is one.
    pub fn factors(&self, backend: &Backend, input: &[f32]) -> Option<Vec<f32>> {
        let factor = self.factor.as_ref()?;
        let mut factors = factor.apply(backend, &factor.input(input));
        factors.iter_mut().for_each(|x| *x = sigmoid(*x));
        Some(factors)
    }

    /// Computes the inputs of `down` of several networks of one size that read the same row, one after the other.
    pub fn inner_of_all(backend: &Backend, networks: &[&Self], input: &[f32], out: &mut [f32]) {
        let length = out.len() / networks.len();
        let gates: Vec<&Linear> = networks.iter().filter_map(|network| network.gate.as_ref()).collect();
        let ups: Vec<&Linear> = networks.iter().map(|network| &network.up).collect();
        let mut up = buffers::take(out.len());
        let gated = !gates.is_empty();
        {
            let first = if gated { &mut *out } else { &mut [][..] };
            let results: Vec<&mut [f32]> =
                first.chunks_exact_mut(length).chain(up.chunks_exact_mut(length)).collect();
            apply_many(backend, &[gates, ups].concat(), input, results);
        }
        if gated {
            activate(backend, networks[0].activation, out, Some(&up));
        } else {
            out.copy_from_slice(&up);
            activate(backend, networks[0].activation, out, None);
        }
        buffers::give(up);
    }
}

/// Returns 1 / (1 + e⁻ˣ).
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Multiplies each row of `x` by its factor.
pub(crate) fn scale_rows(x: &mut [f32], factors: &[f32]) {
    let columns = x.len() / factors.len().max(1);
    for (row, factor) in x.chunks_exact_mut(columns.max(1)).zip(factors) {
        row.iter_mut().for_each(|x| *x *= factor);
    }
}

/// Computes `x` = activation(`x`) · `up`, without the factor if `up` is `None`.
pub(crate) fn activate(backend: &Backend, activation: Activation, x: &mut [f32], up: Option<&[f32]>) {
    match (activation, up) {
        (Activation::Silu, Some(up)) => ops::swiglu(backend, x, up),
        (Activation::Silu, None) => ops::swiglu(backend, x, &vec![1.0; x.len()]),
        (Activation::ClampedSwiglu(settings), Some(up)) => ops::clamped_swiglu(backend, x, up, settings),
        (Activation::ClampedSwiglu(settings), None) => {
            ops::clamped_swiglu(backend, x, &vec![0.0; x.len()], settings);
        }
        (Activation::Gelu | Activation::GeluTanh, up) => {
            if activation == Activation::Gelu {
                ops::gelu(backend, x)
            } else {
                ops::gelu_tanh(backend, x)
            }
            if let Some(up) = up {
                ops::multiply(backend, x, up);
            }
        }
    }
}
