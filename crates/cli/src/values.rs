//! Parsers of flag values.

use crate::terminal;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use kvant::kernels::{Arithmetic, KvFormat, Precision};
use kvant::model::Pooling;

/// The values of `--activations`: the arithmetic of products between activations and quantized weights.
pub const ACTIVATIONS: &[(&str, Arithmetic)] = &[
    ("f32", Arithmetic::Float),
    ("int16", Arithmetic::Integer(Precision::Int16)),
    ("int8-outliers", Arithmetic::Integer(Precision::Int8Outliers)),
    ("int8", Arithmetic::Integer(Precision::Int8)),
];

/// The values of `--kv`: the format of the KV cache.
pub const KV: &[(&str, KvFormat)] =
    &[("f32", KvFormat::F32), ("f16", KvFormat::F16), ("q8_0", KvFormat::Q8_0), ("q4_0", KvFormat::Q4_0)];

/// The values of `--pooling`: the vector of a text.
pub const POOLING: &[(&str, Pooling)] =
    &[("mean", Pooling::Mean), ("cls", Pooling::First), ("last", Pooling::Last)];

/// Returns a parser that accepts one of the given words and returns the value of the word.
pub fn one_of<T: Copy + Send + Sync + 'static>(
    all: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.iter().map(|(word, _)| *word)).try_map(|word| {
        all.iter().find(|(known, _)| *known == word).map(|(_, meaning)| *meaning).ok_or("unknown")
    })
}

/// Parses a count of at least 0.
pub fn whole(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("expected a whole number from 0 to {}", usize::MAX))
}

/// Parses the maximum number of tokens of an answer. As in llama.cpp, -1 and -2 mean that only the context limits the
/// answer.
pub fn tokens(text: &str) -> Result<usize, String> {
    match text {
        "-1" | "-2" => Ok(usize::MAX),
        _ => whole(text).map_err(|_| {
            "expected a whole number of at least 0, or -1: until the end of the context".to_owned()
        }),
    }
}

/// The seed of random draws.
#[derive(Clone, Copy, Default)]
pub struct Seed {
    /// The seed.
    pub number: u64,
    /// True if `-1` asked for a random seed.
    drawn: bool,
}

impl Seed {
    /// Prints a seed that was drawn, so that the user can repeat the run with the same seed. Prints nothing if `quiet` is
    /// true.
    pub fn say(self, quiet: bool) {
        if self.drawn && !quiet {
            terminal::say(format_args!(
                "note: seed {}; --seed {} gives the same again",
                self.number, self.number
            ));
        }
    }
}

/// Parses a seed. As in llama.cpp, -1 draws a random seed.
pub fn seed(text: &str) -> Result<Seed, String> {
    if text == "-1" {
        use std::hash::{BuildHasher, Hasher};
        // The standard library seeds its hash tables with random bits of the system. The seed has 53 bits, because
        // every JSON reader keeps integers of 53 bits exactly.
        let number = std::hash::RandomState::new().build_hasher().finish() >> 11;
        return Ok(Seed { number, drawn: true });
    }
    let number = text
        .parse()
        .map_err(|_| format!("expected a whole number from 0 to {}, or -1: a random one", u64::MAX))?;
    Ok(Seed { number, drawn: false })
}
