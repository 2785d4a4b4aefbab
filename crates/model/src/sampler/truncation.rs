//! Steps that remove candidates. Each keeps at least one. Top-k is [`Candidates::keep_best`].

use super::candidates::Candidates;

/// Keeps the candidates whose logit is at least the largest logit minus `count` standard deviations of all logits.
///
/// Source: Tang et al., Top-nσ: Not All Logits Are You Need (2024), <https://arxiv.org/abs/2411.07641>.
pub(super) fn top_n_sigma(candidates: &mut Candidates, count: f64) {
    let number = candidates.ids().len() as f64;
    let mean = candidates.logits().sum::<f64>() / number;
    let variance = candidates.logits().map(|x| (x - mean) * (x - mean)).sum::<f64>() / number;
    let top = candidates.logits().fold(f64::NEG_INFINITY, f64::max);
    let least = top - count * variance.sqrt();
    let keep: Vec<bool> = candidates.logits().map(|x| x >= least).collect();
    candidates.keep_where(&keep);
}

/// Keeps the candidates whose surprisal is nearest to the entropy, until the sum of their probabilities is above
/// `mass`. The most probable candidate can be removed.
///
/// Source: Meister et al., Locally Typical Sampling (2023), <https://arxiv.org/abs/2202.00666>.
pub(super) fn typical_p(candidates: &mut Candidates, mass: f64) {
    candidates.sort();
    let (probabilities, surprisals) = (candidates.probabilities(), candidates.surprisals());
    let entropy: f64 = probabilities.iter().zip(&surprisals).map(|(p, surprisal)| p * surprisal).sum();
    let distance = |i: usize| (surprisals[i] - entropy).abs();
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)));
    let mut keep = vec![false; order.len()];
    let mut reached = 0.0;
    for i in order {
        keep[i] = true;
        reached += probabilities[i];
        if reached > mass {
            break;
        }
    }
    candidates.keep_where(&keep);
}

/// Keeps the most probable candidates until the sum of their probabilities reaches `mass`.
///
/// Source: Holtzman et al., The Curious Case of Neural Text Degeneration (2020), <https://arxiv.org/abs/1904.09751>.
pub(super) fn top_p(candidates: &mut Candidates, mass: f64) {
    candidates.sort();
    let weights = candidates.weights();
    let enough = mass * weights.iter().sum::<f64>();
    let mut reached = 0.0;
    let last = weights.iter().position(|weight| {
        reached += weight;
        reached >= enough
    });
    candidates.keep_best(last.map_or(weights.len(), |last| last + 1));
}

/// Keeps the candidates whose probability is at least `fraction` of the largest probability.
///
/// Source: Nguyen et al., Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs (2024),
/// <https://arxiv.org/abs/2407.01082>.
pub(super) fn min_p(candidates: &mut Candidates, fraction: f64) {
    candidates.sort();
    let above = candidates.weights().iter().take_while(|weight| **weight >= fraction).count();
    candidates.keep_best(above.max(1));
}

/// XTC (exclude top choices): if two or more candidates have at least the probability `threshold`, keeps only the least
/// probable of them, and all candidates below the threshold. The chain applies this step at random.
///
/// Source: <https://github.com/oobabooga/text-generation-webui/pull/6335>.
pub(super) fn exclude_top_choices(candidates: &mut Candidates, threshold: f64) {
    candidates.sort();
    let top_choices = candidates.probabilities().iter().take_while(|p| **p >= threshold).count();
    candidates.drop_first(top_choices.saturating_sub(1));
}
