//! Settings for the choice of tokens, and their ranges. Names and defaults are those of llama.cpp.

use super::SamplerError;

/// Settings for the choice of tokens. The default is temperature 0.8, top-k 40, top-p 0.95, min-p 0.05; every other step
/// is off.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divisor of the logits, 0 to 1,000,000. At 0 the token with the largest logit is chosen.
    pub temperature: f32,
    /// Changes the temperature with the entropy.
    pub dynamic_temperature: DynamicTemperature,
    /// Number of most probable tokens that are kept; 0 keeps all tokens.
    pub top_k: usize,
    /// The most probable tokens are kept until the sum of their probabilities reaches this value, 0 to 1. 1 is off.
    pub top_p: f32,
    /// Tokens are kept if their probability is at least this fraction of the largest probability, 0 to 1. 0 is off.
    pub min_p: f32,
    /// Locally typical sampling: the tokens whose surprisal is nearest to the entropy are kept until the sum of their
    /// probabilities is above this value, 0 to 1. 1 is off.
    pub typical_p: f32,
    /// Tokens are kept if their logit is at least the largest logit minus this number of standard deviations of the
    /// logits, 0 to 1,000,000. 0 is off.
    pub top_n_sigma: f32,
    /// Removes the most probable tokens at random.
    pub xtc: Xtc,
    /// Penalty for recent tokens: a positive logit is divided by this value, another logit is multiplied by it.
    /// 0.000001 to 1,000,000. 1 is off.
    pub repeat_penalty: f32,
    /// Subtracted from the logit of a recent token, once for each occurrence. -1,000,000 to 1,000,000. 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted from the logit of a recent token. -1,000,000 to 1,000,000. 0 is off.
    pub presence_penalty: f32,
    /// Number of recent tokens for the three penalties above; 0 turns the penalties off.
    pub repeat_last_n: usize,
    /// Penalty for tokens that would continue a repetition.
    pub dry: Dry,
    /// Keeps the surprise of the chosen tokens near a target. Then only the logit bias, `temperature` and Mirostat
    /// apply, as in llama.cpp.
    pub mirostat: Mirostat,
    /// Token ids, and the numbers that are added to their logits: -1,000,000 to 1,000,000, or minus infinity, which
    /// forbids the token. The biases of one token are added up.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the random number generator.
    pub seed: u64,
}

/// Settings of the dynamic temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicTemperature {
    /// The temperature changes by at most this value, 0 to 1,000,000. 0 is off.
    pub range: f32,
    /// Exponent of the entropy, 0 to 1,000,000.
    pub exponent: f32,
}

/// Settings of XTC (exclude top choices).
#[derive(Clone, Debug, PartialEq)]
pub struct Xtc {
    /// Probability that the step is applied to a choice, 0 to 1. 0 is off.
    pub probability: f32,
    /// A token is a top choice if it has at least this probability, 0 to 1. Above 0.5 the step is off, because it would
    /// have no effect.
    pub threshold: f32,
}

/// Settings of DRY (don't repeat yourself).
#[derive(Clone, Debug, PartialEq)]
pub struct Dry {
    /// Penalty for a repetition of `allowed_length` tokens, 0 to 1,000,000. 0 is off.
    pub multiplier: f32,
    /// Factor of the penalty for each further token of the repetition, 1 to 1,000,000.
    pub base: f32,
    /// Length of the shortest repetition with a penalty, in tokens.
    pub allowed_length: usize,
    /// Number of recent tokens in which repetitions are searched for; 0 turns DRY off.
    pub penalty_last_n: usize,
    /// Texts that end a repetition. At most [`Dry::MOST_BREAKERS`], each of 1 to [`Dry::LONGEST_BREAKER`] bytes.
    pub sequence_breakers: Vec<String>,
}

/// Settings of Mirostat.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirostat {
    /// Version of the algorithm: 2, or 0 for off.
    pub version: u32,
    /// Target of the surprise (τ), in bits, 0 to 1,000,000.
    pub target_entropy: f32,
    /// Change of the limit for each bit of error (η), 0 to 1,000,000.
    pub learning_rate: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..Self::unrestricted(0) }
    }
}

impl Dry {
    /// Largest number of sequence breakers.
    pub const MOST_BREAKERS: usize = 64;
    /// Length of the longest sequence breaker, in bytes.
    pub const LONGEST_BREAKER: usize = 40;

    /// True if the step changes anything.
    pub(super) fn is_on(&self) -> bool {
        self.multiplier > 0.0 && self.penalty_last_n > 0
    }
}

const NOT_NEGATIVE: (f32, f32, &str) = (0.0, 1e6, "a number from 0 to 1000000");
const SHARE: (f32, f32, &str) = (0.0, 1.0, "a number from 0 to 1");
const SIGNED: (f32, f32, &str) = (-1e6, 1e6, "a number from -1000000 to 1000000");
const FACTOR: (f32, f32, &str) = (1e-6, 1e6, "a number from 0.000001 to 1000000");
const FROM_ONE: (f32, f32, &str) = (1.0, 1e6, "a number from 1 to 1000000");
const BIAS: (f32, f32, &str) = (-1e6, 1e6, "a number from -1000000 to 1000000, or -inf");

impl Sampling {
    /// Returns settings that sample from the model's own distribution: temperature 1, and every other step is off.
    pub fn unrestricted(seed: u64) -> Self {
        Self {
            temperature: 1.0,
            dynamic_temperature: DynamicTemperature { range: 0.0, exponent: 1.0 },
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            top_n_sigma: 0.0,
            xtc: Xtc { probability: 0.0, threshold: 0.1 },
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: 64,
            dry: Dry {
                multiplier: 0.0,
                base: 1.75,
                allowed_length: 2,
                penalty_last_n: 64,
                sequence_breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
            },
            mirostat: Mirostat { version: 0, target_entropy: 5.0, learning_rate: 0.1 },
            logit_bias: Vec::new(),
            seed,
        }
    }

    /// Checks the range of each setting.
    ///
    /// # Errors
    /// [`SamplerError::Setting`] and [`SamplerError::Breaker`] for a value outside of its range.
    pub(super) fn check(&self) -> Result<(), SamplerError> {
        for (name, value, (low, high, expected)) in [
            ("temp", self.temperature, NOT_NEGATIVE),
            ("dynatemp-range", self.dynamic_temperature.range, NOT_NEGATIVE),
            ("dynatemp-exp", self.dynamic_temperature.exponent, NOT_NEGATIVE),
            ("top-p", self.top_p, SHARE),
            ("min-p", self.min_p, SHARE),
            ("typical", self.typical_p, SHARE),
            ("top-nsigma", self.top_n_sigma, NOT_NEGATIVE),
            ("xtc-probability", self.xtc.probability, SHARE),
            ("xtc-threshold", self.xtc.threshold, SHARE),
            ("repeat-penalty", self.repeat_penalty, FACTOR),
            ("frequency-penalty", self.frequency_penalty, SIGNED),
            ("presence-penalty", self.presence_penalty, SIGNED),
            ("dry-multiplier", self.dry.multiplier, NOT_NEGATIVE),
            ("dry-base", self.dry.base, FROM_ONE),
            ("mirostat-ent", self.mirostat.target_entropy, NOT_NEGATIVE),
            ("mirostat-lr", self.mirostat.learning_rate, NOT_NEGATIVE),
        ] {
            // NaN is outside of every range.
            if !(low..=high).contains(&value) {
                return Err(SamplerError::Setting { name, value, expected });
            }
        }
        let (low, high, expected) = BIAS;
        let allowed = |bias: f32| (low..=high).contains(&bias) || bias == f32::NEG_INFINITY;
        if let Some((_, value)) = self.logit_bias.iter().find(|(_, bias)| !allowed(*bias)) {
            return Err(SamplerError::Setting { name: "logit-bias", value: *value, expected });
        }
        if ![0, 2].contains(&self.mirostat.version) {
            let value = self.mirostat.version as f32;
            return Err(SamplerError::Setting { name: "mirostat", value, expected: "0 (off) or 2" });
        }
        self.check_breakers()
    }

    fn check_breakers(&self) -> Result<(), SamplerError> {
        let (breakers, longest) = (&self.dry.sequence_breakers, Dry::LONGEST_BREAKER);
        if breakers.len() > Dry::MOST_BREAKERS {
            let name = "the number of dry-sequence-breaker texts";
            let value = breakers.len() as f32;
            return Err(SamplerError::Setting { name, value, expected: "at most 64" });
        }
        match breakers.iter().find(|text| text.is_empty() || text.len() > longest) {
            Some(text) => Err(SamplerError::Breaker { text: text.chars().take(longest).collect(), longest }),
            None => Ok(()),
        }
    }
}
