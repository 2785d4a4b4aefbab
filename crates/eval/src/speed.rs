//! How fast a model reads a prompt and writes an answer here and now.

use crate::Error;
use kvant_model::{KvCache, Transformer};
use std::time::Instant;

/// Tokens a second.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Of a prompt.
    pub prefill_tps: f64,
    /// Of an answer, one at a time.
    pub decode_tps: f64,
}

/// Measures a prompt of `prompt` tokens and an answer of `answer` tokens, the best of three each.
///
/// # Errors
/// What the model says.
pub fn speed(model: &Transformer, prompt: usize, answer: usize) -> Result<Speed, Error> {
    let vocabulary = model.spec().vocabulary as u32;
    let tokens: Vec<u32> = (0..prompt as u32).map(|i| i * 37 % vocabulary).collect();
    let (mut prefill_tps, mut decode_tps) = (0.0f64, 0.0f64);
    for _ in 0..3 {
        let mut cache = KvCache::new(model.spec(), prompt + answer);
        let begin = Instant::now();
        model.next(&mut cache, &tokens)?;
        prefill_tps = prefill_tps.max(prompt as f64 / begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        for i in 0..answer as u32 {
            model.next(&mut cache, &[i % vocabulary])?;
        }
        decode_tps = decode_tps.max(answer as f64 / begin.elapsed().as_secs_f64());
    }
    Ok(Speed { prefill_tps, decode_tps })
}
