//! The calibration text on which statistics are gathered, cut into contexts of tokens.
//!
//! All contexts have the same length. The first token is BOS if the model adds one. Every eighth context is selection
//! text: the part of the calibration text that is held out to choose settings. Methods that choose settings exclude
//! selection text from their statistics while they choose, and include it for the final solution. Another eighth may be
//! noise. With noise, solvers do not overfit to the topic of the text. Some noise is selection text too. Self-generated
//! text follows all other contexts (`self_generated`). Not covered here: reading text and generating noise; see
//! `calibration` and `noise` of the crate `kvant`.

use crate::Error;
use kvant_model::Spec;

/// Every eighth context is selection text.
pub const SELECTION_EVERY: usize = 8;
/// Noise may replace a context if the context's index modulo [`SELECTION_EVERY`] has this value.
const NOISE_AT: usize = 3;
/// Every third context of noise is selection text.
const SELECTED_NOISE_EVERY: usize = 3;

/// Contexts of tokens.
#[derive(Clone, Debug)]
pub struct Calibration {
    contexts: Vec<Vec<u32>>,
    source: String,
    /// True if the first token of each context is BOS.
    bos: bool,
    /// True if the last token of each context ends a text.
    ends: bool,
    /// Indices of the contexts that are noise.
    noise: Vec<usize>,
}

impl Calibration {
    /// Cuts each text's tokens into contexts of `length` tokens and interleaves the texts in proportion to their
    /// length. Takes at most `most` contexts. `source` names the texts in the card.
    ///
    /// # Errors
    /// No text has a whole context.
    pub fn new(
        texts: &[Vec<u32>],
        length: usize,
        most: usize,
        bos: Option<u32>,
        source: String,
    ) -> Result<Self, Error> {
        let mut placed: Vec<(f64, usize, Vec<u32>)> = Vec::new();
        for (index, tokens) in texts.iter().enumerate() {
            let contexts: Vec<_> = tokens.chunks_exact(length).collect();
            for (i, context) in contexts.iter().enumerate() {
                placed.push(((i as f64 + 0.5) / contexts.len() as f64, index, context.to_vec()));
            }
        }
        placed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        if placed.is_empty() {
            let found = texts.iter().map(Vec::len).sum();
            return Err(Error::ShortCalibration { found, context: length });
        }
        // Takes contexts at equal distances, so that a limit keeps the same share of every text.
        let (all, most) = (placed.len(), placed.len().min(most.max(1)));
        let mut contexts: Vec<Vec<u32>> =
            (0..most).map(|i| std::mem::take(&mut placed[i * all / most].2)).collect();
        if let Some(bos) = bos {
            contexts.iter_mut().for_each(|context| context[0] = bos);
        }
        Ok(Self { contexts, source, bos: bos.is_some(), ends: false, noise: Vec::new() })
    }

    /// Replaces the last token of each context by a token that ends a text.
    #[must_use]
    pub fn ending_in(mut self, token: u32) -> Self {
        self.contexts.iter_mut().filter_map(|context| context.last_mut()).for_each(|last| *last = token);
        self.ends = true;
        self
    }

    /// Returns the number of contexts that noise may replace; 0 if the calibration has fewer than 16 contexts.
    pub fn noisy(&self) -> usize {
        (0..self.contexts.len()).filter(|&i| self.is_noise_place(i)).count()
    }

    /// Returns true if noise may replace this context.
    fn is_noise_place(&self, index: usize) -> bool {
        self.contexts.len() >= 2 * SELECTION_EVERY && index % SELECTION_EVERY == NOISE_AT
    }

    /// Replaces contexts by `noise` (tokens, context after context). Tokens that begin or end a text are
    /// not replaced.
    #[must_use]
    pub fn with_noise(mut self, noise: &[u32]) -> Self {
        let length = self.length();
        let places: Vec<usize> = (0..self.contexts.len()).filter(|&i| self.is_noise_place(i)).collect();
        for (noise, place) in noise.chunks_exact(length).zip(places) {
            let (first, last) = (self.contexts[place][0], self.contexts[place][length - 1]);
            self.contexts[place].copy_from_slice(noise);
            if self.bos {
                self.contexts[place][0] = first;
            }
            if self.ends {
                self.contexts[place][length - 1] = last;
            }
            self.noise.push(place);
        }
        self
    }

    /// Appends self-generated contexts.
    #[must_use]
    pub(crate) fn with_self_generated(mut self, contexts: Vec<Vec<u32>>) -> Self {
        self.contexts.extend(contexts);
        self
    }

    /// Returns an error if contexts are longer than the network's table of learned positions.
    pub(crate) fn check(&self, spec: &Spec) -> Result<(), Error> {
        match &spec.embedding.positions {
            Some(positions) if positions.rows < self.length() => {
                let (needed, context) = (self.length(), positions.rows);
                Err(kvant_model::Error::Context { needed, context }.into())
            }
            _ => Ok(()),
        }
    }

    /// Returns all contexts.
    pub fn contexts(&self) -> &[Vec<u32>] {
        &self.contexts
    }

    /// Returns at most `most` contexts at equal distances, so that every kind of text and self-generated text are
    /// included.
    pub fn evenly(&self, most: usize) -> impl Iterator<Item = &[u32]> {
        let (all, count) = (&self.contexts, most.min(self.contexts.len()));
        (0..count).map(move |i| &*all[i * all.len() / count])
    }

    /// Returns the names of the texts, as the card shows them.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns the number of tokens of a context.
    pub fn length(&self) -> usize {
        self.contexts[0].len()
    }

    /// Returns the number of tokens of all contexts together.
    pub fn tokens(&self) -> usize {
        self.contexts.len() * self.length()
    }

    /// Returns true if context `index` is noise.
    pub fn is_noise(&self, index: usize) -> bool {
        self.noise.contains(&index)
    }

    /// Returns true if context `index` is selection text.
    pub fn selects(&self, index: usize) -> bool {
        let text = index % SELECTION_EVERY == SELECTION_EVERY - 1;
        let noise =
            || self.noise.iter().position(|&i| i == index).is_some_and(|n| n % SELECTED_NOISE_EVERY == 1);
        self.contexts.len() >= 2 * SELECTION_EVERY && (text || noise())
    }

    /// Returns at most `most` contexts of selection text without noise. If the calibration has no such contexts,
    /// returns the first `most` contexts.
    pub fn selection(&self, most: usize) -> Self {
        let text = |i: &usize| self.selects(*i) && !self.is_noise(*i);
        let selected = (0..self.contexts.len()).filter(text).take(most);
        let contexts: Vec<_> = selected.map(|i| self.contexts[i].clone()).collect();
        if contexts.is_empty() { self.first(most) } else { self.of(contexts) }
    }

    /// Returns the first `most` contexts, at least one.
    pub fn first(&self, most: usize) -> Self {
        self.of(self.contexts.iter().take(most.max(1)).cloned().collect())
    }

    fn of(&self, contexts: Vec<Vec<u32>>) -> Self {
        let Self { bos, ends, .. } = *self;
        Self { contexts, source: self.source.clone(), bos, ends, noise: Vec::new() }
    }

    /// Returns blake3 over all tokens, in hexadecimal.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for token in self.contexts.iter().flatten() {
            hasher.update(&token.to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}
