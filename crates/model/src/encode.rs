//! Vectors of whole texts: one pass through the network, pooling, linear maps.
//!
//! Several texts run in one batch. In a network whose positions read later ones, no KV cache remains: all blocks use the
//! same memory for keys and values. Source:
//! Reimers and Gurevych, Sentence-BERT, arXiv 1908.10084, section 3. Not here: the conversion of text to tokens, and the
//! choice of the texts of a batch.

use crate::layer_state::LayerState;
use crate::positions::SequencePosition;
use crate::step::BlockStates;
use crate::{Error, Part, Pooling, Positions, Sequence, Sublayer, TextVector, Transformer, Want};
use kvant_kernels::{KvFormat, PagePool};

impl Transformer {
    /// Runs whole texts and returns the normalized hidden states of all tokens: rows of the hidden size, in the order of
    /// the texts. Each row is bit-identical to the row of a call with its text alone.
    ///
    /// The memory for activations grows with the number of tokens of all texts together.
    ///
    /// # Errors
    /// [`Error::Token`] for an id outside the vocabulary, [`Error::Context`] for a text that is longer than the context.
    pub fn encode(&self, texts: &[&[u32]]) -> Result<Vec<f32>, Error> {
        let spec = self.spec();
        for text in texts {
            self.check_tokens(text)?;
            if text.len() > spec.context {
                return Err(Error::Context { needed: text.len(), context: spec.context });
            }
        }
        if spec.is_causal() {
            let mut sequences: Vec<Sequence> = texts.iter().map(|text| self.sequence(text.len())).collect();
            let parts = sequences.iter_mut().zip(texts);
            let mut parts: Vec<Part> =
                parts.map(|(sequence, tokens)| Part { sequence, tokens, want: Want::All }).collect();
            return self.step(&mut parts);
        }
        let tokens = texts.concat();
        let of_text = |text: &&[u32]| {
            let capacity = text.len();
            (0..capacity).map(move |position| SequencePosition { position, capacity })
        };
        let indices: Vec<SequencePosition> = texts.iter().flat_map(of_text).collect();
        let mut stream = self.embedding.rows(&tokens, indices.iter().map(|at| at.position));
        let positions = Positions::at(&self.ropes, indices.iter().copied());
        let mut states: Vec<Vec<LayerState>> = Vec::new();
        let mut sizes = Vec::new();
        for (block, spec) in self.blocks.iter().zip(&spec.blocks) {
            let needed: Vec<_> = spec.attentions().map(|a| (a.kv_heads, a.head_size)).collect();
            // The attentions of most blocks have the same sizes, so the memory is used again.
            if needed == sizes && !states.is_empty() {
                states.iter_mut().flatten().for_each(|layer| layer.truncate(0));
            } else {
                let of = |s: &Sublayer| LayerState::of(&s.body, KvFormat::F32, &PagePool::unlimited());
                states = texts.iter().map(|_| spec.sublayers.iter().filter_map(of).collect()).collect();
                sizes = needed;
            }
            let mut of_block: Vec<BlockStates> = states
                .iter_mut()
                .zip(texts)
                .map(|(layers, text)| BlockStates { layers, tokens: text.len() })
                .collect();
            block.forward(&mut stream, &positions, &mut of_block);
        }
        Ok(self.normalized(stream))
    }

    /// Runs whole texts and returns their vectors, one after the other.
    ///
    /// # Errors
    /// Errors of [`Transformer::encode`]; [`Error::Context`] with `needed` 0 for a text without tokens.
    pub fn text_vectors(&self, texts: &[&[u32]], settings: &TextVector) -> Result<Vec<f32>, Error> {
        let hidden = self.spec().hidden;
        if texts.iter().any(|text| text.is_empty()) {
            return Err(Error::Context { needed: 0, context: self.spec().context });
        }
        let states = self.encode(texts)?;
        let mut pooled = Vec::with_capacity(texts.len() * hidden);
        let mut rest = &states[..];
        for text in texts {
            let (own, others) = rest.split_at(text.len() * hidden);
            settings.pooling.add_to(own, hidden, &mut pooled);
            rest = others;
        }
        for map in &self.dense {
            pooled = map.apply(self.backend(), &map.input(&pooled));
        }
        if settings.normalized {
            pooled.chunks_exact_mut(settings.length(hidden)).for_each(normalize);
        }
        Ok(pooled)
    }
}

impl Pooling {
    /// Appends the vector of a text. `states` are the hidden states of its tokens, tokens × hidden.
    fn add_to(self, states: &[f32], hidden: usize, out: &mut Vec<f32>) {
        match self {
            Self::First => out.extend_from_slice(&states[..hidden]),
            Self::Last => out.extend_from_slice(&states[states.len() - hidden..]),
            Self::Mean => {
                let mut sums = vec![0.0f64; hidden];
                for row in states.chunks_exact(hidden) {
                    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
                }
                let tokens = (states.len() / hidden) as f64;
                out.extend(sums.iter().map(|sum| (sum / tokens) as f32));
            }
        }
    }
}

/// Divides a vector by its length. A vector of zeros stays as it is.
fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}
