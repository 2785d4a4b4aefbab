//! Steps: each step runs any number of tokens of any number of sequences through the network in one batch.

use crate::layer_state::LayerState;
use crate::positions::SequencePosition;
use crate::{Attention, Error, Positions, Sequence, Transformer};
use std::collections::BTreeMap;
use std::ops::Range;

/// Selects the tokens of a part whose hidden states are returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// None, for a piece of a prompt that is not the last.
    Nothing,
    /// The last token.
    Last,
    /// All tokens.
    All,
    /// A range of tokens.
    Rows(Range<usize>),
}

impl Want {
    /// Returns the selected rows of a part with `tokens` tokens. Panics if they exceed the tokens.
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

/// New tokens that are appended to a sequence.
pub struct Part<'a> {
    /// The sequence.
    pub sequence: &'a mut Sequence,
    /// Its next tokens; may be empty.
    pub tokens: &'a [u32],
    /// The tokens whose hidden states are returned.
    pub want: Want,
}

/// The states of one sequence in one block, and the number of its new tokens.
pub(crate) struct BlockStates<'a> {
    /// The states of the block's sublayers that have one.
    pub layers: &'a mut [LayerState],
    pub tokens: usize,
}

impl Transformer {
    /// Appends each part's tokens to its sequence, runs them, and returns the selected normalized hidden states: rows
    /// of the hidden size, in the order of the parts. [`Transformer::logits`] computes logits from them.
    ///
    /// Each row is bit-identical to the row of a step with this part alone. The memory for activations grows with the
    /// number of tokens in a step. A long prompt should run in pieces ([`Transformer::PIECE`]); a caller may stop
    /// between them.
    ///
    /// # Errors
    /// [`Error::Token`] for an id outside the vocabulary, [`Error::Context`] if a sequence would exceed its capacity,
    /// [`Error::States`] if the pool has no room, [`Error::NotCausal`] if a sequence of an encoder is not empty. After
    /// an error, all sequences are unchanged.
    pub fn step(&self, parts: &mut [Part]) -> Result<Vec<f32>, Error> {
        for part in &*parts {
            self.check(part.sequence, part.tokens)?;
        }
        prepare(parts)?;
        Ok(self.run(parts))
    }

    /// Runs a step, in several rounds if a sequence has no room for all its tokens ([`Sequence::room`]). The tokens must be
    /// checked and the memory must be taken.
    fn run(&self, parts: &mut [Part]) -> Vec<f32> {
        if parts.iter().all(|part| part.tokens.len() <= part.sequence.room()) {
            return self.run_at_once(parts);
        }
        let hidden = self.spec().hidden;
        let mut found = vec![Vec::new(); parts.len()];
        let mut done = vec![0; parts.len()];
        while parts.iter().zip(&done).any(|(part, done)| *done < part.tokens.len()) {
            let mut pieces: Vec<Part> = Vec::with_capacity(parts.len());
            for (part, done) in parts.iter_mut().zip(&mut done) {
                let start = *done;
                *done = part.tokens.len().min(start.saturating_add(part.sequence.room()));
                let (rows, end) = (part.want.rows(part.tokens.len()), *done);
                let within = |row: usize| row.clamp(start, end) - start;
                let want = Want::Rows(within(rows.start)..within(rows.end));
                pieces.push(Part { sequence: part.sequence, tokens: &part.tokens[start..end], want });
            }
            let states = self.run_at_once(&mut pieces);
            let mut rest = &states[..];
            for (found, piece) in found.iter_mut().zip(&pieces) {
                let (own, others) = rest.split_at(piece.want.rows(piece.tokens.len()).len() * hidden);
                found.extend_from_slice(own);
                rest = others;
            }
        }
        found.concat()
    }

    fn run_at_once(&self, parts: &mut [Part]) -> Vec<f32> {
        let tokens: Vec<u32> = parts.iter().flat_map(|part| part.tokens).copied().collect();
        let of_part = |part: &Part| {
            let (start, capacity) = (part.sequence.len(), part.sequence.capacity());
            (start..start + part.tokens.len()).map(move |position| SequencePosition { position, capacity })
        };
        let indices: Vec<SequencePosition> = parts.iter().flat_map(of_part).collect();
        let mut stream = self.embedding.rows(&tokens, indices.iter().map(|at| at.position));
        let positions = Positions::at(&self.ropes, indices.iter().copied());
        for (index, block) in self.blocks.iter().enumerate() {
            let states_of = self.spec().blocks[index].attentions().find_map(Attention::states_of);
            let mut states: Vec<BlockStates> = (parts.iter_mut())
                .map(|part| BlockStates {
                    layers: &mut part.sequence.blocks[states_of.unwrap_or(index)],
                    tokens: part.tokens.len(),
                })
                .collect();
            block.forward(&mut stream, &positions, &mut states);
        }
        let hidden = self.spec().hidden;
        let mut selected = Vec::new();
        let mut rest = self.embedding.layout().residual(&stream);
        for part in parts {
            part.sequence.length += part.tokens.len();
            let (own, others) = rest.split_at(part.tokens.len() * hidden);
            let rows = part.want.rows(part.tokens.len());
            selected.extend_from_slice(&own[rows.start * hidden..rows.end * hidden]);
            rest = others;
        }
        self.normalized(selected)
    }

    /// Runs a prompt piece by piece and returns the selected normalized hidden states. A network that is not causal reads
    /// a prompt as one piece.
    ///
    /// # Errors
    /// Errors of [`Transformer::step`]. If the whole prompt does not fit, no token runs.
    pub fn prefill(&self, sequence: &mut Sequence, tokens: &[u32], want: Want) -> Result<Vec<f32>, Error> {
        self.check(sequence, tokens)?;
        let length = if self.spec().is_causal() { Self::PIECE } else { tokens.len().max(1) };
        let reserve = sequence.reserve();
        sequence.prepare(tokens.len(), length)?;
        let rows = want.rows(tokens.len());
        let mut states = Vec::with_capacity(rows.len() * self.spec().hidden);
        for (index, piece) in tokens.chunks(length).enumerate() {
            let start = index * length;
            let within = |row: usize| row.clamp(start, start + piece.len()) - start;
            let want = Want::Rows(within(rows.start)..within(rows.end));
            states.extend(self.run(&mut [Part { sequence: &mut *sequence, tokens: piece, want }]));
        }
        // With windows, a prompt needs more pages at the same time than the tokens after it.
        sequence.shrink_reserve(&reserve);
        Ok(states)
    }

    /// Runs `tokens` and returns the logits of the last one.
    ///
    /// # Errors
    /// Errors of [`Transformer::prefill`]; [`Error::NoLogits`]; [`Error::Context`] with `needed` 0 if `tokens` is empty.
    pub fn next_logits(&self, sequence: &mut Sequence, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        if tokens.is_empty() {
            return Err(Error::Context { needed: 0, context: sequence.capacity() });
        }
        self.check_logits()?;
        Ok(self.logits(&self.prefill(sequence, tokens, Want::Last)?))
    }

    /// Checks that `tokens` are in the vocabulary and fit the capacity of `sequence`.
    fn check(&self, sequence: &Sequence, tokens: &[u32]) -> Result<(), Error> {
        self.check_tokens(tokens)?;
        if !sequence.is_empty() && !self.spec().is_causal() {
            return Err(Error::NotCausal { architecture: self.spec().architecture });
        }
        let (needed, context) = (sequence.len() + tokens.len(), sequence.capacity());
        if needed > context { Err(Error::Context { needed, context }) } else { Ok(()) }
    }

    /// Checks that `tokens` are in the vocabulary.
    pub(crate) fn check_tokens(&self, tokens: &[u32]) -> Result<(), Error> {
        let vocabulary = self.spec().vocabulary;
        match tokens.iter().find(|&&token| token as usize >= vocabulary) {
            Some(&token) => Err(Error::Token { token, vocabulary }),
            None => Ok(()),
        }
    }
}

/// Takes the memory for all parts. On failure, it takes nothing.
fn prepare(parts: &mut [Part]) -> Result<(), Error> {
    // A page that two parts share counts twice, although one of the two sequences can keep the original page.
    let mut needed: BTreeMap<usize, (usize, &Sequence)> = BTreeMap::new();
    for part in &*parts {
        let count = part.tokens.len();
        needed.entry(part.sequence.pool()).or_insert((0, part.sequence)).0 +=
            part.sequence.missing(count, count);
    }
    for (bytes, sequence) in needed.values() {
        sequence.check_pool(*bytes)?;
    }
    for index in 0..parts.len() {
        let part = &mut parts[index];
        let count = part.tokens.len();
        let taken = part.sequence.take(count, count);
        if taken.is_err() {
            parts[..index].iter_mut().for_each(|part| part.sequence.give_back());
            return taken;
        }
    }
    Ok(())
}
