//! The job `logits`: computes all logits of a prompt, so that the logits can be compared with another engine's logits.

use crate::Error;
use kvant_io::OutputFile;
use kvant_model::{Transformer, Want};
use serde::Serialize;
use std::path::Path;

/// Runs tokens and returns the logits of every position.
pub struct Logits<'a> {
    /// The network.
    pub network: &'a Transformer,
    /// The tokens.
    pub tokens: Vec<u32>,
    /// True runs one token at a time through the KV cache, as decode does. False runs one prefill.
    pub stepwise: bool,
}

/// The logits of a sequence of tokens.
#[derive(Serialize, schemars::JsonSchema)]
pub struct LogitsResult {
    /// The token ids that were run.
    pub tokens: Vec<u32>,
    /// The shape of `logits`: positions, vocabulary.
    pub shape: [usize; 2],
    /// The most likely tokens after the last position.
    pub top: Vec<TopToken>,
    /// All logits, one row for each position.
    #[serde(skip)]
    pub logits: Vec<f32>,
}

/// One of the most likely tokens.
#[derive(Serialize, schemars::JsonSchema)]
pub struct TopToken {
    /// The token's id.
    pub id: u32,
    /// The token's logit.
    pub logit: f32,
}

/// The number of most likely tokens in the result.
const TOP_TOKENS: usize = 10;

/// Number of floats that are converted to bytes in one step.
const CHUNK: usize = 1 << 16;

impl Logits<'_> {
    /// Computes the logits.
    ///
    /// # Errors
    /// No tokens; more tokens than the model's context; a token outside the vocabulary.
    pub fn run(&self) -> Result<LogitsResult, Error> {
        let Self { network, tokens, .. } = self;
        if tokens.is_empty() {
            return Err(Error::option("--tokens", "there are no tokens to run"));
        }
        let (context, vocabulary) = (network.spec().context, network.spec().vocabulary);
        if tokens.len() > context {
            return Err(kvant_model::Error::Context { needed: tokens.len(), context }.into());
        }
        let mut sequence = network.sequence(tokens.len());
        let mut logits = Vec::new();
        if self.stepwise {
            for &token in tokens {
                logits.extend(network.next_logits(&mut sequence, &[token])?);
            }
        } else {
            logits = network.logits(&network.prefill(&mut sequence, tokens, Want::All)?);
        }
        let last = &logits[logits.len() - vocabulary..];
        let mut order: Vec<usize> = (0..vocabulary).collect();
        order.sort_by(|&a, &b| last[b].total_cmp(&last[a]).then(a.cmp(&b)));
        let top = order
            .into_iter()
            .take(TOP_TOKENS)
            .map(|id| TopToken { id: id as u32, logit: last[id] })
            .collect();
        Ok(LogitsResult { shape: [tokens.len(), vocabulary], tokens: tokens.clone(), top, logits })
    }
}

impl LogitsResult {
    /// Writes all logits as a NumPy file.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn write_npy(&self, path: &Path, force: bool) -> Result<(), Error> {
        let header = kvant_report::npy_header(self.shape);
        let bytes = (header.len() + size_of_val(&self.logits[..])) as u64;
        let mut file = OutputFile::create(path, bytes, force)?;
        file.write(&header)?;
        for piece in self.logits.chunks(CHUNK) {
            file.write(&piece.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
        }
        Ok(file.finish()?)
    }
}
