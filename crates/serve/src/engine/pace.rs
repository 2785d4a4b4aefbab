//! The number of tokens of a step.
//!
//! A step with many tokens reads prompts fast, and lets all other requests wait. Both depend on the network and the
//! machine, so the times of earlier steps decide (docs/adr/0023-server.md).

use kvant::model::Transformer;
use std::time::Duration;

/// Steps with prompts have a multiple of this number of tokens. With fewer tokens, products run far below their speed.
const BLOCK: usize = 8;
/// The smallest number of tokens of one or two prompts in a step with running answers.
const LEAST: usize = 12;
/// The number of tokens that each further prompt adds, because then most requests wait for their first token.
const LEAST_FURTHER: usize = 8;
/// The number of tokens in a step at which products reach their full speed.
const FULL_SPEED: usize = 64;
/// A step with prompts and running answers may take this number of times as long as one without prompts.
const RATIO: f64 = 2.5;
/// Seconds of a step of several prompts without running answers.
const PROMPTS: f64 = 0.25;
/// Seconds of a step of one prompt while nothing else runs.
const ALONE: f64 = 1.0;
/// The weight of the last step in the averages.
const WEIGHT: f64 = 0.3;

/// Times of the steps so far.
#[derive(Debug, Default)]
pub struct Pace {
    /// Seconds of a step without prompts.
    answers: Option<f64>,
    /// Seconds for each token in a step with prompts.
    token: Option<f64>,
}

impl Pace {
    /// Returns the number of tokens of `prompts` prompts (at least 1) in the next step, beside `answers` running answers.
    pub fn prompt_tokens(&self, answers: usize, prompts: usize) -> usize {
        let target = match (answers, prompts) {
            (0, 1) => Some(ALONE),
            (0, _) => Some(PROMPTS),
            _ => self.answers.map(|seconds| seconds * RATIO),
        };
        let fitting = match (target, self.token) {
            (Some(target), Some(token)) => (target / token) as usize / BLOCK * BLOCK,
            _ => 0,
        };
        let least = match answers {
            0 => BLOCK,
            _ => {
                let prompts = (LEAST + LEAST_FURTHER * prompts.saturating_sub(2)).min(FULL_SPEED);
                (answers + prompts).next_multiple_of(BLOCK)
            }
        };
        let most = Transformer::PIECE.max(least);
        (fitting.clamp(least, most) - answers).max(prompts)
    }

    /// Notes the time of a step with `tokens` tokens, of which `answers` belong to running answers.
    pub fn note(&mut self, answers: usize, tokens: usize, time: Duration) {
        let seconds = time.as_secs_f64().max(1e-9);
        if tokens == answers {
            average(&mut self.answers, seconds);
        } else if tokens >= BLOCK {
            average(&mut self.token, seconds / tokens as f64);
        }
    }
}

fn average(value: &mut Option<f64>, last: f64) {
    *value = Some(value.map_or(last, |value| value + WEIGHT * (last - value)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine: a step takes `step` seconds and `token` seconds for each token.
    fn settle(answers: usize, prompts: usize, step: f64, token: f64) -> (usize, f64) {
        let mut pace = Pace::default();
        let seconds = |tokens: usize| step + token * tokens as f64;
        for _ in 0..100 {
            if answers > 0 {
                pace.note(answers, answers, Duration::from_secs_f64(seconds(answers)));
            }
            let tokens = answers + pace.prompt_tokens(answers, prompts);
            pace.note(answers, tokens, Duration::from_secs_f64(seconds(tokens)));
        }
        let tokens = pace.prompt_tokens(answers, prompts);
        (tokens, seconds(answers + tokens))
    }

    #[test]
    fn a_step_is_a_multiple_of_a_block_and_keeps_its_time() {
        // Arithmetic takes most of the time: the smallest step.
        assert_eq!(settle(4, 1, 0.015, 0.006).0, 12);
        assert_eq!(settle(8, 2, 0.015, 0.006).0, 16);
        assert_eq!(settle(9, 1, 0.015, 0.006).0, 15);
        // Many requests wait for their first token.
        assert_eq!(settle(4, 4, 0.015, 0.006).0, 28);
        assert_eq!(settle(4, 30, 0.015, 0.006).0, 68);
        // Weights take most of it, as on a machine with many processors: more prompts for little time.
        for answers in [1, 5, 20, 300] {
            let (tokens, seconds) = settle(answers, 3, 0.030, 0.0003);
            let alone = 0.030 + 0.0003 * answers as f64;
            assert!((tokens + answers).is_multiple_of(BLOCK), "{tokens} beside {answers}");
            assert!((1.5..=RATIO).contains(&(seconds / alone)), "{seconds} beside {answers}: {alone}");
        }
    }

    #[test]
    fn a_step_without_answers_is_longer_but_bounded() {
        for (step, token) in [(0.015, 0.005), (0.1, 0.02), (0.01, 0.002)] {
            let (alone, seconds) = settle(0, 1, step, token);
            assert!((ALONE / 2.0..=ALONE).contains(&seconds), "{alone} in {seconds}");
            let (together, seconds) = settle(0, 4, step, token);
            assert!(
                together < alone && seconds <= PROMPTS.max(step + token * BLOCK as f64),
                "{together} in {seconds}"
            );
        }
        assert_eq!(settle(0, 1, 1e-5, 1e-6).0, Transformer::PIECE);
        assert_eq!(settle(0, 1, 5.0, 1.0).0, BLOCK);
    }

    #[test]
    fn every_prompt_gets_a_token() {
        let pace = Pace::default();
        assert_eq!(pace.prompt_tokens(0, 40), 40);
        assert_eq!(pace.prompt_tokens(3, 100), 100);
        assert_eq!(pace.prompt_tokens(600, 1), 16);
    }
}
