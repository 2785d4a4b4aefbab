//! Experts with loaded weights: the choice of each token's experts, their products, and the gradient.
//!
//! The tokens that use an expert are multiplied together, so that its weights are read once. Invariant: the result of a
//! token does not depend on other tokens.

use crate::feed_forward::{LoadedFeedForward, scale_rows};
use crate::linear::Linear;
use crate::norm::LoadedNorm;
use crate::{Error, Experts, OpCount, Weights, buffers};
use kvant_kernels::{Backend, ops};

/// Experts with loaded weights.
#[derive(Clone)]
pub(crate) struct LoadedExperts {
    pub router: Linear,
    /// Norm of the residual stream for the router; `None` if the router reads the same input as the experts.
    pub router_norm: Option<LoadedNorm>,
    /// The number of experts that a token uses.
    pub used: usize,
    /// True if the factors of the used experts have the sum 1.
    pub normalized: bool,
    /// For each expert, one more factor of its result.
    result_scales: Option<Vec<f32>>,
    pub experts: Vec<LoadedFeedForward>,
}

/// The experts of some tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    /// The number of experts that a token uses.
    pub used: usize,
    /// Indices of the used experts, highest score first; tokens × used.
    pub experts: Vec<usize>,
    /// Factors of the experts' results, tokens × used.
    pub factors: Vec<f32>,
}

impl Routing {
    /// For each expert that is used, its index and its rows of a matrix with tokens × used rows.
    pub fn rows_of_experts(&self) -> Vec<(usize, Vec<usize>)> {
        let mut rows: Vec<(usize, usize)> = self.experts.iter().copied().zip(0..).collect();
        rows.sort_unstable();
        let groups = rows.chunk_by(|a, b| a.0 == b.0);
        groups.map(|group| (group[0].0, group.iter().map(|(_, row)| *row).collect())).collect()
    }
}

impl LoadedExperts {
    pub fn load(weights: &Weights, backend: &Backend, spec: &Experts) -> Result<Self, Error> {
        Ok(Self {
            // Few rows, and the choice of the experts depends on them.
            router: Linear::load(weights, &backend.clone().precise(), &spec.router)?,
            router_norm: match &spec.router_norm {
                Some(norm) => Some(LoadedNorm::load(weights, norm)?.scaled(spec.router_scale)),
                None => None,
            },
            result_scales: spec
                .result_scales
                .as_ref()
                .map(|scales| weights.vector(&scales.name))
                .transpose()?,
            used: spec.used,
            normalized: spec.normalized,
            experts: LoadedFeedForward::load_experts(weights, backend, &spec.feed_forward, spec.count)?,
        })
    }

    /// Chooses the experts of each row of the router's input.
    pub fn route(&self, backend: &Backend, input: &[f32]) -> Routing {
        let scores = self.router.apply(backend, &self.router.input(input));
        let count = self.experts.len();
        let mut routing = Routing { used: self.used, experts: Vec::new(), factors: Vec::new() };
        for scores in scores.chunks_exact(count) {
            let mut order: Vec<usize> = (0..count).collect();
            // Of equal scores, the first expert is used.
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            order.truncate(self.used);
            let mut factors = self.factors(scores, &order);
            if let Some(scales) = &self.result_scales {
                factors.iter_mut().zip(&order).for_each(|(factor, expert)| *factor *= scales[*expert]);
            }
            routing.factors.extend(factors);
            routing.experts.extend(order);
        }
        buffers::give(scores);
        routing
    }

    /// Computes the factors of the used experts of one token, without those of [`Experts::result_scales`]. The first of
    /// `used` has the highest score.
    fn factors(&self, scores: &[f32], used: &[usize]) -> Vec<f32> {
        let maximum = scores[used[0]];
        let exponential = |index: &usize| (scores[*index] - maximum).exp();
        let sum: f32 = match self.normalized {
            true => used.iter().map(exponential).sum(),
            false => (0..scores.len()).map(|index| exponential(&index)).sum(),
        };
        used.iter().map(|index| exponential(index) / sum).collect()
    }

    /// Computes the inputs of `down`, tokens × used × inner length.
    pub fn inner(&self, backend: &Backend, input: &[f32], routing: &Routing) -> Vec<f32> {
        let columns = self.experts[0].up.weight.columns();
        let mut out = buffers::take(routing.experts.len() * self.experts[0].down.weight.columns());
        if input.len() == columns {
            // All experts read the same row.
            let experts: Vec<&LoadedFeedForward> =
                routing.experts.iter().map(|&e| &self.experts[e]).collect();
            LoadedFeedForward::inner_of_all(backend, &experts, input, &mut out);
            return out;
        }
        self.for_each_expert(routing, input, columns, &mut out, &|expert, own| expert.inner(backend, own));
        out
    }

    /// Computes each expert's own result, tokens × used × hidden, from the inputs of `down`.
    fn results(&self, backend: &Backend, inner: &[f32], routing: &Routing) -> Vec<f32> {
        let down = &self.experts[0].down.weight;
        let mut out = buffers::take(routing.experts.len() * down.rows());
        self.for_each_expert(routing, inner, down.columns(), &mut out, &|expert, own| {
            expert.down.apply(backend, &expert.down.input(own))
        });
        out
    }

    /// Applies each used expert to the rows of `input` that use it, and writes the results to `out`. A row of `input` has
    /// `columns` floats. `input` has one row for each token, or one for each token and used expert, as `out`.
    fn for_each_expert(
        &self,
        routing: &Routing,
        input: &[f32],
        columns: usize,
        out: &mut [f32],
        apply: &dyn Fn(&LoadedFeedForward, &[f32]) -> Vec<f32>,
    ) {
        let (all_rows, input_rows) = (routing.experts.len(), input.len() / columns);
        let width = out.len() / all_rows;
        for (expert, rows) in routing.rows_of_experts() {
            let mut own = buffers::take(rows.len() * columns);
            for (own, row) in own.chunks_exact_mut(columns).zip(&rows) {
                own.copy_from_slice(&input[row * input_rows / all_rows * columns..][..columns]);
            }
            let result = apply(&self.experts[expert], &own);
            for (result, row) in result.chunks_exact(width).zip(&rows) {
                out[row * width..][..width].copy_from_slice(result);
            }
            [own, result].into_iter().for_each(buffers::give);
        }
    }

    /// Computes the sums of the experts' results with their factors, tokens × hidden, from the inputs of `down`.
    pub fn result(&self, backend: &Backend, inner: &[f32], routing: &Routing) -> Vec<f32> {
        let hidden = self.experts[0].down.weight.rows();
        let results = self.results(backend, inner, routing);
        let mut out = buffers::take(results.len() / self.used);
        let tokens = out.chunks_exact_mut(hidden).zip(results.chunks_exact(self.used * hidden));
        for ((out, results), factors) in tokens.zip(routing.factors.chunks_exact(self.used)) {
            out.fill(0.0);
            for (result, factor) in results.chunks_exact(hidden).zip(factors) {
                out.iter_mut().zip(result).for_each(|(out, x)| *out += factor * x);
            }
        }
        buffers::give(results);
        out
    }

    /// Multiply-adds and weight bytes of one token.
    pub fn op_count(&self) -> OpCount {
        let maps = self.experts.iter().take(self.used).flat_map(LoadedFeedForward::maps);
        std::iter::once(&self.router).chain(maps).map(|map| OpCount::of(&*map.weight)).sum()
    }

    /// Adds the gradient at `input` to `input_gradient`. `router` has the router's input and the gradient there, if this
    /// is another input. `gradient` is the gradient at the result. `sink` receives the gradient at the scores; the
    /// gradients at the outputs of the experts' maps are not passed on.
    pub fn backward(
        &self,
        backend: &Backend,
        input: &[f32],
        router: Option<(&[f32], &mut [f32])>,
        gradient: &[f32],
        input_gradient: &mut [f32],
        sink: crate::GradientSink,
    ) {
        let router_input = router.as_ref().map_or(input, |(input, _)| *input);
        let routing = self.route(backend, router_input);
        let inner = self.inner(backend, input, &routing);
        let results = self.results(backend, &inner, &routing);
        let (used, count) = (self.used, self.experts.len());
        let hidden = self.experts[0].down.weight.rows();
        // The gradient at each factor is the dot product of the gradient and the expert's result.
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let at_factor =
            |row: usize| dot(&gradient[row / used * hidden..][..hidden], &results[row * hidden..][..hidden]);
        let scores = self.router.apply(backend, &self.router.input(router_input));
        let mut at_scores = vec![0.0; scores.len()];
        for (token, (scores, at_scores)) in
            scores.chunks_exact(count).zip(at_scores.chunks_exact_mut(count)).enumerate()
        {
            let rows = token * used..(token + 1) * used;
            let factors = self.factors(scores, &routing.experts[rows.clone()]);
            let own: Vec<(usize, f32, f32)> =
                rows.map(|row| (routing.experts[row], routing.factors[row], at_factor(row))).collect();
            let mean: f32 = own.iter().map(|(_, factor, gradient)| factor * gradient).sum();
            if self.normalized {
                for ((expert, factor, gradient), unscaled) in own.into_iter().zip(factors) {
                    at_scores[expert] = factor * gradient - unscaled * mean;
                }
            } else {
                let maximum = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = scores.iter().map(|x| (x - maximum).exp()).sum();
                for (at_score, score) in at_scores.iter_mut().zip(scores) {
                    *at_score = -mean * (score - maximum).exp() / sum;
                }
                for (expert, factor, gradient) in own {
                    at_scores[expert] += factor * gradient;
                }
            }
        }
        sink(&self.router.name, &at_scores);
        let router_gradient = router.map_or(&mut *input_gradient, |(_, gradient)| gradient);
        self.router.weight.add_transposed(&at_scores, router_gradient);
        let columns = self.router.weight.columns();
        for (expert, rows) in routing.rows_of_experts() {
            let of_tokens = |x: &[f32], width: usize| -> Vec<f32> {
                rows.iter().flat_map(|row| x[row / used * width..][..width].iter().copied()).collect()
            };
            let own_input = of_tokens(input, columns);
            let mut own_gradient = of_tokens(gradient, hidden);
            let factors: Vec<f32> = rows.iter().map(|row| routing.factors[*row]).collect();
            scale_rows(&mut own_gradient, &factors);
            let mut own_input_gradient = vec![0.0; own_input.len()];
            let expert = &self.experts[expert];
            expert.backward(backend, &own_input, &own_gradient, &mut own_input_gradient, &mut |_, _| {});
            for (own, row) in own_input_gradient.chunks_exact(columns).zip(&rows) {
                let target = &mut input_gradient[row / used * columns..][..columns];
                ops::add(backend, target, own);
            }
        }
    }
}
