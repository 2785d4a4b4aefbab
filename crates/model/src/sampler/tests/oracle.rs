//! A plain oracle of each step: slow code that follows the definitions, in `f64`. It shares no code with the steps.
//!
//! A distribution is a list of logits, one for each token. Minus infinity is a removed token.

use super::super::settings::Dry;

pub(super) const NONE: f64 = f64::NEG_INFINITY;

/// Probabilities of the tokens at a temperature.
pub(super) fn softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let top = logits.iter().copied().fold(NONE, f64::max);
    let weights: Vec<f64> = logits.iter().map(|x| ((x - top) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// True if token `a` is before token `b`: a larger logit, or an equal logit and a lower id.
fn before(logits: &[f64], a: usize, b: usize) -> bool {
    logits[a] > logits[b] || logits[a] == logits[b] && a < b
}

fn keep(logits: &mut [f64], kept: impl Fn(usize) -> bool) {
    let removed: Vec<usize> = (0..logits.len()).filter(|&i| !kept(i)).collect();
    removed.into_iter().for_each(|i| logits[i] = NONE);
}

pub(super) fn bias(logits: &mut [f64], biases: &[(u32, f32)]) {
    for (token, bias) in biases {
        logits[*token as usize] += f64::from(*bias);
    }
}

pub(super) fn penalize(
    logits: &mut [f64],
    recent: &[u32],
    last_n: usize,
    repeat: f64,
    frequency: f64,
    presence: f64,
) {
    for (token, logit) in logits.iter_mut().enumerate() {
        let count = recent.iter().rev().take(last_n).filter(|t| **t as usize == token).count() as f64;
        if count > 0.0 {
            *logit = if *logit > 0.0 { *logit / repeat } else { *logit * repeat };
            *logit -= count * frequency + presence;
        }
    }
}

/// `texts` has the text of each token.
pub(super) fn dry(logits: &mut [f64], recent: &[u32], dry: &Dry, texts: &[&str]) {
    let window = &recent[recent.len().saturating_sub(dry.penalty_last_n)..];
    let breaks = |text: &str| dry.sequence_breakers.iter().any(|breaker| text.contains(breaker.as_str()));
    let join = |tokens: &[u32]| tokens.iter().map(|t| texts[*t as usize]).collect::<String>();
    // The repetition may have as many tokens as can be taken from the end of the text until a breaker ends in the next
    // token. A breaker ends in a token if the text up to the token has more breakers than the text before it.
    let count = |tokens: &[u32]| -> usize {
        let text = join(tokens);
        (1..=text.len())
            .filter(|&end| dry.sequence_breakers.iter().any(|b| text[..end].ends_with(b.as_str())))
            .count()
    };
    let limit = (0..window.len())
        .find(|&after| {
            let end = window.len() - after;
            count(&window[..end]) > count(&window[..end - 1])
        })
        .unwrap_or(window.len());
    for (token, logit) in logits.iter_mut().enumerate() {
        let mut longest = None;
        for j in 0..window.len().saturating_sub(1) {
            // The tokens up to position j end like the window.
            let common = (0..=j).take_while(|&i| window[j - i] == window[window.len() - 1 - i]).count();
            if window[j + 1] as usize == token {
                longest = longest.max(Some(common.min(limit)));
            }
        }
        if let Some(length) = longest
            && length >= dry.allowed_length
            && !breaks(texts[token])
        {
            let power = (0..length - dry.allowed_length).fold(1.0, |power, _| power * f64::from(dry.base));
            *logit -= f64::from(dry.multiplier) * power;
        }
    }
}

pub(super) fn top_n_sigma(logits: &mut [f64], count: f64) {
    let finite: Vec<f64> = logits.iter().copied().filter(|x| x.is_finite()).collect();
    let mean = finite.iter().sum::<f64>() / finite.len() as f64;
    let sigma = (finite.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / finite.len() as f64).sqrt();
    let top = finite.iter().copied().fold(NONE, f64::max);
    let all = logits.to_vec();
    keep(logits, |i| all[i] >= top - count * sigma);
}

pub(super) fn top_k(logits: &mut [f64], count: usize) {
    let all = logits.to_vec();
    keep(logits, |i| (0..all.len()).filter(|&j| before(&all, j, i)).count() < count);
}

pub(super) fn top_p(logits: &mut [f64], mass: f64) {
    let (all, p) = (logits.to_vec(), softmax(logits, 1.0));
    keep(logits, |i| {
        let more_probable = (0..all.len()).filter(|&j| before(&all, j, i)).map(|j| p[j]);
        let count = more_probable.clone().count();
        count == 0 || more_probable.sum::<f64>() < mass
    });
}

pub(super) fn min_p(logits: &mut [f64], fraction: f64) {
    let p = softmax(logits, 1.0);
    let top = p.iter().copied().fold(0.0, f64::max);
    keep(logits, |i| p[i] >= fraction * top);
}

pub(super) fn entropy(p: &[f64]) -> f64 {
    p.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum()
}

pub(super) fn typical_p(logits: &mut [f64], mass: f64) {
    let (all, p) = (logits.to_vec(), softmax(logits, 1.0));
    let entropy = entropy(&p);
    // Tokens with one logit have exactly one distance. On a tie, the order of the logits decides.
    let distance = |i: usize| (-p[i].ln() - entropy).abs();
    let nearer =
        |a: usize, b: usize| distance(a) < distance(b) || distance(a) == distance(b) && before(&all, a, b);
    keep(logits, |i| {
        let nearer = (0..all.len()).filter(|&j| p[j] > 0.0 && nearer(j, i)).map(|j| p[j]);
        p[i] > 0.0 && nearer.sum::<f64>() <= mass
    });
}

pub(super) fn exclude_top_choices(logits: &mut [f64], threshold: f64) {
    let (all, p) = (logits.to_vec(), softmax(logits, 1.0));
    keep(logits, |i| {
        p[i] < threshold || !(0..all.len()).any(|j| all[j] > NONE && p[j] >= threshold && before(&all, i, j))
    });
}

/// The dynamic temperature.
pub(super) fn dynamic(logits: &[f64], temperature: f64, range: f64, exponent: f64) -> f64 {
    let count = logits.iter().filter(|x| x.is_finite()).count();
    if count == 1 {
        return 1.0;
    }
    let share = entropy(&softmax(logits, 1.0)) / (count as f64).ln();
    let low = f64::max(0.0, temperature - range);
    low + (temperature + range - low) * share.powf(exponent)
}
