//! Noise: random tokens for a share of the calibration contexts.
//!
//! Text of one kind uses only few directions of a network's activations. A solver that sees only text of one kind
//! reduces the accuracy of all other directions. Noise prevents this loss. Half of the noise contexts are tokens drawn
//! from the whole vocabulary. The other half are words of letters drawn from many scripts. docs/quality.md gives the
//! measured effect.

use crate::Error;
use kvant_model::{Special, TokenKind, Tokenizer};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Unicode ranges of letters and a few symbols: first and last code point, both inclusive.
const SCRIPTS: [(u32, u32); 18] = [
    (0x21, 0x40),
    (0x41, 0x7a),
    (0xc0, 0x17f),
    (0x391, 0x3c9),
    (0x410, 0x44f),
    (0x561, 0x586),
    (0x5d0, 0x5ea),
    (0x621, 0x64a),
    (0x905, 0x939),
    (0x985, 0x9b9),
    (0xb85, 0xbb9),
    (0xe01, 0xe2e),
    (0x10d0, 0x10f0),
    (0x3041, 0x3096),
    (0x30a1, 0x30fa),
    (0x4e00, 0x9fa5),
    (0xac00, 0xd7a3),
    (0x1f300, 0x1f5ff),
];
/// Number of consecutive words of one script.
const WORDS_PER_SCRIPT: u32 = 24;

/// Returns the tokens of `contexts` contexts of `length` tokens, context after context. Contexts of random tokens below
/// `vocabulary` and contexts of random words alternate. The result depends only on the arguments. The result is shorter
/// if the tokenizer returns no tokens for words.
///
/// # Errors
/// Errors of the tokenizer.
pub(crate) fn noise(
    tokenizer: &Tokenizer,
    vocabulary: usize,
    contexts: usize,
    length: usize,
    seed: u64,
) -> Result<Vec<u32>, Error> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let kinds = &tokenizer.vocabulary().kinds;
    let count = tokenizer.len().min(vocabulary) as u32;
    let normal: Vec<u32> = (0..count).filter(|&id| kinds[id as usize] == TokenKind::Normal).collect();
    let mut word_tokens: Vec<u32> = Vec::new();
    let mut tokens = Vec::with_capacity(contexts * length);
    for context in 0..contexts {
        if context % 2 == 0 && !normal.is_empty() {
            tokens
                .extend((0..length).map(|_| normal[random_below(&mut random, normal.len() as u32) as usize]));
            continue;
        }
        while word_tokens.len() < length {
            let more = tokenizer.encode(&random_words(&mut random), Special { add: false, parse: false })?;
            if more.is_empty() {
                return Ok(tokens);
            }
            word_tokens.extend(more);
        }
        tokens.extend(word_tokens.drain(..length));
    }
    Ok(tokens)
}

/// Returns [`WORDS_PER_SCRIPT`] random words of one script, each with 1 to 7 letters.
fn random_words(random: &mut ChaCha8Rng) -> String {
    let (first, last) = SCRIPTS[random_below(random, SCRIPTS.len() as u32) as usize];
    let mut text = String::new();
    for _ in 0..WORDS_PER_SCRIPT {
        for _ in 0..=random_below(random, 7) {
            text.extend(char::from_u32(first + random_below(random, last - first + 1)));
        }
        text.push(' ');
    }
    text
}

/// Returns a random integer below `bound`.
fn random_below(random: &mut ChaCha8Rng, bound: u32) -> u32 {
    ((u64::from(random.next_u32()) * u64::from(bound)) >> 32) as u32
}
