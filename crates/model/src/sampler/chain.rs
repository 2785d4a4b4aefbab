//! The chain of steps that leads from logits to the distribution of the next token. The chain is plain data.
//!
//! Source: llama.cpp's `common/sampling.cpp` and `common/common.h` for the order: logit bias, penalties, DRY,
//! top-n-sigma, top-k, typical-p, top-p, min-p, XTC, temperature. With Mirostat: logit bias, temperature, Mirostat.

use super::candidates::Candidates;
use super::dry::{self, Breakers};
use super::mirostat::Limit;
use super::settings::{Dry, Sampling};
use super::{SamplerError, penalties, temperature, truncation, unit};
use rand_chacha::ChaCha8Rng;

/// One step, with its settings.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    LogitBias(Vec<(u32, f32)>),
    Penalties { repeat: f32, frequency: f32, presence: f32, last_n: usize },
    Dry(Dry),
    TopNSigma(f64),
    TopK(usize),
    TypicalP(f64),
    TopP(f64),
    MinP(f64),
    Xtc { probability: f64, threshold: f64 },
    Temperature(f64),
    DynamicTemperature { low: f64, high: f64, exponent: f64 },
    Mirostat,
}

/// The state that steps read and change.
pub(super) struct State {
    pub(super) random: ChaCha8Rng,
    pub(super) breakers: Breakers,
    pub(super) limit: Limit,
}

/// Returns the steps that these settings turn on, in their order.
pub(super) fn chain(sampling: &Sampling) -> Vec<Step> {
    let settings = sampling;
    let temperature = f64::from(settings.temperature);
    let range = f64::from(settings.dynamic_temperature.range);
    let bias = Step::LogitBias(settings.logit_bias.clone());
    if settings.mirostat.version != 0 {
        let steps = [
            (!settings.logit_bias.is_empty(), bias),
            (true, Step::Temperature(temperature)),
            (true, Step::Mirostat),
        ];
        return only_on(steps);
    }
    let penalties = Step::Penalties {
        repeat: settings.repeat_penalty,
        frequency: settings.frequency_penalty,
        presence: settings.presence_penalty,
        last_n: settings.repeat_last_n,
    };
    let neutral = settings.repeat_penalty == 1.0
        && settings.frequency_penalty == 0.0
        && settings.presence_penalty == 0.0;
    let with_xtc = settings.xtc.probability > 0.0 && settings.xtc.threshold <= 0.5;
    // At temperature 0 the best token is chosen. Only typical-p and XTC can remove the best token. Without these two,
    // the other steps that remove tokens would be work without effect.
    let greedy = temperature == 0.0 && range == 0.0;
    let truncate = !greedy || settings.typical_p < 1.0 || with_xtc;
    let last = if range > 0.0 {
        Step::DynamicTemperature {
            low: (temperature - range).max(0.0),
            high: temperature + range,
            exponent: f64::from(settings.dynamic_temperature.exponent),
        }
    } else {
        Step::Temperature(temperature)
    };
    only_on([
        (!settings.logit_bias.is_empty(), bias),
        (!neutral && settings.repeat_last_n > 0, penalties),
        (settings.dry.is_on(), Step::Dry(settings.dry.clone())),
        (truncate && settings.top_n_sigma > 0.0, Step::TopNSigma(settings.top_n_sigma.into())),
        (truncate && settings.top_k > 0, Step::TopK(settings.top_k)),
        (truncate && settings.typical_p < 1.0, Step::TypicalP(settings.typical_p.into())),
        (truncate && settings.top_p < 1.0, Step::TopP(settings.top_p.into())),
        (truncate && settings.min_p > 0.0, Step::MinP(settings.min_p.into())),
        (
            with_xtc,
            Step::Xtc {
                probability: settings.xtc.probability.into(),
                threshold: settings.xtc.threshold.into(),
            },
        ),
        (true, last),
    ])
}

fn only_on<const N: usize>(steps: [(bool, Step); N]) -> Vec<Step> {
    steps.into_iter().filter(|(on, _)| *on).map(|(_, step)| step).collect()
}

impl Step {
    /// Applies the step. `recent` has the earlier tokens, the oldest first. XTC draws a random number if there are at
    /// least two candidates; the other steps draw none.
    ///
    /// # Errors
    /// [`SamplerError::BiasedToken`] for a bias of a token that does not exist; [`SamplerError::NoneAllowed`] if the
    /// biases forbid all candidates.
    pub(super) fn apply(
        &self,
        candidates: &mut Candidates,
        recent: &[u32],
        state: &mut State,
    ) -> Result<(), SamplerError> {
        match self {
            Self::LogitBias(biases) => {
                penalties::bias(candidates, biases)?;
                candidates.check_any()?;
            }
            Self::Penalties { repeat, frequency, presence, last_n } => {
                let window = &recent[recent.len().saturating_sub(*last_n)..];
                penalties::penalize(candidates, window, *repeat, *frequency, *presence);
            }
            Self::Dry(settings) => dry::penalize(candidates, settings, &state.breakers, recent),
            Self::TopNSigma(count) => truncation::top_n_sigma(candidates, *count),
            Self::TopK(count) => candidates.keep_best(*count),
            Self::TypicalP(mass) => truncation::typical_p(candidates, *mass),
            Self::TopP(mass) => truncation::top_p(candidates, *mass),
            Self::MinP(fraction) => truncation::min_p(candidates, *fraction),
            Self::Xtc { probability, threshold } => {
                if candidates.ids().len() > 1 && unit(&mut state.random) < *probability {
                    truncation::exclude_top_choices(candidates, *threshold);
                }
            }
            Self::Temperature(divisor) => candidates.scale(*divisor),
            Self::DynamicTemperature { low, high, exponent } => {
                temperature::dynamic(candidates, *low, *high, *exponent);
            }
            Self::Mirostat => state.limit.truncate(candidates),
        }
        Ok(())
    }
}
