//! The text that statistics are gathered on, cut into contexts of tokens.
//!
//! Every context has the same length; its first token is BOS where the model adds one. Every eighth is selection
//! text: methods that choose keep it out of their statistics while they choose, and take it back for the final run.
//! Another eighth may be noise, which keeps solvers from leaning on what the text happens to be about; some of it is
//! selection text too. What the network itself has written comes after all of it (`self_generated`). Left out: where text and
//! noise come from.

use crate::Error;
use kvant_model::Spec;

/// Every so many contexts one is kept to choose by.
pub const SELECTION_EVERY: usize = 8;
/// Of as many, this one may be noise.
const NOISE_AT: usize = 3;
/// Of so many contexts of noise one is selection text.
const SELECTED_NOISE: usize = 3;

/// Contexts of tokens.
#[derive(Clone, Debug)]
pub struct Calibration {
    contexts: Vec<Vec<u32>>,
    source: String,
    /// Whether the first token of each is BOS.
    bos: bool,
    /// Which are noise.
    noise: Vec<usize>,
}

impl Calibration {
    /// Cuts each text's tokens into contexts of `length` and takes from all texts in turn, in proportion to their
    /// length, until `most` contexts are there. `source` names the texts in the card.
    ///
    /// # Errors
    /// Texts of which none has a whole context.
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
        // Evenly over all of them, so that a limit thins every text alike.
        let (all, most) = (placed.len(), placed.len().min(most.max(1)));
        let mut contexts: Vec<Vec<u32>> =
            (0..most).map(|i| std::mem::take(&mut placed[i * all / most].2)).collect();
        if let Some(bos) = bos {
            contexts.iter_mut().for_each(|context| context[0] = bos);
        }
        Ok(Self { contexts, source, bos: bos.is_some(), noise: Vec::new() })
    }

    /// How many contexts may give way to noise: none where there are few.
    pub fn noisy(&self) -> usize {
        (0..self.contexts.len()).filter(|&i| self.gives_way(i)).count()
    }

    fn gives_way(&self, index: usize) -> bool {
        self.contexts.len() >= 2 * SELECTION_EVERY && index % SELECTION_EVERY == NOISE_AT
    }

    /// The same with contexts of `noise` (tokens, context after context) in the place of those that may give way.
    #[must_use]
    pub fn with_noise(mut self, noise: &[u32]) -> Self {
        let length = self.length();
        let places: Vec<usize> = (0..self.contexts.len()).filter(|&i| self.gives_way(i)).collect();
        for (noise, place) in noise.chunks_exact(length).zip(places) {
            let first = self.contexts[place][0];
            self.contexts[place].copy_from_slice(noise);
            if self.bos {
                self.contexts[place][0] = first;
            }
            self.noise.push(place);
        }
        self
    }

    /// The same with contexts that the network has written, after all others.
    #[must_use]
    pub(crate) fn with_self_generated(mut self, own: Vec<Vec<u32>>) -> Self {
        self.contexts.extend(own);
        self
    }

    /// Refuses contexts that are longer than the network's learned positions.
    pub(crate) fn check(&self, spec: &Spec) -> Result<(), Error> {
        match &spec.embedding.positions {
            Some(positions) if positions.rows < self.length() => {
                let (needed, context) = (self.length(), positions.rows);
                Err(kvant_model::Error::Context { needed, context }.into())
            }
            _ => Ok(()),
        }
    }

    /// The contexts.
    pub fn contexts(&self) -> &[Vec<u32>] {
        &self.contexts
    }

    /// Some contexts, at most `most`, evenly: text of every kind and the network's own are among them.
    pub fn evenly(&self, most: usize) -> impl Iterator<Item = &[u32]> {
        let (all, count) = (&self.contexts, most.min(self.contexts.len()));
        (0..count).map(move |i| &*all[i * all.len() / count])
    }

    /// Where the text came from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Tokens a context.
    pub fn length(&self) -> usize {
        self.contexts[0].len()
    }

    /// All tokens.
    pub fn tokens(&self) -> usize {
        self.contexts.len() * self.length()
    }

    /// Whether context `index` is noise.
    pub fn is_noise(&self, index: usize) -> bool {
        self.noise.contains(&index)
    }

    /// Whether context `index` is selection text.
    pub fn selects(&self, index: usize) -> bool {
        let text = index % SELECTION_EVERY == SELECTION_EVERY - 1;
        let noise = || self.noise.iter().position(|&i| i == index).is_some_and(|n| n % SELECTED_NOISE == 1);
        self.contexts.len() >= 2 * SELECTION_EVERY && (text || noise())
    }

    /// Selection text alone, at most `most` contexts; where there is none, the first contexts.
    pub fn selection(&self, most: usize) -> Self {
        let text = |i: &usize| self.selects(*i) && !self.is_noise(*i);
        let selected = (0..self.contexts.len()).filter(text).take(most);
        let contexts: Vec<_> = selected.map(|i| self.contexts[i].clone()).collect();
        if contexts.is_empty() { self.first(most) } else { self.of(contexts) }
    }

    /// The first contexts, at most `most` of them.
    pub fn first(&self, most: usize) -> Self {
        self.of(self.contexts.iter().take(most.max(1)).cloned().collect())
    }

    fn of(&self, contexts: Vec<Vec<u32>>) -> Self {
        Self { contexts, source: self.source.clone(), bos: self.bos, noise: Vec::new() }
    }

    /// blake3 over all tokens.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for token in self.contexts.iter().flatten() {
            hasher.update(&token.to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}
