//! How much the network's answer minds an error at each map's result.
//!
//! ```text
//! residual streams of some contexts, block by block               (kept in a file)
//! gradient ← that of −log p(y), y drawn from what the float network expects at every position
//! for each block, the last first:
//!     g ← gradients at its maps' results; S ← S + g gᵀ over tokens, each token's g divided by its length, softly
//!     gradient ← that at the residual stream before the block
//! ```
//!
//! The mean of g gᵀ is the Fisher information of a map's result, and E (S ⊗ G) E the second-order KL divergence that
//! an error E of its weights brings about, if activations (G) and gradients (S) were independent. Source: Tseng et al.,
//! Model-Preserving Adaptive Rounding (YAQA), arXiv 2505.22988, section 3. The first tokens, which all others look at,
//! have gradients a hundred times as long as the rest; without the soft division they would be all that counts.
//! Rows of a wide map are looked at in pieces. Sums lie in the work folder, a file a block. Invariant: they depend on
//! the model, the calibration text and the processor's kind alone. Left out: embedding and head.

use super::{ActivationFile, Calibration, Head, Inputs, Missing, Seed, Statistics};
use crate::work_folder::{self, WorkFolder};
use crate::{Error, Progress};
use kvant_kernels::{Backend, dense, ops};
use kvant_model::{Block, BlockSpec, Embedding, Positions, Slot, Spec, Weights, load_matrix};
use std::collections::BTreeMap;

/// Contexts that are looked at, at most.
pub const CONTEXTS: usize = 16;

/// Rows that are weighed against each other.
pub const PIECE: usize = 2048;

/// Σ g gᵀ of one map's rows, piece by piece.
#[derive(Clone, Debug)]
pub struct Sensitivity {
    /// Lower triangles, row after row: one of every 2048 rows.
    pub pieces: Vec<Vec<f32>>,
}

/// Those of one block, by weight.
pub type BlockSensitivities = BTreeMap<String, Sensitivity>;

/// Rows of each piece of a map.
fn pieces(rows: usize) -> impl Iterator<Item = usize> {
    (0..rows).step_by(PIECE).map(move |start| PIECE.min(rows - start))
}

fn triangle(rows: usize) -> usize {
    rows * (rows + 1) / 2
}

/// The maps of a block, in the order in which their sums are kept.
fn slots(block: &BlockSpec) -> Vec<&Slot> {
    block.slots().collect()
}

/// Numbers that a block's sums have while they are made.
pub fn square_numbers(block: &BlockSpec) -> usize {
    slots(block).iter().flat_map(|slot| pieces(slot.rows)).map(|rows| rows * rows).sum()
}

/// Bytes that all blocks' sums and the streams on the way take in the work folder.
pub fn work_bytes(spec: &Spec, contexts: usize, length: usize) -> u64 {
    let sums = |block: &BlockSpec| -> usize {
        slots(block).iter().flat_map(|slot| pieces(slot.rows)).map(triangle).sum()
    };
    let kept: usize = spec.blocks.iter().map(sums).sum();
    let streams = (spec.blocks.len() + 2) * CONTEXTS.min(contexts) * length * spec.hidden;
    (size_of::<f32>() * (kept + streams + spec.hidden * spec.hidden)) as u64
}

/// Fills the work folder with the sums of every block, unless they are there.
///
/// # Errors
/// What the network or the work folder says; [`Error::Interrupted`].
pub fn gather(
    weights: &Weights,
    calibration: &Calibration,
    seed: Seed,
    work: &WorkFolder,
    backend: &Backend,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let (spec, length) = (weights.spec(), calibration.length());
    // The first block's are made last.
    if spec.blocks.is_empty() || work.has_numbers(&work_folder::sensitivity(0))? {
        return Ok(());
    }
    let count = CONTEXTS.min(calibration.contexts().len());
    let (steps, mut step) = ((count * (2 * spec.blocks.len() + 1)) as u64, 0);
    let mut say = || {
        progress.at(step, steps, "how much the answer minds errors");
        step += 1;
        if progress.stop() { Err(Error::Interrupted) } else { Ok(()) }
    };
    let numbers = length * spec.hidden;
    // Residual stream before block b of context c at b · count + c; after the last one it gives way to the gradient.
    let mut streams = ActivationFile::unnamed(&work.path("key"), numbers)?;
    let embedding = Embedding::load(weights, backend)?;
    for (c, tokens) in calibration.evenly(count).enumerate() {
        streams.write(c, &embedding.rows(tokens, 0..))?;
    }
    drop(embedding);
    let positions = Positions::new(spec, 0, length);
    for b in 0..spec.blocks.len() {
        let block = Block::load(weights, backend, b)?;
        for c in 0..count {
            say()?;
            let mut residual = streams.read(b * count + c, numbers)?;
            block.forward_alone(&mut residual, &positions);
            streams.write((b + 1) * count + c, &residual)?;
        }
    }
    let last = spec.blocks.len() * count;
    let head = Head::new(weights, backend)?;
    let head_name = spec.head().weight();
    let matrix = load_matrix(backend, &weights.tensor(&head_name)?, weights, &head_name)?;
    let mut read = Statistics::new(spec.hidden, Missing::Nothing);
    for c in 0..count {
        say()?;
        let residual = streams.read(last + c, numbers)?;
        let states = head.states(&residual);
        read.add(backend, &Inputs { quantized: &states, missed: &[], weights: None });
        streams.write(last + c, &head.gradient(&*matrix, &residual, seed.of(c)))?;
    }
    work.save_numbers(work_folder::HEAD_INPUT, &read.gram)?;
    drop((matrix, read));
    for b in (0..spec.blocks.len()).rev() {
        let block = Block::load(weights, backend, b)?;
        let mut sums = Sums::new(&spec.blocks[b]);
        for c in 0..count {
            say()?;
            let (residual, after) = (streams.read(b * count + c, numbers)?, streams.read(last + c, numbers)?);
            let before =
                block.backward(&residual, &after, &positions, &mut |name, g| sums.add(backend, name, g));
            streams.write(last + c, &before)?;
        }
        work.save_numbers(&work_folder::sensitivity(b), &sums.packed(&spec.blocks[b]))?;
    }
    Ok(())
}

/// One block's sums in the making: squares of which the lower triangles count.
struct Sums(BTreeMap<String, Vec<Vec<f32>>>);

impl Sums {
    fn new(block: &BlockSpec) -> Self {
        let empty =
            |slot: &&Slot| (slot.weight(), pieces(slot.rows).map(|rows| vec![0.0; rows * rows]).collect());
        Self(slots(block).iter().map(empty).collect())
    }

    /// Adds one context's gradients at the results of the map called `name`.
    fn add(&mut self, backend: &Backend, name: &str, gradient: &[f32]) {
        let sums = self.0.get_mut(name).expect("a map of this block");
        let rows: usize = sums.iter().map(|square| square.len().isqrt()).sum();
        let mut softened = vec![0.0; gradient.len()];
        ops::scale_rows(backend, gradient, &softly(gradient, rows), &mut softened);
        if let [square] = &mut sums[..] {
            return dense::add_gram(backend, &softened, rows, square);
        }
        let mut start = 0;
        for square in sums {
            let count = square.len().isqrt();
            let piece = softened.chunks_exact(rows).flat_map(|g| &g[start..start + count]);
            dense::add_gram(backend, &piece.copied().collect::<Vec<f32>>(), count, square);
            start += count;
        }
    }

    fn packed(&self, block: &BlockSpec) -> Vec<f32> {
        let squares = slots(block).into_iter().flat_map(|slot| &self.0[&slot.weight()]);
        let mut packed = Vec::with_capacity(squares.clone().map(|s| triangle(s.len().isqrt())).sum());
        for square in squares {
            let rows = square.len().isqrt();
            (0..rows).for_each(|i| packed.extend_from_slice(&square[i * rows..][..=i]));
        }
        packed
    }
}

/// What each token's gradient is multiplied by: 1 / √(its square + the median square).
fn softly(gradient: &[f32], rows: usize) -> Vec<f32> {
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

/// The sums of block `index` that [`gather`] has left in the work folder.
///
/// # Errors
/// A file that is not what was saved.
pub fn of_block(work: &WorkFolder, spec: &Spec, index: usize) -> Result<BlockSensitivities, Error> {
    let slots = slots(&spec.blocks[index]);
    let count = slots.iter().flat_map(|slot| pieces(slot.rows)).map(triangle).sum();
    let numbers = work.load_numbers(&work_folder::sensitivity(index), count)?;
    let lengths = slots.iter().map(|slot| pieces(slot.rows).map(triangle).collect::<Vec<_>>());
    let mut rest = &numbers[..];
    let mut of = |length: usize| {
        let (own, others) = rest.split_at_checked(length)?;
        rest = others;
        Some(own.to_vec())
    };
    let sensitivity = |(slot, lengths): (&&Slot, Vec<usize>)| {
        let pieces = lengths.into_iter().map(&mut of).collect::<Option<Vec<_>>>()?;
        Some((slot.weight(), Sensitivity { pieces }))
    };
    let found = slots.iter().zip(lengths).map(sensitivity).collect::<Option<BTreeMap<_, _>>>();
    found.ok_or_else(|| work.damaged(&work_folder::sensitivity(index)))
}
