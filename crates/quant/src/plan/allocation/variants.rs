//! Runs several quantized variants of a network together, block by block, and measures their KL divergence from the
//! float network.
//!
//! A variant is the float network with some tensors in quantized formats. Memory holds one block at a time. An unnamed
//! temporary file holds the residual streams of all variants. A variant uses the float network's stream until the
//! variant's first quantized tensor.

use crate::gather::{ActivationFile, Calibration, Head, Importance, LOGIT_ROWS, compared_positions};
use crate::plan::Formats;
use crate::solve::{ImportanceWeighted, Layer, Solver};
use crate::{Error, Progress};
use kvant_core::{FormatRef, Tensor};
use kvant_kernels::{Backend, Matrix};
use kvant_model::{Block, Embedding, Positions, Slot, Weights, experts, load_matrix};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// One matrix in several formats. The key is the name of a format that a variant needs. The key `None` is the float
/// network's format.
type Matrices = BTreeMap<Option<&'static str>, Arc<dyn Matrix>>;

/// The inputs of a run of variants.
pub struct Variants<'a> {
    pub weights: &'a Weights,
    pub importance: &'a Importance,
    pub backend: &'a Backend,
    pub progress: &'a dyn Progress,
    /// A path. The temporary file is created in the parent folder of this path.
    pub scratch: &'a Path,
}

impl Variants<'_> {
    /// Returns the mean KL divergence of each variant from the float network, over every `stride`-th position of the
    /// second halves of the contexts.
    ///
    /// # Errors
    /// Errors of reading, solving and the temporary file; [`Error::Interrupted`].
    pub fn divergences(
        &self,
        contexts: &Calibration,
        variants: &[&Formats],
        stride: usize,
    ) -> Result<Vec<f64>, Error> {
        let spec = self.weights.spec();
        let (count, length) = (contexts.contexts().len(), contexts.length());
        let mut streams = ActivationFile::unnamed(self.scratch, length * spec.stream_width())?;
        // Stream 0 belongs to the float network. Stream i + 1 belongs to variant i; this stream is valid after the
        // variant has diverged from the float network.
        let index_of = |stream: usize, context: usize| stream * count + context;
        let embedding = spec.embedding.tokens.weight();
        let mut diverged: Vec<bool> = variants.iter().map(|v| v.contains_key(&embedding)).collect();
        let tables = self.matrices(&embedding, variants)?;
        for stream in 0..=variants.len() {
            if stream > 0 && !diverged[stream - 1] {
                continue;
            }
            let format = stream.checked_sub(1).and_then(|i| variants[i].get(&embedding));
            let table = tables[&format.map(|f| f.name())].clone();
            let rows = Embedding::with_tokens(self.weights, self.backend, table)?;
            for (context, tokens) in contexts.contexts().iter().enumerate() {
                streams.write(index_of(stream, context), &rows.rows(tokens, 0..))?;
            }
        }
        // A tied head uses the embedding's matrices.
        let shared = spec.output.head.is_tied().then_some(tables);
        let positions = Positions::new(spec, 0, length);
        let context_values = length * spec.stream_width();
        for index in 0..spec.blocks.len() {
            let names: Vec<String> = spec.blocks[index].slots().map(Slot::weight).collect();
            let float = Block::load(self.weights, self.backend, index)?;
            let mut encoded: HashMap<(&str, &str), Tensor> = HashMap::new();
            for stream in (0..=variants.len()).rev() {
                let variant = stream.checked_sub(1).map(|i| variants[i]);
                let replaced: Vec<(&str, FormatRef)> =
                    names.iter().filter_map(|name| Some((name.as_str(), *variant?.get(name)?))).collect();
                let mut from = stream;
                if stream > 0 && !diverged[stream - 1] {
                    if replaced.is_empty() {
                        continue;
                    }
                    // The float network's stream is updated after all variants, so here it is the stream before this
                    // block.
                    (diverged[stream - 1], from) = (true, 0);
                }
                let mut block = float.clone();
                for (name, format) in replaced {
                    let tensor = match encoded.get(&(name, format.name())) {
                        Some(tensor) => tensor,
                        None => {
                            let tensor = self.encode(name, format)?;
                            encoded.entry((name, format.name())).or_insert(tensor)
                        }
                    };
                    block.replace(name, tensor, self.weights)?;
                }
                for context in 0..count {
                    if self.progress.stop() {
                        return Err(Error::Interrupted);
                    }
                    let done = index * (variants.len() + 1) + variants.len() - stream;
                    let all = (spec.blocks.len() + 1) * (variants.len() + 1);
                    self.progress.at(done as u64, all as u64, "what errors cost");
                    let mut residual = streams.read(index_of(from, context), context_values)?;
                    block.forward_alone(&mut residual, &positions);
                    streams.write(index_of(stream, context), &residual)?;
                }
            }
        }
        let heads = match (shared, spec.head()) {
            (Some(tables), _) => Some(tables),
            (None, Some(head)) => Some(self.matrices(&head.weight(), variants)?),
            (None, None) => None,
        };
        self.compare(contexts, variants, &heads, &diverged, stride, &mut streams)
    }

    /// Applies norm and head to the last residual streams and returns the mean KL divergence of each variant.
    fn compare(
        &self,
        contexts: &Calibration,
        variants: &[&Formats],
        heads: &Option<Matrices>,
        diverged: &[bool],
        stride: usize,
        streams: &mut ActivationFile,
    ) -> Result<Vec<f64>, Error> {
        let spec = self.weights.spec();
        let (count, length, hidden) = (contexts.contexts().len(), contexts.length(), spec.hidden);
        let context_values = length * spec.stream_width();
        let head = Head::new(self.weights, self.backend)?;
        let name = spec.head().map(Slot::weight).unwrap_or_default();
        let matrix = |format: Option<&'static str>| heads.as_ref().map(|heads| heads[&format].clone());
        let scored = compared_positions(length, stride);
        let mut sums = vec![0.0f64; variants.len()];
        for context in 0..count {
            let mut states = |stream: usize| -> Result<Vec<f32>, Error> {
                Ok(head.states_at(&streams.read(stream * count + context, context_values)?, &scored))
            };
            let float = states(0)?;
            let variant_states: Vec<Option<Vec<f32>>> = (0..variants.len())
                .map(|i| diverged[i].then(|| states(i + 1)).transpose())
                .collect::<Result<_, _>>()?;
            for (chunk, rows) in float.chunks(LOGIT_ROWS * hidden).enumerate() {
                let expected = head.logits(&matrix(None), rows);
                for (i, variant) in variants.iter().enumerate() {
                    if self.progress.stop() {
                        return Err(Error::Interrupted);
                    }
                    let start = chunk * LOGIT_ROWS * hidden;
                    let variant_rows =
                        variant_states[i].as_ref().map_or(rows, |states| &states[start..][..rows.len()]);
                    let found = head.logits(&matrix(variant.get(&name).map(|f| f.name())), variant_rows);
                    sums[i] += head.divergence(&expected, &found);
                }
            }
        }
        Ok(sums.into_iter().map(|sum| sum / (count * scored.len()) as f64).collect())
    }

    /// Loads one matrix in the float network's format and in every format that a variant needs.
    fn matrices(&self, name: &str, variants: &[&Formats]) -> Result<Matrices, Error> {
        let mut matrices = Matrices::new();
        for format in std::iter::once(None).chain(variants.iter().map(|v| v.get(name).copied())) {
            if let Entry::Vacant(vacant) = matrices.entry(format.map(|f| f.name())) {
                vacant.insert(self.matrix(name, format)?);
            }
        }
        Ok(matrices)
    }

    /// Returns a tensor in a format. A tensor that keeps its format is not encoded again.
    fn encode(&self, name: &str, format: FormatRef) -> Result<Tensor, Error> {
        let weight = self.weights.tensor(name)?;
        if weight.format() == format {
            return Ok(weight);
        }
        let importance =
            self.importance.mean_square(name, weight.shape().columns(), experts(weight.shape()))?;
        let layer =
            Layer { importance: importance.as_deref(), ..Layer::uncalibrated(name, &weight, self.backend) };
        Ok(ImportanceWeighted.solve(&layer, format)?.tensor)
    }

    fn matrix(&self, name: &str, format: Option<FormatRef>) -> Result<Arc<dyn Matrix>, Error> {
        let tensor = match format {
            Some(format) => self.encode(name, format)?,
            None => self.weights.tensor(name)?,
        };
        Ok(load_matrix(self.backend, &tensor, self.weights, name)?)
    }
}
