//! The sensitivity of the network's output to errors in the result of each linear layer (map).
//!
//! For each map the module computes S = Σ g gᵀ over tokens, where g is the gradient of −log p(y) at the map's result
//! for one token. p is the float network's output distribution, and y is a label that is drawn from p.
//!
//! ```text
//! forward: residual streams of some contexts before every block                 (stored in a file)
//! gradient ← gradient of −log p(y) at the last residual stream
//! for each block, from the last to the first:
//!     g ← gradients at the results of the block's maps
//!     S ← S + g gᵀ over tokens, where each token's g is divided by √(|g|² + median |g|²)
//!     gradient ← gradient at the residual stream before the block
//! ```
//!
//! The mean of g gᵀ is the Fisher information of a map's result. Let E be the error of the map's weights, and G the
//! Gram matrix of the map's input. The KL divergence that E causes is, to second order, proportional to
//! vec(E)ᵀ (S ⊗ G) vec(E), if activations and gradients are independent. Source: Tseng et al., Model-Preserving
//! Adaptive Rounding (YAQA), arXiv 2505.22988, section 3.
//!
//! All other tokens attend to the first tokens of a context. The gradients of the first tokens are a hundred times
//! longer than the gradients of all other tokens. Without the division they would dominate the sums.
//!
//! A map with many rows is split into pieces of rows; S has one diagonal block for each piece. The work folder stores
//! the sums, one file for each block. Invariant: the sums depend only on the model, the calibration text, the seed and
//! the kind of processor. Not covered here: the sensitivities of embedding and output head.

use super::{ActivationFile, Calibration, Head, Inputs, Missing, Seed, Statistics};
use crate::work_folder::{self, WorkFolder};
use crate::{Error, Progress};
use kvant_kernels::{Backend, dense, ops};
use kvant_model::{Block, BlockSpec, Embedding, Positions, Slot, Spec, Weights};
use std::collections::BTreeMap;

/// Maximum number of contexts whose gradients are used.
pub const CONTEXTS: usize = 16;

/// Maximum number of rows of a piece. S has no entries for two rows of different pieces.
pub const PIECE: usize = 2048;

/// Σ g gᵀ over the rows of one map, piece by piece.
#[derive(Clone, Debug)]
pub struct Sensitivity {
    /// The lower triangle of S, row after row, for each piece of up to 2048 rows.
    pub pieces: Vec<Vec<f32>>,
}

/// The sensitivities of one block's maps, by the weight's name.
pub type BlockSensitivities = BTreeMap<String, Sensitivity>;

/// Returns the number of rows of each piece of a map with `rows` rows.
fn piece_rows(rows: usize) -> impl Iterator<Item = usize> {
    (0..rows).step_by(PIECE).map(move |start| PIECE.min(rows - start))
}

/// Returns the number of values of a lower triangle with diagonal, in a square matrix with `rows` rows.
fn triangle_values(rows: usize) -> usize {
    rows * (rows + 1) / 2
}

/// Returns the maps of a block, in the order in which the file stores their sums. Maps of experts have no sums: each
/// expert would need its own.
fn slots(block: &BlockSpec) -> Vec<&Slot> {
    block.slots().filter(|slot| slot.experts.is_none()).collect()
}

/// Returns the number of values of a block's sums while they are accumulated. The accumulators are square matrices.
pub fn square_values(block: &BlockSpec) -> usize {
    slots(block).iter().flat_map(|slot| piece_rows(slot.rows)).map(|rows| rows * rows).sum()
}

/// Returns the bytes that the sums of all blocks and the temporary residual streams take in the work folder.
pub fn work_bytes(spec: &Spec, contexts: usize, length: usize) -> u64 {
    let sums = |block: &BlockSpec| -> usize {
        slots(block).iter().flat_map(|slot| piece_rows(slot.rows)).map(triangle_values).sum()
    };
    let stored: usize = spec.blocks.iter().map(sums).sum();
    let streams = (spec.blocks.len() + 2) * CONTEXTS.min(contexts) * length * spec.stream_width();
    (size_of::<f32>() * (stored + streams + spec.hidden * spec.hidden)) as u64
}

/// Computes the sums of every block and saves the sums in the work folder. Does nothing if the sums were saved before.
///
/// # Errors
/// Errors of the network and of the work folder; [`Error::Interrupted`].
pub fn gather(
    weights: &Weights,
    calibration: &Calibration,
    seed: Seed,
    work: &WorkFolder,
    backend: &Backend,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let (spec, length) = (weights.spec(), calibration.length());
    // The sums of block 0 are saved after all other sums. If they exist, all sums exist.
    if spec.blocks.is_empty() || work.has_floats(&work_folder::sensitivity(0))? {
        return Ok(());
    }
    let count = CONTEXTS.min(calibration.contexts().len());
    let (steps, mut step) = ((count * (2 * spec.blocks.len() + 1)) as u64, 0);
    let mut report_step = || {
        progress.at(step, steps, "how much the answer minds errors");
        step += 1;
        if progress.stop() { Err(Error::Interrupted) } else { Ok(()) }
    };
    let context_values = length * spec.stream_width();
    // The stream of context c before block b has index b · count + c, where count is the number of contexts.
    // The gradient later replaces the stream after the last block.
    let mut streams = ActivationFile::unnamed(&work.path("key"), context_values)?;
    let embedding = Embedding::load(weights, backend)?;
    for (c, tokens) in calibration.evenly(count).enumerate() {
        streams.write(c, &embedding.rows(tokens, 0..))?;
    }
    drop(embedding);
    let positions = Positions::new(spec, 0, length);
    for b in 0..spec.blocks.len() {
        let block = Block::load(weights, backend, b)?;
        for c in 0..count {
            report_step()?;
            let mut stream = streams.read(b * count + c, context_values)?;
            block.forward_alone(&mut stream, &positions);
            streams.write((b + 1) * count + c, &stream)?;
        }
    }
    let last = spec.blocks.len() * count;
    let head = Head::new(weights, backend)?;
    let matrix = head.float_matrix()?;
    let mut head_input = Statistics::new(spec.hidden, Missing::Nothing);
    for c in 0..count {
        report_step()?;
        let stream = streams.read(last + c, context_values)?;
        let residual = spec.residual(&stream);
        let states = head.states(residual);
        head_input.add(backend, &Inputs { quantized: &states, missed: &[], weights: None });
        let mut gradient = head.gradient(&matrix, residual, seed.of(c));
        // Nothing after the last block reads the parts of the stream beside the residual stream.
        gradient.resize(context_values, 0.0);
        streams.write(last + c, &gradient)?;
    }
    work.save_floats(work_folder::HEAD_INPUT, &head_input.gram)?;
    drop((matrix, head_input));
    for b in (0..spec.blocks.len()).rev() {
        let block = Block::load(weights, backend, b)?;
        let mut sums = Sums::new(&spec.blocks[b]);
        for c in 0..count {
            report_step()?;
            let stream = streams.read(b * count + c, context_values)?;
            let after = streams.read(last + c, context_values)?;
            let before =
                block.backward(&stream, &after, &positions, &mut |name, g| sums.add(backend, name, g));
            streams.write(last + c, &before)?;
        }
        work.save_floats(&work_folder::sensitivity(b), &sums.packed(&spec.blocks[b]))?;
    }
    Ok(())
}

/// The accumulators of one block, by the weight's name: one square matrix for each piece of a map. Only the lower
/// triangles are valid.
struct Sums(BTreeMap<String, Vec<Vec<f32>>>);

impl Sums {
    fn new(block: &BlockSpec) -> Self {
        let empty = |slot: &&Slot| {
            (slot.weight(), piece_rows(slot.rows).map(|rows| vec![0.0; rows * rows]).collect())
        };
        Self(slots(block).iter().map(empty).collect())
    }

    /// Adds one context's gradients at the results of the map called `name`.
    fn add(&mut self, backend: &Backend, name: &str, gradient: &[f32]) {
        let sums = self.0.get_mut(name).expect("a map of this block");
        let rows: usize = sums.iter().map(|square| square.len().isqrt()).sum();
        let mut normalized = vec![0.0; gradient.len()];
        ops::scale_rows(backend, gradient, &token_factors(gradient, rows), &mut normalized);
        if let [square] = &mut sums[..] {
            return dense::add_gram(backend, &normalized, rows, square);
        }
        let mut start = 0;
        for square in sums {
            let count = square.len().isqrt();
            let piece = normalized.chunks_exact(rows).flat_map(|g| &g[start..start + count]);
            dense::add_gram(backend, &piece.copied().collect::<Vec<f32>>(), count, square);
            start += count;
        }
    }

    /// Returns the lower triangles, row after row, in the order of [`slots`].
    fn packed(&self, block: &BlockSpec) -> Vec<f32> {
        let squares = slots(block).into_iter().flat_map(|slot| &self.0[&slot.weight()]);
        let mut packed = Vec::with_capacity(squares.clone().map(|s| triangle_values(s.len().isqrt())).sum());
        for square in squares {
            let rows = square.len().isqrt();
            (0..rows).for_each(|i| packed.extend_from_slice(&square[i * rows..][..=i]));
        }
        packed
    }
}

/// Returns the factor of each token's gradient g: 1 / √(|g|² + median |g|²). The median is taken over the tokens of the
/// context.
fn token_factors(gradient: &[f32], rows: usize) -> Vec<f32> {
    let squares: Vec<f32> = gradient.chunks_exact(rows).map(|g| g.iter().map(|g| g * g).sum()).collect();
    let mut sorted = squares.clone();
    sorted.sort_by(f32::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    let factor = |square: &f32| {
        let factor = 1.0 / (square + median).sqrt();
        if factor.is_finite() { factor } else { 0.0 }
    };
    squares.iter().map(factor).collect()
}

/// Loads the sums of block `index` that [`gather`] has saved in the work folder.
///
/// # Errors
/// A missing file, or a file whose content is not the saved content.
pub fn of_block(work: &WorkFolder, spec: &Spec, index: usize) -> Result<BlockSensitivities, Error> {
    let slots = slots(&spec.blocks[index]);
    let count = slots.iter().flat_map(|slot| piece_rows(slot.rows)).map(triangle_values).sum();
    let values = work.load_floats(&work_folder::sensitivity(index), count)?;
    let lengths = slots.iter().map(|slot| piece_rows(slot.rows).map(triangle_values).collect::<Vec<_>>());
    let mut rest = &values[..];
    let mut take = |length: usize| {
        let (piece, others) = rest.split_at_checked(length)?;
        rest = others;
        Some(piece.to_vec())
    };
    let sensitivity = |(slot, lengths): (&&Slot, Vec<usize>)| {
        let pieces = lengths.into_iter().map(&mut take).collect::<Option<Vec<_>>>()?;
        Some((slot.weight(), Sensitivity { pieces }))
    };
    let found = slots.iter().zip(lengths).map(sensitivity).collect::<Option<BTreeMap<_, _>>>();
    found.ok_or_else(|| work.damaged(&work_folder::sensitivity(index)))
}
