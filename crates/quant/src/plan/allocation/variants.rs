//! Several quantized variants of a network run side by side, block by block: how far each is from the float network.
//!
//! One block is in memory; the residual streams of all variants lie in a file without a name. Variants that have not
//! met a quantized tensor yet share the float network's stream.

use crate::gather::{ActivationFile, Calibration, Head, Importance, LOGIT_ROWS, compared, logits};
use crate::plan::Formats;
use crate::solve::{ImportanceWeighted, Layer, Solver};
use crate::{Error, Progress};
use kvant_core::{FormatRef, Tensor};
use kvant_kernels::{Backend, Matrix};
use kvant_model::{Block, Embedding, Positions, Slot, Weights, load_matrix};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// A matrix as the float network has it (`None`) and in each format that a variant asks for.
type Matrices = BTreeMap<Option<&'static str>, Arc<dyn Matrix>>;

/// What the walk needs.
pub struct Variants<'a> {
    pub weights: &'a Weights,
    pub importance: &'a Importance,
    pub backend: &'a Backend,
    pub progress: &'a dyn Progress,
    /// A path beside which the streams may lie.
    pub scratch: &'a Path,
}

impl Variants<'_> {
    /// Mean KL divergence of each variant from the float network, over every `stride`-th position of the contexts'
    /// second halves.
    pub fn divergences(
        &self,
        contexts: &Calibration,
        variants: &[&Formats],
        stride: usize,
    ) -> Result<Vec<f64>, Error> {
        let spec = self.weights.spec();
        let (count, length) = (contexts.contexts().len(), contexts.length());
        let mut streams = ActivationFile::unnamed(self.scratch, length * spec.hidden)?;
        // Stream 0 is the float network's; stream i + 1 is variant i's once it has parted from it.
        let place = |stream: usize, context: usize| stream * count + context;
        let embedding = spec.embedding.tokens.weight();
        let mut parted: Vec<bool> = variants.iter().map(|v| v.contains_key(&embedding)).collect();
        let tables = self.matrices(&embedding, variants)?;
        for stream in 0..=variants.len() {
            if stream > 0 && !parted[stream - 1] {
                continue;
            }
            let format = stream.checked_sub(1).and_then(|i| variants[i].get(&embedding));
            let table = tables[&format.map(|f| f.name())].clone();
            let rows = Embedding::with_tokens(self.weights, self.backend, table)?;
            for (context, tokens) in contexts.contexts().iter().enumerate() {
                streams.write(place(stream, context), &rows.rows(tokens, 0..))?;
            }
        }
        // Where embedding and head are one, so are their matrices.
        let shared = spec.output.head.is_none().then_some(tables);
        let positions = Positions::new(spec, 0, length);
        let numbers = length * spec.hidden;
        for index in 0..spec.blocks.len() {
            let names: Vec<String> = spec.blocks[index].slots().map(Slot::weight).collect();
            let float = Block::load(self.weights, self.backend, index)?;
            let mut encoded: HashMap<(&str, &str), Tensor> = HashMap::new();
            for stream in (0..=variants.len()).rev() {
                let variant = stream.checked_sub(1).map(|i| variants[i]);
                let replaced: Vec<(&str, FormatRef)> =
                    names.iter().filter_map(|name| Some((name.as_str(), *variant?.get(name)?))).collect();
                let mut from = stream;
                if stream > 0 && !parted[stream - 1] {
                    if replaced.is_empty() {
                        continue;
                    }
                    // The float network's own stream goes last, so it is still the one before this block.
                    (parted[stream - 1], from) = (true, 0);
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
                    let mut residual = streams.read(place(from, context), numbers)?;
                    block.forward_alone(&mut residual, &positions);
                    streams.write(place(stream, context), &residual)?;
                }
            }
        }
        let heads = shared.map_or_else(|| self.matrices(&spec.head().weight(), variants), Ok)?;
        self.compare(contexts, variants, &heads, &parted, stride, &mut streams)
    }

    /// Norm, head and divergence of all variants' last streams.
    fn compare(
        &self,
        contexts: &Calibration,
        variants: &[&Formats],
        heads: &Matrices,
        parted: &[bool],
        stride: usize,
        streams: &mut ActivationFile,
    ) -> Result<Vec<f64>, Error> {
        let spec = self.weights.spec();
        let (count, length, hidden) = (contexts.contexts().len(), contexts.length(), spec.hidden);
        let head = Head::new(self.weights, self.backend)?;
        let name = spec.head().weight();
        let scored = compared(length, stride);
        let mut sums = vec![0.0f64; variants.len()];
        for context in 0..count {
            let mut states = |stream: usize| -> Result<Vec<f32>, Error> {
                Ok(head.states_at(&streams.read(stream * count + context, length * hidden)?, &scored))
            };
            let float = states(0)?;
            let own: Vec<Option<Vec<f32>>> = (0..variants.len())
                .map(|i| parted[i].then(|| states(i + 1)).transpose())
                .collect::<Result<_, _>>()?;
            for (chunk, rows) in float.chunks(LOGIT_ROWS * hidden).enumerate() {
                let expected = logits(&*heads[&None], rows);
                for (i, variant) in variants.iter().enumerate() {
                    if self.progress.stop() {
                        return Err(Error::Interrupted);
                    }
                    let start = chunk * LOGIT_ROWS * hidden;
                    let own = own[i].as_ref().map_or(rows, |own| &own[start..][..rows.len()]);
                    let found = logits(&*heads[&variant.get(&name).map(|f| f.name())], own);
                    sums[i] += head.divergence(&expected, &found);
                }
            }
        }
        Ok(sums.into_iter().map(|sum| sum / (count * scored.len()) as f64).collect())
    }

    /// One matrix in every format that it has in some variant, and as the float network has it.
    fn matrices(&self, name: &str, variants: &[&Formats]) -> Result<Matrices, Error> {
        let mut matrices = Matrices::new();
        for format in std::iter::once(None).chain(variants.iter().map(|v| v.get(name).copied())) {
            if let Entry::Vacant(place) = matrices.entry(format.map(|f| f.name())) {
                place.insert(self.matrix(name, format)?);
            }
        }
        Ok(matrices)
    }

    fn encode(&self, name: &str, format: FormatRef) -> Result<Tensor, Error> {
        let weight = self.weights.tensor(name)?;
        let importance = self.importance.mean_square(name, weight.shape().columns(), 1)?;
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
