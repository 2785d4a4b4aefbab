//! The flags for sampling, with llama.cpp's names.

use crate::values::{Seed, seed, whole};
use clap::Args;
use kvant::model::{Dry, DynamicTemperature, Mirostat, Sampling, Xtc};

/// Flags for sampling. If a flag is not given, the model's default applies, or kvant's default if the model has none.
#[derive(Args, Clone)]
#[command(
    next_help_heading = "Sampling, in the order of the steps (settings of the model replace the defaults)"
)]
pub struct SamplingFlags {
    /// Add BIAS to the logit of a token id, for example 15043+1 or 15043-2.5; 15043-inf forbids the token. Can be given
    /// more than once
    #[arg(short, long, value_name = "TOKEN(+/-)BIAS", value_parser = bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Divide the logits of recent tokens by this value; negative logits are multiplied by it. 1 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub repeat_penalty: Option<f32>,
    /// Number of recent tokens for the repeat, frequency and presence penalties; 0 turns them off (default: 64)
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    pub repeat_last_n: Option<usize>,
    /// Subtract this value from the logit of a recent token, for each occurrence. 0 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Subtract this value from the logit of a recent token. 0 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// DRY: penalty for a token that would continue a repetition. 0 is off; 0.8 is usual
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub dry_multiplier: Option<f32>,
    /// DRY: factor of the penalty for each further token of the repetition (default: 1.75)
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub dry_base: Option<f32>,
    /// DRY: shortest repetition with a penalty, in tokens (default: 2)
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    pub dry_allowed_length: Option<usize>,
    /// DRY: number of recent tokens in which repetitions are searched for; 0 turns DRY off (default: 64)
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    pub dry_penalty_last_n: Option<usize>,
    /// DRY: a text that ends a repetition; \n and \t are a line break and a tab. Can be given more than once. `none`
    /// removes all (default: line break, colon, quotation mark, asterisk)
    #[arg(long, value_name = "TEXT", value_parser = unescaped, allow_hyphen_values = true)]
    pub dry_sequence_breaker: Vec<String>,
    /// Keep tokens whose logit is at most N standard deviations below the largest. 0 or -1 is off
    #[arg(long, visible_alias = "top-n-sigma", value_name = "N", allow_negative_numbers = true)]
    pub top_nsigma: Option<f32>,
    /// Keep the K most probable tokens; 0 keeps all (default: 40)
    #[arg(long, value_name = "K", value_parser = whole, allow_negative_numbers = true)]
    pub top_k: Option<usize>,
    /// Keep the tokens with the most typical surprise, up to this total probability. 1 is off
    #[arg(long, visible_alias = "typical-p", value_name = "P", allow_negative_numbers = true)]
    pub typical: Option<f32>,
    /// Keep the most probable tokens, up to this total probability. 1 is off (default: 0.95)
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Keep tokens with at least this share of the largest probability. 0 is off (default: 0.05)
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// XTC: probability that the top choices except the last are removed. 0 is off
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub xtc_probability: Option<f32>,
    /// XTC: probability from which a token is a top choice; above 0.5 is off (default: 0.1)
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub xtc_threshold: Option<f32>,
    /// Temperature; 0 takes the most probable token (default: 0.8)
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temp: Option<f32>,
    /// The temperature changes by up to this value with the entropy. 0 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub dynatemp_range: Option<f32>,
    /// Exponent of the entropy for --dynatemp-range (default: 1)
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub dynatemp_exp: Option<f32>,
    /// 2: Mirostat 2.0, which keeps the surprise near a target; then only --logit-bias and --temp apply beside it. 0 is
    /// off
    #[arg(long, value_name = "VERSION", value_parser = mirostat, allow_negative_numbers = true)]
    pub mirostat: Option<u32>,
    /// Mirostat: learning rate (default: 0.1)
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub mirostat_lr: Option<f32>,
    /// Mirostat: target of the surprise, in bits (default: 5)
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub mirostat_ent: Option<f32>,
    /// Seed; -1 draws one (default: 0; `serve` draws one for each request)
    #[arg(long, value_parser = seed, allow_negative_numbers = true)]
    seed: Option<Seed>,
}

impl SamplingFlags {
    /// Returns the given settings. The value of a flag that was given replaces the setting. The seed always comes from
    /// the flag.
    pub fn over(&self, settings: Sampling) -> Sampling {
        let (dynamic, xtc) = (settings.dynamic_temperature, settings.xtc);
        let (dry, mirostat) = (settings.dry, settings.mirostat);
        // llama.cpp's value for off is -1.
        let top_n_sigma = self.top_nsigma.map(|count| if count == -1.0 { 0.0 } else { count });
        let biases = if self.logit_bias.is_empty() { settings.logit_bias } else { self.logit_bias.clone() };
        Sampling {
            temperature: self.temp.unwrap_or(settings.temperature),
            dynamic_temperature: DynamicTemperature {
                range: self.dynatemp_range.unwrap_or(dynamic.range),
                exponent: self.dynatemp_exp.unwrap_or(dynamic.exponent),
            },
            top_k: self.top_k.unwrap_or(settings.top_k),
            top_p: self.top_p.unwrap_or(settings.top_p),
            min_p: self.min_p.unwrap_or(settings.min_p),
            typical_p: self.typical.unwrap_or(settings.typical_p),
            top_n_sigma: top_n_sigma.unwrap_or(settings.top_n_sigma),
            xtc: Xtc {
                probability: self.xtc_probability.unwrap_or(xtc.probability),
                threshold: self.xtc_threshold.unwrap_or(xtc.threshold),
            },
            repeat_penalty: self.repeat_penalty.unwrap_or(settings.repeat_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(settings.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(settings.presence_penalty),
            repeat_last_n: self.repeat_last_n.unwrap_or(settings.repeat_last_n),
            dry: Dry {
                multiplier: self.dry_multiplier.unwrap_or(dry.multiplier),
                base: self.dry_base.unwrap_or(dry.base),
                allowed_length: self.dry_allowed_length.unwrap_or(dry.allowed_length),
                penalty_last_n: self.dry_penalty_last_n.unwrap_or(dry.penalty_last_n),
                sequence_breakers: self.sequence_breakers().unwrap_or(dry.sequence_breakers),
            },
            mirostat: Mirostat {
                version: self.mirostat.unwrap_or(mirostat.version),
                target_entropy: self.mirostat_ent.unwrap_or(mirostat.target_entropy),
                learning_rate: self.mirostat_lr.unwrap_or(mirostat.learning_rate),
            },
            logit_bias: biases,
            seed: self.seed().number,
        }
    }

    /// Returns the seed.
    pub fn seed(&self) -> Seed {
        self.seed.unwrap_or_default()
    }

    /// Returns the seed if the flag was given.
    pub fn given_seed(&self) -> Option<u64> {
        self.seed.map(|seed| seed.number)
    }

    /// Returns the texts that were given, or `None` without the flag. `none` removes the texts before it.
    fn sequence_breakers(&self) -> Option<Vec<String>> {
        let given = &self.dry_sequence_breaker;
        let begin = given.iter().rposition(|text| text == "none").map_or(0, |last| last + 1);
        (!given.is_empty()).then(|| given[begin..].to_vec())
    }
}

/// Parses the version of Mirostat.
fn mirostat(text: &str) -> Result<u32, String> {
    match text {
        "0" => Ok(0),
        "2" => Ok(2),
        _ => Err("expected 0 (off) or 2 (Mirostat 2.0)".to_owned()),
    }
}

/// Parses a token id, a sign and a number: `15043+1`, `15043-inf`.
fn bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.find(['+', '-']).and_then(|at| {
        let (token, number) = text.split_at(at);
        // The sign is one character. A second sign is an error.
        let unsigned = !number[1..].starts_with(['+', '-']);
        let bias = number.parse().ok().filter(|bias: &f32| unsigned && !bias.is_nan())?;
        Some((token.parse().ok()?, bias))
    });
    parsed.ok_or_else(|| "expected a token id, a sign and a number, such as 15043+1 or 15043-inf".to_owned())
}

/// Replaces `\n`, `\r`, `\t`, `\\`, `\"` and `\'` by the characters that they mean, as llama.cpp does. Other
/// backslashes stay.
fn unescaped(text: &str) -> Result<String, std::convert::Infallible> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let meaning = match (c, rest.clone().next()) {
            ('\\', Some('n')) => '\n',
            ('\\', Some('r')) => '\r',
            ('\\', Some('t')) => '\t',
            ('\\', Some(quoted @ ('\\' | '"' | '\''))) => quoted,
            _ => {
                plain.push(c);
                continue;
            }
        };
        rest.next();
        plain.push(meaning);
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bias_has_a_token_a_sign_and_a_number() {
        assert_eq!(bias("15043+1"), Ok((15043, 1.0)));
        assert_eq!(bias("7-2.5"), Ok((7, -2.5)));
        assert_eq!(bias("7-inf"), Ok((7, f32::NEG_INFINITY)));
        assert_eq!(bias("7-1e-3"), Ok((7, -1e-3)));
        for wrong in
            ["", "7", "+1", "-1", "7+", "7--1", "7+-1", "x+1", "7+x", "7+nan", "7 + 1", "4294967296+1"]
        {
            assert!(bias(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn escapes_mean_their_characters() {
        assert_eq!(unescaped(r#"a\n\t\r\\n\"\'\x\"#), Ok("a\n\t\r\\n\"'\\x\\".to_owned()));
    }
}
