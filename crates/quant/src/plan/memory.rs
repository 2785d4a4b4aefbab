//! Computes upper bounds of the memory and of the disk space that a recipe takes, before the recipe runs.
//!
//! Only private memory counts. The system can release the mapped input and the cached pages of the work folder's files
//! when other programs need memory. The bound includes the largest size of every buffer that grows with the model. The
//! tokenizer is not included, because it is freed before the walk through the network begins. The caller's own memory
//! is not included.

use super::allocation::RIVALS;
use super::file_type::Assignment;
use super::recipe::Recipe;
use crate::gather::{
    GRADIENT_LOGITS, LOGIT_ROWS, Missing, PIECE, SENSITIVITY_CONTEXTS, Statistics, missing_of_experts,
    self_generated_bytes, sensitivity_bytes, square_values,
};
use crate::solve::{CORRECTED_ROWS, Need, SLAB};
use kvant_model::{BlockSpec, Slot, Stage, StageOutput, Weights};

/// Bytes for the program, the threads' stacks and the allocator's overhead.
const BASE_BYTES: usize = 64 << 20;
/// Bytes of one thread's working buffers: decoded values, codes, gradients of a few rows.
const THREAD_BYTES: usize = 8 << 20;

/// Returns an upper bound of the private bytes that quantizing takes with `threads` threads.
pub fn memory_bytes(weights: &Weights, recipe: &Recipe, assignments: &[Assignment], threads: usize) -> u64 {
    let base = BASE_BYTES + threads * THREAD_BYTES;
    let bytes = |a: &Assignment| a.format.tensor_bytes(&a.entry.shape).unwrap_or(0);
    let largest_written = assignments.iter().map(bytes).max().unwrap_or(0);
    let walk = match (recipe.method.need(), &recipe.calibration, &recipe.importance) {
        (Need::Hessian, Some(calibration), _) => {
            let self_generated =
                self_generated_bytes(weights.spec(), recipe.self_generated, calibration.length(), threads);
            let generation = if self_generated > 0 {
                self_generated + copied_bytes(weights, assignments).iter().sum::<usize>()
            } else {
                0
            };
            let gradients =
                if recipe.method.couples() { gradient_bytes(weights, calibration.length()) } else { 0 };
            walk_bytes(weights, recipe, assignments).max(generation).max(gradients)
        }
        (Need::Importance, Some(calibration), None) => {
            copied_bytes(weights, assignments).iter().sum::<usize>()
                + activation_bytes(weights, calibration.length())
        }
        _ => 0,
    };
    let one_block = copied_bytes(weights, assignments).into_iter().max().unwrap_or(0);
    // One tensor is written while the next one is solved.
    (base + 2 * one_block + (2 * largest_written).max(walk)) as u64
}

/// Returns an upper bound of the private bytes that choosing formats for a budget takes with `threads` threads.
pub fn allocation_bytes(weights: &Weights, recipe: &Recipe, threads: usize) -> u64 {
    let spec = weights.spec();
    let length = recipe.calibration.as_ref().map_or(0, |c| c.length());
    let weight_count = |slot: &Slot| slot.all_rows() * slot.columns;
    let block = |b: &BlockSpec| b.slots().map(weight_count).sum::<usize>();
    let largest_block = spec.blocks.iter().map(block).max().unwrap_or(0);
    let ends = weight_count(&spec.embedding.tokens) + spec.output.head.own().map_or(0, weight_count);
    // No candidate format takes more than two bytes per weight. If embedding and head are two matrices, they are not in
    // memory at the same time, unless they keep their format. Matrices that keep their format are mapped.
    let encoded = 2 * (RIVALS + 1) * (largest_block + ends);
    // Logits of both networks in f32: one row more than the number of rows that are compared at the same time.
    let logits = 8 * (LOGIT_ROWS + 1) * spec.vocabulary;
    let copied = |b: &BlockSpec| {
        4 * b.slots().filter(|slot| is_copied(weights, slot)).map(weight_count).sum::<usize>()
    };
    // All blocks are in memory while the importance of columns is gathered.
    let copied = spec.blocks.iter().map(copied).sum::<usize>();
    (BASE_BYTES + threads * THREAD_BYTES + encoded + logits + copied + 2 * activation_bytes(weights, length))
        as u64
}

/// Returns true if the weight of this linear layer (map) is copied when it is read. Other weights are used in place in
/// the mapped file.
fn is_copied(weights: &Weights, slot: &Slot) -> bool {
    let name = slot.weight();
    weights.entries().iter().any(|entry| entry.name == name && entry.is_copied())
}

/// Returns, for each block, the bytes of the weights that are copied because the checkpoint stores these weights in
/// another order.
fn copied_bytes(weights: &Weights, assignments: &[Assignment]) -> Vec<usize> {
    let bytes = |slot: &Slot| {
        let found = assignments.iter().find(|a| a.entry.name == slot.weight());
        found.map_or(0, |a| a.entry.format.tensor_bytes(&a.entry.shape).unwrap_or(0))
    };
    let block = |b: &BlockSpec| b.slots().filter(|slot| is_copied(weights, slot)).map(bytes).sum();
    weights.spec().blocks.iter().map(block).collect()
}

/// Returns the bytes of the activations of one context of `length` tokens in one network.
fn activation_bytes(weights: &Weights, length: usize) -> usize {
    let spec = weights.spec();
    let widest = spec.blocks.iter().flat_map(BlockSpec::stages).map(|s| width(&s)).max().unwrap_or(0);
    let heads = spec.attentions().map(|attention| attention.heads).max().unwrap_or(0);
    4 * length * (4 * spec.stream_width() + 4 * widest) + 4 * heads.min(64) * length * length
}

/// Returns the bytes that computing gradients takes: the sums of the largest block three times (square matrices, packed
/// lower triangles, file content); the backward pass of one context; the logits of some positions; the Gram matrix of
/// the head's input.
fn gradient_bytes(weights: &Weights, length: usize) -> usize {
    let spec = weights.spec();
    let sums = spec.blocks.iter().map(square_values).max().unwrap_or(0);
    let logits = GRADIENT_LOGITS.max(spec.vocabulary);
    let head = 8 * spec.hidden * spec.hidden;
    8 * sums + 2 * activation_bytes(weights, length) + 4 * logits + head
}

/// Returns the largest number of values per token in the inputs and outputs of a stage. A stage is the set of maps of a
/// block that read the same input.
fn width(stage: &Stage) -> usize {
    stage.slots.iter().map(|s| stage.input_width().max(s.rows)).max().unwrap_or(0)
}

/// Returns the bytes that the walk through the network takes in its largest stage.
fn walk_bytes(weights: &Weights, recipe: &Recipe, assignments: &[Assignment]) -> usize {
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
        // A factor of the Gram matrix is computed in f64 (8 bytes per value). The rounding order keeps an f32 copy
        // (4 bytes per value) at the same time.
        let factor = 12 * square;
        let slab = 4 * columns * rows.min(SLAB);
        let solved = 4 * 3 * columns * rows.min(CORRECTED_ROWS);
        let chosen = if method.chooses() { sums + factor } else { 0 };
        // Row feedback needs row factors in f64, their f32 copies, and one f32 error for each target value of a slab.
        let coupled = if couples { 12 * rows * rows.min(PIECE) + slab } else { 0 };
        let both = if rows > SLAB { 8 * square } else { 0 };
        sums + chosen.max(factor + both + slab + solved.max(coupled))
    };
    let mut largest = 0;
    for block in &spec.blocks {
        let stages = block.stages();
        let unit: usize = stages.iter().flat_map(|s| &s.slots).map(|slot| stored(&slot.weight())).sum();
        // The sensitivities are lower triangles, half of a square. Two copies exist while they are read from the file.
        let sensitivities = if method.couples() { 4 * square_values(block) } else { 0 };
        for s in &stages {
            let rows = s.slots.iter().map(|slot| slot.rows).max().unwrap_or(0);
            let missing =
                if s.output == StageOutput::Added { Missing::Result(spec.hidden) } else { Missing::Input };
            // The unit (all solved tensors of the block) counts two times, because saving the unit makes one copy.
            let columns = s.slots[0].columns;
            // One set of sums for each expert, and one for all of them.
            let sums_of_experts = s.experts().map_or(0, |experts| {
                let missing = if method.corrects() { missing_of_experts(s) } else { Missing::Nothing };
                4 * experts * Statistics::numbers(columns, missing)
            });
            largest = largest.max(
                stage(columns, rows, missing, method.couples()) + sums_of_experts + 2 * unit + sensitivities,
            );
        }
    }
    let of_head =
        |head: &Slot| stage(head.columns, head.rows, Missing::Input, false) + 2 * stored(&head.weight());
    // Without a head, the embedding is the only matrix outside the blocks. It is solved without sums.
    let ends = spec.head().map_or_else(|| 2 * stored(&spec.embedding.tokens.weight()), of_head);
    largest.max(ends)
        + 2 * activation_bytes(weights, length)
        + 8 * LOGIT_ROWS * spec.vocabulary
        + SENSITIVITY_CONTEXTS * 4 * length * spec.stream_width()
}

/// Returns an upper bound of the bytes of a recipe's work folder; 0 for methods without a work folder. `bytes_out` is
/// the number of bytes of tensor data in the output.
pub fn work_bytes(weights: &Weights, recipe: &Recipe, bytes_out: u64) -> u64 {
    let (Need::Hessian, Some(calibration)) = (recipe.method.need(), &recipe.calibration) else { return 0 };
    let spec = weights.spec();
    let stages = spec.blocks.iter().flat_map(|b| b.stages());
    let widest = stages.map(|s| s.input_width()).max().unwrap_or(0);
    let tokens = calibration.tokens() + recipe.self_generated * calibration.length();
    let contexts = tokens / calibration.length().max(1);
    let sensitivities = match recipe.method.couples() {
        true => sensitivity_bytes(spec, contexts, calibration.length()),
        false => 0,
    };
    // The folder holds, for both networks, the streams before, inside and after a block, and the widest input.
    let streams = (tokens * 2 * (3 * spec.stream_width() + widest) * size_of::<f32>()) as u64;
    bytes_out + sensitivities + streams
}
