//! How much memory a recipe takes, said before any work.
//!
//! Counted is private memory: the mapped input and what the system keeps of the work folder's files are given back
//! when others need it. The figure is a bound, not an estimate: every buffer that grows with the model is in it at its
//! largest. Left out: the tokenizer, which is gone before the walk begins, and what the caller holds.

use super::allocation::RIVALS;
use super::file_type::Assignment;
use super::recipe::Recipe;
use crate::gather::{
    GRADIENT_LOGITS, LOGIT_ROWS, Missing, PIECE, SENSITIVITY_CONTEXTS, Statistics, self_generated_bytes,
    sensitivity_bytes, square_numbers,
};
use crate::solve::{CORRECTED_ROWS, Need, SLAB};
use kvant_model::{BlockSpec, Slot, Stage, Weights};

/// Program, threads' stacks, the allocator's slack.
const BASE: usize = 64 << 20;
/// Pieces that one thread has in work: decoded numbers, codes, a few rows' gradients.
const THREAD: usize = 8 << 20;

/// Private bytes that quantizing takes at most, with so many threads.
pub fn memory_bytes(weights: &Weights, recipe: &Recipe, assignments: &[Assignment], threads: usize) -> u64 {
    let base = BASE + threads * THREAD;
    let bytes = |a: &Assignment| a.format.tensor_bytes(&a.entry.shape).unwrap_or(0);
    let written = assignments.iter().map(bytes).max().unwrap_or(0);
    let walked = match (recipe.method.need(), &recipe.calibration, &recipe.importance) {
        (Need::Hessian, Some(calibration), _) => {
            let own =
                self_generated_bytes(weights.spec(), recipe.self_generated, calibration.length(), threads);
            let writing =
                if own > 0 { own + reordered(weights, assignments).iter().sum::<usize>() } else { 0 };
            let gradients =
                if recipe.method.couples() { gradients(weights, calibration.length()) } else { 0 };
            walk(weights, recipe, assignments).max(writing).max(gradients)
        }
        (Need::Importance, Some(calibration), None) => {
            reordered(weights, assignments).iter().sum::<usize>() + activations(weights, calibration.length())
        }
        _ => 0,
    };
    let one_block = reordered(weights, assignments).into_iter().max().unwrap_or(0);
    // One tensor is written while the next one is solved.
    (base + 2 * one_block + (2 * written).max(walked)) as u64
}

/// Private bytes that finding formats for a budget takes at most, with so many threads.
pub fn allocation_bytes(weights: &Weights, recipe: &Recipe, threads: usize) -> u64 {
    let spec = weights.spec();
    let length = recipe.calibration.as_ref().map_or(0, |c| c.length());
    let numbers = |slot: &Slot| slot.rows * slot.columns;
    let block = |b: &BlockSpec| b.slots().map(numbers).sum::<usize>();
    let blocks = spec.blocks.iter().map(block).max().unwrap_or(0);
    let ends = numbers(&spec.embedding.tokens) + spec.output.head.as_ref().map_or(0, numbers);
    // No format that is chosen from takes more than two bytes a number. An embedding and a head that are two matrices
    // are never in memory together, but for what keeps its format, which is mapped.
    let encoded = 2 * (RIVALS + 1) * (blocks + ends);
    // One position's row of logits more than are compared at once.
    let logits = 8 * (LOGIT_ROWS + 1) * spec.vocabulary;
    let copied =
        |b: &BlockSpec| 4 * b.slots().filter(|slot| is_copied(weights, slot)).map(numbers).sum::<usize>();
    // The importance of columns is gathered with all blocks in memory.
    let copied = spec.blocks.iter().map(copied).sum::<usize>();
    (BASE + threads * THREAD + encoded + logits + copied + 2 * activations(weights, length)) as u64
}

/// Whether reading a map copies it.
fn is_copied(weights: &Weights, slot: &Slot) -> bool {
    let name = slot.weight();
    weights.entries().iter().any(|entry| entry.name == name && entry.is_copied())
}

/// Bytes of each block that are copied from a checkpoint that stores them in another order.
fn reordered(weights: &Weights, assignments: &[Assignment]) -> Vec<usize> {
    let bytes = |slot: &Slot| {
        let found = assignments.iter().find(|a| a.entry.name == slot.weight());
        found.map_or(0, |a| a.entry.format.tensor_bytes(&a.entry.shape).unwrap_or(0))
    };
    let block = |b: &BlockSpec| b.slots().filter(|slot| is_copied(weights, slot)).map(bytes).sum();
    weights.spec().blocks.iter().map(block).collect()
}

/// One context's activations of one network.
fn activations(weights: &Weights, length: usize) -> usize {
    let spec = weights.spec();
    let widest = spec.blocks.iter().flat_map(BlockSpec::stages).map(|s| width(&s)).max().unwrap_or(0);
    let heads = spec.attentions().map(|attention| attention.heads).max().unwrap_or(0);
    4 * length * (4 * spec.hidden + 4 * widest) + 4 * heads.min(64) * length * length
}

/// Sums of gradients of the largest block in the making, packed and on the way to the disk; one context on its way
/// back; some positions' logits; what the head reads.
fn gradients(weights: &Weights, length: usize) -> usize {
    let spec = weights.spec();
    let sums = spec.blocks.iter().map(square_numbers).max().unwrap_or(0);
    let logits = GRADIENT_LOGITS.max(spec.vocabulary);
    let head = 8 * spec.hidden * spec.hidden;
    8 * sums + 2 * activations(weights, length) + 4 * logits + head
}

/// Numbers of a stage's widest activation, read or given.
fn width(stage: &Stage) -> usize {
    stage.slots.iter().map(|s| s.columns.max(s.rows)).max().unwrap_or(0)
}

/// The largest stage of the walk.
fn walk(weights: &Weights, recipe: &Recipe, assignments: &[Assignment]) -> usize {
    let (spec, method) = (weights.spec(), recipe.method);
    let length = recipe.calibration.as_ref().map_or(0, |c| c.length());
    let stored = |name: &str| {
        let found = assignments.iter().find(|a| a.entry.name == name);
        found.map_or(0, |a| a.format.tensor_bytes(&a.entry.shape).unwrap_or(0))
    };
    let stage = |columns: usize, rows: usize, missing: Missing, couples: bool| {
        let missing = if method.corrects() { missing } else { Missing::Nothing };
        let sums = 4 * Statistics::numbers(columns, missing);
        let square = columns * columns;
        // Either factor is made in double precision; the order of rounding keeps a single one beside it.
        let factor = 12 * square;
        let slab = 4 * columns * rows.min(SLAB);
        let solved = 4 * 3 * columns * rows.min(CORRECTED_ROWS);
        let chosen = if method.chooses() { sums + factor } else { 0 };
        // Factors in double precision and what becomes of them, and as many errors as there are targets.
        let coupled = if couples { 12 * rows * rows.min(PIECE) + slab } else { 0 };
        let both = if rows > SLAB { 8 * square } else { 0 };
        sums + chosen.max(factor + both + slab + solved.max(coupled))
    };
    let mut most = 0;
    for block in &spec.blocks {
        let stages = block.stages();
        let unit: usize = stages.iter().flat_map(|s| &s.slots).map(|slot| stored(&slot.weight())).sum();
        // Triangles, twice while they are read.
        let sensitivities = if method.couples() { 4 * square_numbers(block) } else { 0 };
        for s in &stages {
            let rows = s.slots.iter().map(|slot| slot.rows).max().unwrap_or(0);
            let missing = if s.residual { Missing::Result(spec.hidden) } else { Missing::Input };
            // The unit is copied once to be saved.
            most = most
                .max(stage(s.slots[0].columns, rows, missing, method.couples()) + 2 * unit + sensitivities);
        }
    }
    let head = spec.head();
    let ends = stage(head.columns, head.rows, Missing::Input, false) + 2 * stored(&head.weight());
    most.max(ends)
        + 2 * activations(weights, length)
        + 8 * LOGIT_ROWS * spec.vocabulary
        + SENSITIVITY_CONTEXTS * 4 * length * spec.hidden
}

/// Bytes that a recipe's work folder will take at most; 0 for methods that need none.
pub fn work_bytes(weights: &Weights, recipe: &Recipe, bytes_out: u64) -> u64 {
    let (Need::Hessian, Some(calibration)) = (recipe.method.need(), &recipe.calibration) else { return 0 };
    let spec = weights.spec();
    let stages = spec.blocks.iter().flat_map(|b| b.stages());
    let widest = stages.map(|s| s.slots[0].columns).max().unwrap_or(0);
    let tokens = calibration.tokens() + recipe.self_generated * calibration.length();
    let contexts = tokens / calibration.length().max(1);
    let sensitivities = match recipe.method.couples() {
        true => sensitivity_bytes(spec, contexts, calibration.length()),
        false => 0,
    };
    // Residual streams before, between and after a block, and the widest input; of two networks.
    let streams = (tokens * 2 * (3 * spec.hidden + widest) * size_of::<f32>()) as u64;
    bytes_out + sensitivities + streams
}
