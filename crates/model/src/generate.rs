//! Generates one answer. Tokens are chosen one after another to continue a prompt. Text is passed to the caller as soon
//! as its characters are complete.

use crate::{AnswerText, Error, Sampler, Sequence, Tokenizer, Transformer, Want};
use std::sync::Arc;
use std::time::Instant;

/// The reason why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model chose a token that ends an answer, or the text contains a stop text.
    Stop,
    /// The token limit or the end of the context was reached.
    Length,
    /// The caller ended the answer.
    Interrupted,
}

impl Finish {
    /// Name of the reason, as in the OpenAI API. `interrupted` is an addition of kvant.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Interrupted => "interrupted",
        }
    }
}

/// The answer to a prompt.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The chosen tokens, without the one that ended the answer.
    pub tokens: Vec<u32>,
    /// Text of the tokens, without the stop text.
    pub text: String,
    /// The reason why the answer ended.
    pub finish: Finish,
    /// Time for processing the prompt, in seconds.
    pub prefill_seconds: f64,
    /// Time for generating the answer, in seconds.
    pub decode_seconds: f64,
}

impl Answer {
    /// An answer that was stopped before its first token.
    fn interrupted() -> Self {
        Self {
            tokens: Vec::new(),
            text: String::new(),
            finish: Finish::Interrupted,
            prefill_seconds: 0.0,
            decode_seconds: 0.0,
        }
    }
}

/// Continues a text by an answer of at most `limit` tokens. `tokens_so_far` is the whole text, from the first token of
/// `sequence`: the tokens that `sequence` already holds, and after them at least one token that it does not hold. The
/// penalties of the sampler see the whole text. The answer also ends if its text contains one of the texts in `stop`.
/// `emit` is called with every new part of the text as soon as this part is final. After each piece of a long prompt,
/// `emit` is called with an empty text. The answer ends if `emit` returns false.
///
/// # Errors
/// An error if the text does not fit into the context, if a token is outside of the vocabulary, or if the weights are
/// damaged; [`Error::Context`] with `needed` 0 if `sequence` already holds all of `tokens_so_far`.
#[allow(clippy::too_many_arguments)]
pub fn generate(
    transformer: &Transformer,
    tokenizer: &Arc<Tokenizer>,
    sequence: &mut Sequence,
    sampler: &mut Sampler,
    tokens_so_far: &[u32],
    limit: usize,
    stop: &[String],
    emit: &mut dyn FnMut(&str) -> bool,
) -> Result<Answer, Error> {
    let begin = Instant::now();
    let rest = tokens_so_far.get(sequence.len()..).unwrap_or(&[]);
    let (pieces, last) =
        rest.split_at(rest.len().saturating_sub(1) / Transformer::PIECE * Transformer::PIECE);
    if !read_prompt(transformer, sequence, pieces, emit)? {
        let prefill_seconds = begin.elapsed().as_secs_f64();
        return Ok(Answer { prefill_seconds, ..Answer::interrupted() });
    }
    let mut logits = transformer.next_logits(sequence, last)?;
    // The next turn of a conversation can begin here.
    sequence.checkpoint();
    let prefill_seconds = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    let mut recent = tokens_so_far.to_vec();
    let mut answer = AnswerText::new(tokenizer, stop);
    let mut tokens = Vec::new();
    let mut finish = Finish::Length;
    while tokens.len() < limit {
        let token = sampler.pick(&logits, &recent)?;
        if tokenizer.end_of_generation().contains(&token) {
            finish = Finish::Stop;
            break;
        }
        tokens.push(token);
        recent.push(token);
        let stopped = answer.push(token);
        let piece = answer.take();
        let go_on = piece.is_empty() || emit(piece);
        if stopped {
            finish = Finish::Stop;
            break;
        }
        if !go_on {
            finish = Finish::Interrupted;
            break;
        }
        if tokens.len() == limit || sequence.len() == sequence.capacity() {
            break;
        }
        logits = transformer.next_logits(sequence, &[token])?;
    }
    answer.end(finish);
    let piece = answer.take();
    if !piece.is_empty() && finish != Finish::Interrupted {
        emit(piece);
    }
    let decode_seconds = begin.elapsed().as_secs_f64();
    Ok(Answer { tokens, text: answer.into_text(), finish, prefill_seconds, decode_seconds })
}

/// Appends `tokens` to `sequence`. After each piece of a long prompt, `emit` is called with an empty text. Returns false
/// if `emit` returned false, so that the rest was not read.
///
/// # Errors
/// Errors of [`Transformer::step`].
pub fn read_prompt(
    transformer: &Transformer,
    sequence: &mut Sequence,
    tokens: &[u32],
    emit: &mut dyn FnMut(&str) -> bool,
) -> Result<bool, Error> {
    for piece in tokens.chunks(Transformer::PIECE) {
        transformer.prefill(sequence, piece, Want::Nothing)?;
        if !emit("") {
            return Ok(false);
        }
    }
    Ok(true)
}
