//! Perplexity and KL divergence over contexts that do not overlap. The definitions are those of llama-perplexity.
//!
//! The text is split into contexts of n tokens. The remaining tokens at the end of the text are not used. If the model
//! uses a BOS token, this token replaces the first token of each context. In each context, the predictions of the
//! second half are scored, except the prediction of the last position, whose next token is unknown. If n is even, these
//! are n/2 − 1 predictions. All sums run over the full vocabulary, in `f64` and in a fixed order. Source: llama.cpp,
//! `tools/perplexity/perplexity.cpp`.

use crate::{Error, Progress};
use kvant_model::{Transformer, Want};
use serde::Serialize;

/// Tokens of a text, split into contexts of equal length.
#[derive(Clone, Debug)]
pub struct Contexts {
    /// The tokens of each context.
    tokens: Vec<Vec<u32>>,
}

impl Contexts {
    /// Splits `tokens` into contexts of `length` tokens. Returns at most `limit` contexts. If `bos` is given, it
    /// replaces the first token of each context.
    ///
    /// # Errors
    /// [`Error::ShortContext`] if `length` is less than 4. [`Error::ShortText`] if the text is shorter than one
    /// context.
    pub fn new(tokens: &[u32], length: usize, limit: Option<usize>, bos: Option<u32>) -> Result<Self, Error> {
        if length < 4 {
            return Err(Error::ShortContext { context: length });
        }
        let mut contexts: Vec<Vec<u32>> =
            tokens.chunks_exact(length).take(limit.unwrap_or(usize::MAX)).map(<[u32]>::to_vec).collect();
        if contexts.is_empty() {
            return Err(Error::ShortText { found: tokens.len(), context: length });
        }
        if let Some(bos) = bos {
            contexts.iter_mut().for_each(|context| context[0] = bos);
        }
        Ok(Self { tokens: contexts })
    }

    /// Number of contexts.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Returns true if there is no context.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// Negative log-likelihoods of one model for the scored tokens.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    /// −ln p of each scored token, in the order of the text. p is the probability of the token under the model.
    pub nll: Vec<f64>,
    /// Mean of `nll` over each context.
    pub nll_by_context: Vec<f64>,
}

/// Differences between the distributions of a model and its reference, for each scored token.
#[derive(Clone, Debug, Default)]
pub struct Divergence {
    /// KL divergence KL(reference ‖ model), in nats.
    pub kld: Vec<f64>,
    /// Mean of `kld` over each context.
    pub kld_by_context: Vec<f64>,
    /// True if both models have the same most probable token.
    pub same_top: Vec<bool>,
    /// Probability of the text's next token under the model, minus its probability under the reference.
    pub delta_p: Vec<f64>,
}

/// The results of one evaluation. Without a reference, the comparisons with a reference are absent.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
pub struct Quality {
    /// Number of scored tokens.
    pub tokens_scored: usize,
    /// Perplexity: the exponential of the mean −ln p over all scored tokens, where p is the probability of a token.
    pub ppl: f64,
    /// Standard error of `ppl`.
    pub ppl_se: f64,
    /// Mean −ln p over the scored tokens of each context.
    pub nll_by_context: Vec<f64>,
    /// Mean KL divergence from the reference, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld_mean: Option<f64>,
    /// Mean KL divergence over the scored tokens of each context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld_by_context: Option<Vec<f64>>,
    /// Standard error of `kld_mean`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld_se: Option<f64>,
    /// Median of the KL divergence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld_p50: Option<f64>,
    /// 99th percentile of the KL divergence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld_p99: Option<f64>,
    /// Maximum of the KL divergence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld_max: Option<f64>,
    /// Share of the scored positions at which both models have the same most probable token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1_agreement: Option<f64>,
    /// `kld_mean` of the model with the settings of the command `run`: rounded activations and a KV cache in a smaller
    /// format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld_mean_as_run: Option<f64>,
    /// `top1_agreement` of the model with the settings of the command `run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1_agreement_as_run: Option<f64>,
    /// Root mean square of the change in the probability of the text's next token, relative to the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta_p_rms: Option<f64>,
    /// `ppl` divided by the perplexity of the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppl_ratio: Option<f64>,
}

/// A model to evaluate, and the models for the comparison.
#[derive(Clone, Copy)]
pub struct Judged<'a> {
    /// The model to evaluate.
    pub model: &'a Transformer,
    /// The reference model. The comparison treats its distributions as the correct distributions.
    pub reference: Option<&'a Transformer>,
    /// The model to evaluate with the settings of the command `run`. If it is present, it is also compared with the
    /// reference. Without a reference it is ignored.
    pub as_run: Option<&'a Transformer>,
}

/// Number of positions whose logits are in memory at the same time.
const ROWS: usize = 64;

/// Evaluates a model. If there is a reference, compares the model with the reference. Reports each context to
/// `progress`.
///
/// # Errors
/// Returns an error if the models have different vocabulary sizes, if logits are not finite (damaged weights), if the
/// user interrupts the evaluation, or if a model returns an error.
pub fn evaluate(judged: Judged, contexts: &Contexts, progress: &dyn Progress) -> Result<Quality, Error> {
    let Judged { model, reference, .. } = judged;
    if let Some(reference) = reference
        && reference.spec().vocabulary != model.spec().vocabulary
    {
        let (found, expected) = (model.spec().vocabulary, reference.spec().vocabulary);
        return Err(Error::Vocabulary { found, expected });
    }
    let mut found = Results::default();
    for (index, tokens) in contexts.tokens.iter().enumerate() {
        if progress.stop() {
            return Err(Error::Interrupted);
        }
        progress.at(index as u64, contexts.len() as u64, "");
        evaluate_context(judged, index, tokens, &mut found)?;
    }
    progress.at(contexts.len() as u64, contexts.len() as u64, "");
    Ok(quality(&found, reference.is_some()))
}

/// Scores and divergences of the evaluated contexts.
#[derive(Default)]
struct Results {
    own: Scores,
    reference: Scores,
    divergence: Divergence,
    as_run: Divergence,
}

/// Evaluates one context and appends its scores to `results`.
fn evaluate_context(
    judged: Judged,
    index: usize,
    tokens: &[u32],
    results: &mut Results,
) -> Result<(), Error> {
    let Judged { model, reference, as_run } = judged;
    let Results { own, reference: reference_scores, divergence, as_run: run_divergence } = results;
    let hidden_states = |m: &Transformer| m.prefill(&mut m.sequence(tokens.len()), tokens, Want::All);
    let hidden = hidden_states(model)?;
    let as_run = as_run.filter(|_| reference.is_some());
    let as_run = as_run.zip(as_run.map(hidden_states).transpose()?);
    let reference = reference.zip(reference.map(hidden_states).transpose()?);
    // Positions whose predictions are scored: the second half of the context, without the last position. The next token
    // of the last position is unknown.
    let scored: Vec<usize> = (tokens.len() / 2..tokens.len() - 1).collect();
    let start = own.nll.len();
    for positions in scored.chunks(ROWS) {
        let rows = |m: &Transformer, h: &[f32]| {
            let width = m.spec().hidden;
            m.logits(&h[positions[0] * width..(positions[0] + positions.len()) * width])
        };
        let logits = rows(model, &hidden);
        let expected = reference.as_ref().map(|(r, h)| rows(r, h));
        let run = as_run.as_ref().map(|(r, h)| rows(r, h));
        let vocabulary = model.spec().vocabulary;
        for (i, &position) in positions.iter().enumerate() {
            let not_finite = Error::NotFinite { context: index, position };
            let next = tokens[position + 1] as usize;
            // q, p and r: the logits of the model, of the reference, and of the model with the settings of `run`.
            let q = &logits[i * vocabulary..(i + 1) * vocabulary];
            let q_total = log_sum_exp(q);
            if !q_total.is_finite() {
                return Err(not_finite);
            }
            let q_nll = q_total - f64::from(q[next]);
            own.nll.push(q_nll);
            let Some(expected) = &expected else { continue };
            let p = &expected[i * vocabulary..(i + 1) * vocabulary];
            let p_total = log_sum_exp(p);
            if !p_total.is_finite() {
                return Err(not_finite);
            }
            let p_nll = p_total - f64::from(p[next]);
            reference_scores.nll.push(p_nll);
            divergence.kld.push(kl_from_totals(p, p_total, q, q_total));
            divergence.same_top.push(most_probable(p) == most_probable(q));
            divergence.delta_p.push((-q_nll).exp() - (-p_nll).exp());
            let Some(run) = &run else { continue };
            let r = &run[i * vocabulary..(i + 1) * vocabulary];
            let r_total = log_sum_exp(r);
            if !r_total.is_finite() {
                return Err(not_finite);
            }
            run_divergence.kld.push(kl_from_totals(p, p_total, r, r_total));
            run_divergence.same_top.push(most_probable(p) == most_probable(r));
        }
    }
    own.nll_by_context.push(mean(&own.nll[start..]));
    if reference.is_some() {
        divergence.kld_by_context.push(mean(&divergence.kld[start..]));
    }
    Ok(())
}

/// Returns the KL divergence KL(p ‖ q) in nats. `p` and `q` are two rows of logits over the same vocabulary. Returns
/// NaN if a row does not define a distribution.
pub fn kl_divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p_total, q_total) = (log_sum_exp(p), log_sum_exp(q));
    if p_total.is_finite() && q_total.is_finite() { kl_from_totals(p, p_total, q, q_total) } else { f64::NAN }
}

/// Returns the KL divergence KL(p ‖ q) in nats. `p_total` and `q_total` are the log-sum-exp of the two rows of logits.
fn kl_from_totals(p: &[f32], p_total: f64, q: &[f32], q_total: f64) -> f64 {
    let term = |(&p, &q): (&f32, &f32)| {
        let (ln_p, ln_q) = (f64::from(p) - p_total, f64::from(q) - q_total);
        ln_p.exp() * (ln_p - ln_q)
    };
    // The exact sum is never negative, but rounding can make it slightly negative.
    p.iter().zip(q).map(term).sum::<f64>().max(0.0)
}

/// Returns ln Σ eˣ over the logits x; NaN if a logit is NaN.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if logits.iter().any(|x| x.is_nan()) {
        return f64::NAN;
    }
    // The largest term of the sum is 1. So `f32` exponentials are precise enough if the sum is `f64`.
    let sum: f64 = logits.iter().map(|x| f64::from((x - max).exp())).sum();
    f64::from(max) + sum.ln()
}

/// Returns the index of the largest logit; the first index if several logits are equal.
fn most_probable(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

/// Returns the mean; 0 if there is no value.
fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len().max(1) as f64
}

/// Returns the standard error of the mean.
fn standard_error(x: &[f64]) -> f64 {
    let m = mean(x);
    let variance = x.iter().map(|v| (v - m) * (v - m)).sum::<f64>() / (x.len().max(2) - 1) as f64;
    (variance / x.len().max(1) as f64).sqrt()
}

/// Computes the means, standard errors and percentiles of all scored tokens.
fn quality(found: &Results, has_reference: bool) -> Quality {
    let own = &found.own;
    let ppl = mean(&own.nll).exp();
    let mut quality = Quality {
        tokens_scored: own.nll.len(),
        ppl,
        ppl_se: ppl * standard_error(&own.nll),
        nll_by_context: own.nll_by_context.clone(),
        kld_mean: None,
        kld_by_context: None,
        kld_se: None,
        kld_p50: None,
        kld_p99: None,
        kld_max: None,
        top1_agreement: None,
        kld_mean_as_run: None,
        top1_agreement_as_run: None,
        delta_p_rms: None,
        ppl_ratio: None,
    };
    if has_reference {
        let (reference, divergence, as_run) = (&found.reference, &found.divergence, &found.as_run);
        let agreement = |same: &[bool]| same.iter().filter(|s| **s).count() as f64 / same.len().max(1) as f64;
        let mut sorted = divergence.kld.clone();
        sorted.sort_by(f64::total_cmp);
        let percentile = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        quality.kld_mean = Some(mean(&divergence.kld));
        quality.kld_by_context = Some(divergence.kld_by_context.clone());
        quality.kld_se = Some(standard_error(&divergence.kld));
        quality.kld_p50 = Some(percentile(0.5));
        quality.kld_p99 = Some(percentile(0.99));
        quality.kld_max = Some(percentile(1.0));
        quality.top1_agreement = Some(agreement(&divergence.same_top));
        if !as_run.kld.is_empty() {
            quality.kld_mean_as_run = Some(mean(&as_run.kld));
            quality.top1_agreement_as_run = Some(agreement(&as_run.same_top));
        }
        quality.delta_p_rms =
            Some(mean(&divergence.delta_p.iter().map(|d| d * d).collect::<Vec<_>>()).sqrt());
        quality.ppl_ratio = Some(ppl / mean(&reference.nll).exp());
    }
    quality
}
