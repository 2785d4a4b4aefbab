//! Experts with loaded weights: the choice of each token's experts, their products, and the gradient.
//!
//! The tokens that use an expert are multiplied together, so that its weights are read once. Invariant: the result of a
//! token does not depend on other tokens.

use crate::feed_forward::{LoadedFeedForward, activate, scale_rows, sigmoid};
use crate::linear::{Linear, apply_each};
use crate::norm::LoadedNorm;
use crate::{Error, Experts, OpCount, Scoring, Weights, buffers};
use kvant_kernels::{Backend, Input, ops};

/// Experts with loaded weights.
#[derive(Clone)]
pub(crate) struct LoadedExperts {
    pub router: Linear,
    /// Norm of the residual stream for the router; `None` if the router reads the same input as the experts.
    pub router_norm: Option<LoadedNorm>,
    /// The number of experts that a token uses.
    pub used: usize,
    scoring: LoadedScoring,
    /// True if the strengths of the used experts are divided by their sum.
    pub normalized: bool,
    /// Factor of all results.
    scale: f32,
    /// For each expert, one more factor of its result.
    result_scales: Option<Vec<f32>>,
    pub experts: Vec<LoadedFeedForward>,
}

/// The strengths of experts, with a loaded correction.
#[derive(Clone)]
enum LoadedScoring {
    Softmax,
    Sigmoid { correction: Vec<f32> },
}

/// Added to a sum of sigmoids, which can underflow to zero. It is too small to change other sums.
const SMALLEST_SUM: f32 = 1e-20;

impl LoadedScoring {
    fn load(weights: &Weights, scoring: &Scoring) -> Result<Self, Error> {
        Ok(match scoring {
            Scoring::Softmax => Self::Softmax,
            Scoring::Sigmoid { correction } => {
                Self::Sigmoid { correction: weights.vector(&correction.name)? }
            }
        })
    }

    /// Returns the strengths for the scores of one token, up to a common factor, and the sum of the strengths of all
    /// experts with the same factor.
    fn strengths(&self, scores: &[f32]) -> (Vec<f32>, f32) {
        match self {
            Self::Softmax => {
                let maximum = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let strengths: Vec<f32> = scores.iter().map(|score| (score - maximum).exp()).collect();
                let sum = strengths.iter().sum();
                (strengths, sum)
            }
            Self::Sigmoid { .. } => (scores.iter().copied().map(sigmoid).collect(), 1.0),
        }
    }

    /// Returns the indices of all experts, the first choice first. Of equal experts, the one with the lower index is first.
    fn order(&self, scores: &[f32], strengths: &[f32]) -> Vec<usize> {
        let keys: Vec<f32> = match self {
            Self::Softmax => scores.to_vec(),
            Self::Sigmoid { correction } => strengths.iter().zip(correction).map(|(p, c)| p + c).collect(),
        };
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by(|a, b| keys[*b].total_cmp(&keys[*a]));
        order
    }
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
            scoring: LoadedScoring::load(weights, &spec.scoring)?,
            normalized: spec.normalized,
            scale: spec.scale,
            experts: LoadedFeedForward::load_experts(weights, backend, &spec.feed_forward, spec.count)?,
        })
    }

    /// Chooses the experts of each row of the router's input.
    pub fn route(&self, backend: &Backend, input: &[f32]) -> Routing {
        let scores = self.router.apply(backend, &self.router.input(input));
        let count = self.experts.len();
        let mut routing = Routing { used: self.used, experts: Vec::new(), factors: Vec::new() };
        for scores in scores.chunks_exact(count) {
            let (strengths, all) = self.scoring.strengths(scores);
            let mut order = self.scoring.order(scores, &strengths);
            order.truncate(self.used);
            let own = order.iter().map(|index| strengths[*index]);
            let sum = if self.normalized { own.clone().sum::<f32>() + SMALLEST_SUM } else { all };
            let factors = own.zip(&order).map(|(strength, expert)| {
                let own_scale = self.result_scales.as_ref().map_or(1.0, |scales| scales[*expert]);
                self.scale * own_scale * strength / sum
            });
            routing.factors.extend(factors);
            routing.experts.extend(order);
        }
        buffers::give(scores);
        routing
    }

    /// Computes the inputs of `down`, tokens × used × inner length.
    pub fn inner(&self, backend: &Backend, input: &[f32], routing: &Routing) -> Vec<f32> {
        let first = &self.experts[0];
        let (columns, length) = (first.up.weight.columns(), first.down.weight.columns());
        let mut out = buffers::take(routing.experts.len() * length);
        if input.len() == columns {
            // All experts read the same row.
            let experts: Vec<&LoadedFeedForward> =
                routing.experts.iter().map(|&e| &self.experts[e]).collect();
            LoadedFeedForward::inner_of_all(backend, &experts, input, &mut out);
            return out;
        }
        let groups = routing.rows_of_experts();
        let own = gather(backend, input, columns, &groups, |row| row / self.used);
        let mut results =
            self.products(backend, &groups, &own, |expert| expert.gate.iter().chain([&expert.up]).collect());
        // The gates come first; without gates, the results of `up` are activated.
        let mut activated = results.remove(0);
        let ups = results.pop();
        activate(backend, first.activation, &mut activated, ups.as_deref());
        scatter(backend, &activated, length, &groups, &mut out);
        ups.into_iter().chain([own, activated]).for_each(buffers::give);
        out
    }

    /// Multiplies maps of each used expert with the expert's rows of `own`, which follow each other in the order of
    /// `groups`. `maps` gives equally many maps of each expert, all with the same number of columns. All products are one
    /// parallel run. Returns the results of the first map of all experts, then those of the second.
    fn products<'a>(
        &'a self,
        backend: &Backend,
        groups: &[(usize, Vec<usize>)],
        own: &[f32],
        maps: impl Fn(&'a LoadedFeedForward) -> Vec<&'a Linear>,
    ) -> Vec<Vec<f32>> {
        let maps: Vec<Vec<&Linear>> = groups.iter().map(|(expert, _)| maps(&self.experts[*expert])).collect();
        let columns = maps[0][0].weight.columns();
        let mut rest = own;
        let inputs: Vec<Input> = (groups.iter())
            .map(|(_, rows)| {
                let (part, after) = rest.split_at(rows.len() * columns);
                rest = after;
                Input::new(part, columns)
            })
            .collect();
        let width = |map: &&Linear| map.weight.rows();
        let mut out: Vec<Vec<f32>> =
            maps[0].iter().map(|map| buffers::take(own.len() / columns * width(map))).collect();
        let (mut all_maps, mut all_inputs, mut results) = (Vec::new(), Vec::new(), Vec::new());
        for (which, out) in out.iter_mut().enumerate() {
            let mut rest = &mut out[..];
            for ((maps, input), (_, rows)) in maps.iter().zip(&inputs).zip(groups) {
                let (result, after) = rest.split_at_mut(rows.len() * width(&maps[which]));
                rest = after;
                all_maps.push(maps[which]);
                all_inputs.push(input);
                results.push(result);
            }
        }
        apply_each(backend, &all_maps, &all_inputs, results);
        out
    }

    /// Computes each expert's own result, tokens × used × hidden, from the inputs of `down`.
    fn results(&self, backend: &Backend, inner: &[f32], routing: &Routing) -> Vec<f32> {
        let down = &self.experts[0].down.weight;
        let groups = routing.rows_of_experts();
        let own = gather(backend, inner, down.columns(), &groups, |row| row);
        let grouped = self.products(backend, &groups, &own, |expert| vec![&expert.down]).remove(0);
        let mut out = buffers::take(grouped.len());
        scatter(backend, &grouped, down.rows(), &groups, &mut out);
        [own, grouped].into_iter().for_each(buffers::give);
        out
    }

    /// Computes the sums of the experts' results with their factors, tokens × hidden, from the inputs of `down`.
    pub fn result(&self, backend: &Backend, inner: &[f32], routing: &Routing) -> Vec<f32> {
        let hidden = self.experts[0].down.weight.rows();
        let results = self.results(backend, inner, routing);
        let mut out = buffers::take(results.len() / self.used);
        ops::weighted_sums(backend, &results, &routing.factors, hidden, &mut out);
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
            let own: Vec<(usize, f32, f32)> =
                rows.map(|row| (routing.experts[row], routing.factors[row], at_factor(row))).collect();
            let mean: f32 = own.iter().map(|(_, factor, gradient)| factor * gradient).sum();
            let (strengths, all) = self.scoring.strengths(scores);
            let sum = own.iter().map(|(expert, ..)| strengths[*expert]).sum::<f32>() + SMALLEST_SUM;
            for (expert, factor, gradient) in own {
                // The derivative of the strength's logarithm. The sum over all experts of softmax follows below.
                let slope = match self.scoring {
                    LoadedScoring::Softmax => 1.0,
                    LoadedScoring::Sigmoid { .. } => 1.0 - strengths[expert],
                };
                // A change of one strength also changes the sum that divides all strengths.
                let of_sum = if self.normalized { mean * strengths[expert] / sum } else { 0.0 };
                at_scores[expert] = slope * (factor * gradient - of_sum);
            }
            if let (LoadedScoring::Softmax, false) = (&self.scoring, self.normalized) {
                for (at_score, strength) in at_scores.iter_mut().zip(&strengths) {
                    *at_score -= mean * strength / all;
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

/// Copies rows of `columns` floats of `x` to the order of `groups`: row `from(row)` of `x` for each row of each group.
fn gather(
    backend: &Backend,
    x: &[f32],
    columns: usize,
    groups: &[(usize, Vec<usize>)],
    from: impl Fn(usize) -> usize,
) -> Vec<f32> {
    let rows: Vec<usize> = groups.iter().flat_map(|(_, rows)| rows.iter().map(|row| from(*row))).collect();
    let mut out = buffers::take(rows.len() * columns);
    ops::copy_rows(backend, x, columns, &rows, &mut out);
    out
}

/// The opposite of [`gather`]: copies the rows of `grouped`, in the order of `groups`, to their rows of `out`.
fn scatter(
    backend: &Backend,
    grouped: &[f32],
    columns: usize,
    groups: &[(usize, Vec<usize>)],
    out: &mut [f32],
) {
    let mut rows = vec![0; out.len() / columns];
    let in_order = groups.iter().flat_map(|(_, rows)| rows);
    in_order.enumerate().for_each(|(place, row)| rows[*row] = place);
    ops::copy_rows(backend, grouped, columns, &rows, out);
}
