//! Matrices of integer codes, packed at load so that one vector multiplies eight or sixteen rows (`codes/layout.rs`), times
//! activations in eight bits.
//!
//! A row of activations has one scale every 32 floats ([`Rounded`]), so that only integers are multiplied inside a chunk; its
//! sum joins the row's in `f32`, chunk after chunk.
//! Invariant: a result depends on its row and its activations alone: not on threads, nor on what is multiplied beside
//! it, nor on the instruction set, for every kernel adds the same numbers in the same order with one rounding each.
//! Left out: formats without codes, which are multiplied as floats (`packed_float.rs`).

use super::codes::activations::Activations;
use super::codes::layout::{ROWS, ScaleLayout};
use super::codes::matrix::{CodeMatrix, TASK_BYTES};
use super::codes::outliers::{Outliers, OutliersOfRows};
use super::codes::packed_activations::ROW_FLOATS;
use super::dequantized::Dequantized;
use super::instruction_set::ManyRows;
use super::rounded::Rounded;
use crate::scratch::Buffer;
use crate::shared::Shared;
use crate::{Arithmetic, Backend, Input, Matrix, Precision};
use kvant_core::Tensor;
use std::any::Any;
use std::ops::Range;

/// Rows of activations that a task multiplies with one panel after the other: they stay in a core's own cache.
const TOKENS: usize = 64;
/// Rows of activations whose products are bound by memory bandwidth.
const FEW: usize = 2;
/// Rows of activations whose outliers are multiplied next to their codes, panel by panel. With more rows a second pass finds
/// the codes in the cache again.
const NEAR: usize = 16;
/// Rows of the matrix whose columns are decoded side by side for the outliers of one row of activations.
const OUTLIER_ROWS: usize = 32;

/// A packed matrix.
pub(crate) struct PackedCodes {
    /// The source: rows are read from it one by one, for an embedding.
    tensor: Tensor,
    backend: Backend,
    precision: Precision,
    matrix: CodeMatrix,
}

impl PackedCodes {
    /// `None` for a format without codes, or of a layout that panels don't have.
    pub fn new(backend: &Backend, precision: Precision, tensor: &Tensor) -> Option<Self> {
        let matrix = CodeMatrix::new(backend.pool(), backend.cpu().panel_rows(), tensor)?;
        Some(Self { tensor: tensor.clone(), backend: backend.clone(), precision, matrix })
    }
}

/// One matrix's part of a product: what it reads and where its results go.
struct Part<'a> {
    matrix: &'a CodeMatrix,
    x: Activations<'a>,
    outliers: Option<&'a Outliers>,
    y: Shared<'a, f32>,
}

/// Products of one input with several matrices of one backend: `results[i]` = x · matrix i. Panics where lengths don't fit.
pub(crate) fn multiply(matrices: &[&PackedCodes], x: &Input, results: &mut [&mut [f32]]) {
    let backend = &matrices[0].backend;
    for (m, result) in matrices.iter().zip(&*results) {
        assert!(x.numbers().len() == x.rows() * m.columns(), "activations are rows of {}", m.columns());
        assert_eq!(result.len(), x.rows() * m.rows(), "a result for every row");
    }
    let rounded: Vec<&Rounded> = matrices.iter().map(|m| x.rounded(backend, m.precision)).collect();
    // Two rows of codes for each row of activations become one row of results.
    let mut both: Vec<Option<Buffer>> = (matrices.iter().zip(&rounded))
        .map(|(m, x)| {
            let codes = x.activations().rows();
            (codes > x.rows).then(|| Buffer::take(codes * m.rows()))
        })
        .collect();
    let parts: Vec<Part> = (matrices.iter().zip(&rounded))
        .zip(results.iter_mut().zip(&mut both))
        .map(|((m, x), (result, both))| Part {
            matrix: &m.matrix,
            x: x.activations(),
            outliers: x.outliers.as_ref(),
            y: Shared::new(both.as_deref_mut().unwrap_or(result)),
        })
        .collect();
    if x.rows() <= FEW {
        multiply_few(backend, &parts)
    } else {
        multiply_many(backend, &parts)
    }
    drop(parts);
    for ((result, both), m) in results.iter_mut().zip(&both).zip(matrices) {
        if let Some(both) = both {
            add_pairs(backend, both, result, m.rows());
        }
    }
}

/// Products of few rows, bound by memory bandwidth. Tasks are long, because the prefetches past a task's end help another thread,
/// and become shorter towards the end, so that threads end together: each takes half of an equal share of the rest.
fn multiply_few(backend: &Backend, parts: &[Part]) {
    let bytes_of = |m: &CodeMatrix| m.panel_bytes()[0].max(1);
    let mut left: usize = parts.iter().map(|part| bytes_of(part.matrix) * part.matrix.panels()).sum();
    let mut tasks: Vec<(&Part, Range<usize>)> = Vec::new();
    for part in parts {
        let (bytes, panels, mut at) = (bytes_of(part.matrix), part.matrix.panels(), 0);
        while at < panels {
            let task_bytes = (left / (2 * backend.threads())).max(TASK_BYTES);
            let end = panels.min(at + (task_bytes / bytes).max(1));
            tasks.push((part, at..end));
            left -= (end - at) * bytes;
            at = end;
        }
    }
    backend.pool().run(tasks.len(), &|task| {
        let (part, panels) = &tasks[task];
        multiply_rest(backend, part, panels.clone(), 0, part.outliers);
    });
}

/// Rows of activations that one kernel multiplies, and where they lie packed.
struct Group<'a> {
    /// Which of the instruction set's kernels.
    kernel: usize,
    rows: Range<usize>,
    /// Which of the packings.
    packing: usize,
    outliers: Option<OutliersOfRows<'a>>,
}

/// Rows of activations packed for a kernel. Matrices that correct for the same zero point share them.
struct Packing<'a> {
    kernel: &'a ManyRows,
    x: Activations<'a>,
    rows: Range<usize>,
    zero_point: i16,
    halves: bool,
    packed: Buffer,
}

impl Packing<'_> {
    /// Floats of a group.
    fn group_floats(&self, chunks: usize) -> usize {
        chunks * self.kernel.group_rows * ROW_FLOATS
    }

    /// Groups of rows.
    fn groups(&self) -> usize {
        self.rows.len().div_ceil(self.kernel.group_rows)
    }
}

/// Products of many rows: activations are packed, then all panels of all matrices are multiplied, each in one parallel run.
fn multiply_many(backend: &Backend, parts: &[Part]) {
    let cpu = backend.cpu();
    let mut packings: Vec<Packing> = Vec::new();
    let mut work: Vec<(&Part, Vec<Group>, usize)> = Vec::new();
    for part in parts {
        let near = part.outliers.filter(|_| part.x.rows() <= NEAR);
        let (mut groups, mut done) = (Vec::new(), 0);
        for (index, kernel) in cpu.many_rows().iter().enumerate() {
            let rows = done..done + (kernel.row_count)(part.matrix, part.x.rows() - done);
            if rows.is_empty() {
                continue;
            }
            done = rows.end;
            let packing = packing(&mut packings, kernel, part, rows.clone());
            let outliers = near.map(|all| OutliersOfRows::new(part.matrix, all, rows.clone()));
            groups.push(Group { kernel: index, rows, packing, outliers });
        }
        work.push((part, groups, done));
    }
    pack(backend, &mut packings, parts[0].matrix.chunks());
    let mut tasks: Vec<(usize, Range<usize>)> = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let (panels, each) = (part.matrix.panels(), part.matrix.panels_of_task());
        tasks.extend((0..panels).step_by(each).map(|at| (index, at..panels.min(at + each))));
    }
    backend.pool().run(tasks.len(), &|task| {
        let (index, panels) = &tasks[task];
        let (part, groups, done) = &work[*index];
        for Group { kernel, rows, packing, outliers } in groups {
            let packed = &packings[*packing].packed;
            cpu.multiply_many(*kernel, part.matrix, panels.clone(), packed, rows.clone(), &part.y);
            if let Some(outliers) = outliers {
                cpu.add_outliers(part.matrix, panels.clone(), outliers, &part.y);
            }
        }
        let near = part.outliers.filter(|_| part.x.rows() <= NEAR);
        multiply_rest(backend, part, panels.clone(), *done, near);
    });
    add_far_outliers(backend, parts);
}

/// The place of a packing, which is made if there is none.
fn packing<'a>(
    packings: &mut Vec<Packing<'a>>,
    kernel: &'a ManyRows,
    part: &Part<'a>,
    rows: Range<usize>,
) -> usize {
    let zero_point = (kernel.zero_point)(part.matrix);
    let halves = part.matrix.scale_layout == ScaleLayout::HalfGroups;
    let same = |other: &Packing| {
        std::ptr::eq(other.kernel, kernel)
            && std::ptr::eq(other.x.codes, part.x.codes)
            && (&other.rows, other.zero_point, other.halves) == (&rows, zero_point, halves)
    };
    packings.iter().position(same).unwrap_or_else(|| {
        packings.push(Packing { kernel, x: part.x, rows, zero_point, halves, packed: Buffer::take(0) });
        packings.len() - 1
    })
}

/// Fills packings, of so many chunks a row.
fn pack(backend: &Backend, packings: &mut [Packing], chunks: usize) {
    for packing in &mut *packings {
        packing.packed = Buffer::take(packing.groups() * packing.group_floats(chunks));
    }
    let mut tasks = Vec::new();
    let targets: Vec<_> = packings
        .iter_mut()
        .enumerate()
        .map(|(index, packing)| {
            let (groups, floats) = (packing.groups(), packing.group_floats(chunks));
            tasks.extend((0..groups).map(|group| (index, group)));
            let Packing { kernel, x, rows, zero_point, halves, packed } = packing;
            (kernel, *x, rows.clone(), *zero_point, *halves, floats, Shared::new(packed))
        })
        .collect();
    backend.pool().run(tasks.len(), &|task| {
        let (index, group) = tasks[task];
        let (kernel, x, rows, zero_point, halves, floats, packed) = &targets[index];
        // SAFETY: each task has its own group.
        let packed = unsafe { packed.part(group * floats, *floats) };
        let first = rows.start + group * kernel.group_rows;
        (kernel.pack)(x, first..rows.end, *zero_point, *halves, packed);
    });
}

/// Rows from `done` on, one or a few at a time, with some panels.
fn multiply_rest(
    backend: &Backend,
    part: &Part,
    panels: Range<usize>,
    done: usize,
    outliers: Option<&Outliers>,
) {
    let (cpu, matrix) = (backend.cpu(), part.matrix);
    let side = (OUTLIER_ROWS / matrix.panel_rows).max(1);
    let mut sums = [[0.0f32; ROWS]; TOKENS];
    for first in (done..part.x.rows()).step_by(TOKENS) {
        let sums = &mut sums[..TOKENS.min(part.x.rows() - first)];
        let outliers = outliers.map(|all| OutliersOfRows::new(matrix, all, first..first + sums.len()));
        for some in panels.clone().step_by(side) {
            let some = some..panels.end.min(some + side);
            for panel in some.clone() {
                cpu.few_rows(matrix, panel, &part.x, first, sums);
                for (i, sums) in sums.iter().enumerate() {
                    // SAFETY: each task has its own panels.
                    unsafe { matrix.put(&part.y, first + i, panel, sums) };
                }
            }
            if let Some(outliers) = &outliers {
                cpu.add_outliers(matrix, some, outliers, &part.y);
            }
        }
    }
}

/// Adds the products of outliers of many rows.
fn add_far_outliers(backend: &Backend, parts: &[Part]) {
    let far = |part: &&Part| part.outliers.is_some() && part.x.rows() > NEAR;
    let all: Vec<(&Part, OutliersOfRows)> = (parts.iter().filter(far))
        .filter_map(|part| Some((part, OutliersOfRows::new(part.matrix, part.outliers?, 0..part.x.rows()))))
        .collect();
    let mut tasks = Vec::new();
    for (index, (part, _)) in all.iter().enumerate() {
        let side = (2 * OUTLIER_ROWS / part.matrix.panel_rows).max(1);
        let panels = part.matrix.panels();
        tasks.extend((0..panels).step_by(side).map(|at| (index, at..panels.min(at + side))));
    }
    backend.pool().run(tasks.len(), &|task| {
        let (index, panels) = &tasks[task];
        let (part, outliers) = &all[*index];
        backend.cpu().add_outliers(part.matrix, panels.clone(), outliers, &part.y);
    });
}

/// Rows of `count` floats: the sums of two rows each.
fn add_pairs(backend: &Backend, both: &[f32], out: &mut [f32], count: usize) {
    let rows = out.len() / count;
    let out = Shared::new(out);
    let add = |row: usize| {
        let (first, second) = both[2 * row * count..][..2 * count].split_at(count);
        // SAFETY: each task has its own row.
        let out = unsafe { out.part(row * count, count) };
        out.iter_mut().zip(first.iter().zip(second)).for_each(|(out, (first, second))| *out = first + second);
    };
    if rows <= FEW { (0..rows).for_each(add) } else { backend.pool().run(rows, &add) }
}

impl Matrix for PackedCodes {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    fn kernel(&self) -> String {
        format!("{} panels of integers", self.backend.isa().name())
    }

    fn arithmetic(&self) -> Arithmetic {
        Arithmetic::Integer(self.precision)
    }

    fn apply(&self, x: &Input, y: &mut [f32]) {
        multiply(&[self], x, &mut [y]);
    }

    fn add_transposed(&self, x: &[f32], y: &mut [f32]) {
        // The speed of gradients does not matter here.
        Dequantized::new(&self.backend, &self.tensor).add_transposed(x, y);
    }
}
