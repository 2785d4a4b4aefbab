//! Steps: any number of tokens of any number of sequences through the network at once.

use crate::{Error, Positions, Sequence, Transformer};
use kvant_kernels::KeyValues;
use std::collections::BTreeMap;
use std::ops::Range;

/// Which rows of a part are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// None: a piece of a prompt that goes on.
    Nothing,
    /// The last token's.
    Last,
    /// Every token's.
    All,
    /// Those of some tokens.
    Rows(Range<usize>),
}

impl Want {
    /// Panics for rows beyond the tokens.
    fn rows(&self, tokens: usize) -> Range<usize> {
        let rows = match self {
            Self::Nothing => 0..0,
            Self::Last => tokens.saturating_sub(1)..tokens,
            Self::All => 0..tokens,
            Self::Rows(rows) => rows.clone(),
        };
        assert!(rows.end <= tokens, "rows of the part's tokens");
        rows
    }
}

/// Tokens that follow what a sequence holds.
pub struct Part<'a> {
    /// The sequence.
    pub sequence: &'a mut Sequence,
    /// Its next tokens; may be none.
    pub tokens: &'a [u32],
    /// Which of them are wanted.
    pub want: Want,
}

/// The states of one sequence in one block, and how many tokens come next.
pub(crate) struct BlockStates<'a> {
    /// One for each attention of the block.
    pub layers: &'a mut [KeyValues],
    pub tokens: usize,
}

impl Transformer {
    /// Runs the parts' tokens, each after what its sequence holds, and returns the normed hidden states that are wanted, rows of
    /// the network's width in the parts' order: [`Transformer::logits`] makes logits of them.
    ///
    /// Every row has the bits that it would have alone. Memory for activations grows with the tokens of a step: a long prompt
    /// goes in pieces ([`Transformer::PIECE`]), between which a caller may stop.
    ///
    /// # Errors
    /// [`Error::Token`] for an id outside the vocabulary, [`Error::Context`] where a sequence would overflow, [`Error::States`]
    /// where the pool has no room. All sequences are then as they were.
    pub fn step(&self, parts: &mut [Part]) -> Result<Vec<f32>, Error> {
        for part in &*parts {
            self.check(part.sequence, part.tokens)?;
        }
        prepare(parts)?;
        Ok(self.run(parts))
    }

    /// [`Transformer::step`] once the tokens are checked and the memory is taken.
    fn run(&self, parts: &mut [Part]) -> Vec<f32> {
        let tokens: Vec<u32> = parts.iter().flat_map(|part| part.tokens).copied().collect();
        let places: Vec<usize> = (parts.iter())
            .flat_map(|part| part.sequence.len()..part.sequence.len() + part.tokens.len())
            .collect();
        let mut residual = self.embedding.rows(&tokens, places.iter().copied());
        let positions = Positions::at(&self.ropes, places.iter().copied());
        for (index, block) in self.blocks.iter().enumerate() {
            let mut states: Vec<BlockStates> = (parts.iter_mut())
                .map(|part| BlockStates {
                    layers: &mut part.sequence.blocks[index],
                    tokens: part.tokens.len(),
                })
                .collect();
            block.forward(&mut residual, &positions, &mut states);
        }
        let hidden = self.spec().hidden;
        let mut wanted = Vec::new();
        let mut rest = &residual[..];
        for part in parts {
            part.sequence.length += part.tokens.len();
            let (own, others) = rest.split_at(part.tokens.len() * hidden);
            let rows = part.want.rows(part.tokens.len());
            wanted.extend_from_slice(&own[rows.start * hidden..rows.end * hidden]);
            rest = others;
        }
        let mut states = vec![0.0; wanted.len()];
        self.output_norm.apply_into(self.backend(), &wanted, &mut states);
        states
    }

    /// Runs a prompt piece by piece and returns the normed hidden states that are wanted.
    ///
    /// # Errors
    /// As [`Transformer::step`]. Nothing is run that does not fit as a whole.
    pub fn prefill(&self, sequence: &mut Sequence, tokens: &[u32], want: Want) -> Result<Vec<f32>, Error> {
        self.check(sequence, tokens)?;
        sequence.prepare(tokens.len())?;
        let rows = want.rows(tokens.len());
        let mut states = Vec::with_capacity(rows.len() * self.spec().hidden);
        for (index, piece) in tokens.chunks(Self::PIECE).enumerate() {
            let start = index * Self::PIECE;
            let within = |row: usize| row.clamp(start, start + piece.len()) - start;
            let want = Want::Rows(within(rows.start)..within(rows.end));
            states.extend(self.run(&mut [Part { sequence: &mut *sequence, tokens: piece, want }]));
        }
        Ok(states)
    }

    /// Runs `tokens` and returns the last one's logits.
    ///
    /// # Errors
    /// As [`Transformer::prefill`]; no tokens are an [`Error::Context`] of zero.
    pub fn next_logits(&self, sequence: &mut Sequence, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        if tokens.is_empty() {
            return Err(Error::Context { needed: 0, context: sequence.capacity() });
        }
        Ok(self.logits(&self.prefill(sequence, tokens, Want::Last)?))
    }

    /// Whether `tokens` can follow what `sequence` holds.
    fn check(&self, sequence: &Sequence, tokens: &[u32]) -> Result<(), Error> {
        let vocabulary = self.spec().vocabulary;
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocabulary) {
            return Err(Error::Token { token, vocabulary });
        }
        let (needed, context) = (sequence.len() + tokens.len(), sequence.capacity());
        if needed > context { Err(Error::Context { needed, context }) } else { Ok(()) }
    }
}

/// Takes the memory for all parts, or for none.
fn prepare(parts: &mut [Part]) -> Result<(), Error> {
    // A page that two parts share is counted twice, though the second one may keep it.
    let mut needed: BTreeMap<usize, (usize, &Sequence)> = BTreeMap::new();
    for part in &*parts {
        needed.entry(part.sequence.pool()).or_insert((0, part.sequence)).0 +=
            part.sequence.missing(part.tokens.len());
    }
    for (bytes, sequence) in needed.values() {
        sequence.check_pool(*bytes)?;
    }
    for index in 0..parts.len() {
        let part = &mut parts[index];
        let taken = part.sequence.take(part.tokens.len());
        if taken.is_err() {
            parts[..index].iter_mut().for_each(|part| part.sequence.give_back());
            return taken;
        }
    }
    Ok(())
}
