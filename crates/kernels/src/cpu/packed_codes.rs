//! Products of matrices of integer codes with activations in eight bits. The codes are packed into panels when the
//! model is loaded (`codes/layout.rs`). A panel is 8 or 16 rows of a matrix, stored side by side, so that one vector
//! multiplies all rows of a panel.
//!
//! A chunk is 32 columns of a panel, or 32 values of a row of activations. A row of activations has one scale per chunk
//! ([`Rounded`]). Inside a chunk only integers are multiplied and added. The sum of each chunk is converted to `f32`
//! and added to the sum of the row, chunk after chunk.
//!
//! Invariant: a result depends only on one row of the matrix and one row of activations. It does not depend on the
//! threads, on the other rows of the call or on the instruction set. The reason is that every kernel adds the same
//! values in the same order, with one rounding per addition.
//!
//! Not covered here: formats without codes; see `packed_float.rs` and `dequantized.rs`.

use super::codes::activations::Activations;
use super::codes::layout::{ROWS, ScaleLayout};
use super::codes::matrix::{CodeMatrix, TASK_BYTES};
use super::codes::outliers::{Outliers, OutliersOfRows};
use super::codes::packed_activations::ROW_FLOATS;
use super::dequantized::Dequantized;
use super::generic::outliers::SINGLE_ROW_PANELS;
use super::instruction_set::ManyRows;
use super::rounded::Rounded;
use crate::scratch::Buffer;
use crate::shared::Shared;
use crate::{Arithmetic, Backend, Input, Matrix, Precision};
use kvant_core::Tensor;
use std::any::Any;
use std::ops::Range;

/// Number of rows of activations that a task multiplies with one panel before it reads the next panel. These rows stay
/// in the cache of the core.
const CACHED_ROWS: usize = 64;
/// Maximum number of rows of activations for which memory bandwidth limits the speed of the product.
const BANDWIDTH_BOUND_ROWS: usize = 2;

/// A packed matrix of integer codes.
pub(crate) struct PackedCodes {
    /// The tensor from which the codes were packed. An embedding reads single rows from this tensor.
    tensor: Tensor,
    backend: Backend,
    /// The precision to which activations are rounded.
    precision: Precision,
    matrix: CodeMatrix,
}

impl PackedCodes {
    /// Packs a tensor. Returns `None` if the format of the tensor has no codes, or if panels do not support the layout
    /// of the format.
    pub fn new(backend: &Backend, precision: Precision, tensor: &Tensor) -> Option<Self> {
        let matrix = CodeMatrix::new(backend.pool(), backend.cpu().panel_rows(), tensor)?;
        Some(Self { tensor: tensor.clone(), backend: backend.clone(), precision, matrix })
    }
}

/// The product with one matrix: the operands, and the memory for the results.
struct Product<'a> {
    matrix: &'a CodeMatrix,
    x: Activations<'a>,
    outliers: Option<&'a Outliers>,
    /// Shape: rows of codes of `x` × rows of the matrix.
    y: Shared<'a, f32>,
}

impl<'a> Product<'a> {
    /// Returns the outliers of all rows of activations.
    fn outliers_of_rows(&self) -> Option<OutliersOfRows<'a>> {
        self.outliers.map(|all| OutliersOfRows::new(self.matrix, all, 0..self.x.rows()))
    }
}

/// Multiplies several matrices of one backend with an input each. `results[i]` receives the product of `inputs[i]` with
/// `matrices[i]`; its shape is rows of `inputs[i]` × rows of `matrices[i]`. All matrices have the same number of columns.
///
/// # Panics
/// If the lengths do not match.
pub(crate) fn multiply(matrices: &[&PackedCodes], inputs: &[&Input], results: &mut [&mut [f32]]) {
    let backend = &matrices[0].backend;
    for ((m, x), result) in matrices.iter().zip(inputs).zip(&*results) {
        assert_eq!(m.columns(), matrices[0].columns(), "matrices of one number of columns");
        assert!(x.numbers().len() == x.rows() * m.columns(), "activations are rows of {}", m.columns());
        assert_eq!(result.len(), x.rows() * m.rows(), "a result for every row");
    }
    let rounded: Vec<&Rounded> =
        matrices.iter().zip(inputs).map(|(m, x)| x.rounded(backend, m.precision)).collect();
    // If there are two rows of codes per row of activations, each result is the sum of two products. These buffers hold
    // the products.
    let mut row_pairs: Vec<Option<Buffer>> = (matrices.iter().zip(&rounded))
        .map(|(m, x)| {
            let codes = x.activations().rows();
            (codes > x.rows).then(|| Buffer::take(codes * m.rows()))
        })
        .collect();
    let products: Vec<Product> = (matrices.iter().zip(&rounded))
        .zip(results.iter_mut().zip(&mut row_pairs))
        .map(|((m, x), (result, row_pairs))| Product {
            matrix: &m.matrix,
            x: x.activations(),
            outliers: x.outliers.as_ref(),
            y: Shared::new(row_pairs.as_deref_mut().unwrap_or(result)),
        })
        .collect();
    if inputs.iter().all(|x| x.rows() <= BANDWIDTH_BOUND_ROWS) {
        multiply_few(backend, &products)
    } else {
        multiply_many(backend, &products)
    }
    drop(products);
    for ((result, row_pairs), m) in results.iter_mut().zip(&row_pairs).zip(matrices) {
        if let Some(row_pairs) = row_pairs {
            add_pairs(backend, row_pairs, result, m.rows());
        }
    }
}

/// Multiplies few rows of activations. Memory bandwidth limits the speed of these products.
///
/// Tasks are long, because the prefetches past the end of a task load codes that another thread needs. Tasks become
/// shorter towards the end, so that all threads finish at the same time. The size of a task is half of the remaining
/// bytes divided by the number of threads, but at least about [`TASK_BYTES`].
fn multiply_few(backend: &Backend, products: &[Product]) {
    let bytes_of = |m: &CodeMatrix| m.panel_bytes()[0].max(1);
    let mut remaining_bytes: usize =
        products.iter().map(|product| bytes_of(product.matrix) * product.matrix.panels()).sum();
    let mut tasks: Vec<(&Product, Range<usize>)> = Vec::new();
    for product in products {
        let (bytes, panels, mut panel) = (bytes_of(product.matrix), product.matrix.panels(), 0);
        while panel < panels {
            let task_bytes = (remaining_bytes / (2 * backend.threads())).max(TASK_BYTES);
            let end = panels.min(panel + (task_bytes / bytes).max(1));
            tasks.push((product, panel..end));
            remaining_bytes -= (end - panel) * bytes;
            panel = end;
        }
    }
    backend.pool().run(tasks.len(), &|task| {
        let (product, panels) = &tasks[task];
        let outliers = product.outliers_of_rows();
        for first in panels.clone().step_by(SINGLE_ROW_PANELS) {
            let group = first..panels.end.min(first + SINGLE_ROW_PANELS);
            multiply_separate_rows(backend, product, group.clone(), 0);
            if let Some(outliers) = &outliers {
                backend.cpu().add_outliers(product.matrix, group, outliers, &product.y);
            }
        }
    });
}

/// Rows of activations that one kernel multiplies.
struct Group {
    /// Index of the kernel in `CodeKernels::many_rows` of the instruction set.
    kernel: usize,
    rows: Range<usize>,
    /// Index of the [`Packing`] that holds these rows.
    packing: usize,
}

/// Rows of activations that are packed for a kernel. Matrices share a packing if the kernel, the activations, the rows
/// and the correction terms are the same.
struct Packing<'a> {
    kernel: &'a ManyRows,
    x: Activations<'a>,
    rows: Range<usize>,
    /// The zero point of the matrix's codes, for which the correction terms compensate.
    zero_point: i16,
    /// True if the two halves of a chunk have separate correction terms.
    halves: bool,
    /// The packed groups, one after another.
    packed: Buffer,
}

impl ManyRows {
    /// Returns the number of floats of a packed group. A row has `chunks` chunks.
    fn group_floats(&self, chunks: usize) -> usize {
        chunks * self.group_rows * ROW_FLOATS
    }
}

/// The kernels that multiply the rows of activations with one matrix.
struct Work<'a> {
    product: &'a Product<'a>,
    /// The groups of rows for which `CodeKernels::many_rows` has a kernel.
    groups: Vec<Group>,
    /// The number of rows in `groups`. The other rows are multiplied one by one or a few at a time.
    done: usize,
    /// The outliers of all rows, so that each column with outliers is decoded once.
    outliers: Option<OutliersOfRows<'a>>,
}

/// Cuts the panels of several matrices into tasks. `matrices` has for each matrix the number of its panels and of the
/// panels of a task. Returns for each task the index of the matrix and the panels.
fn panel_tasks(matrices: impl Iterator<Item = (usize, usize)>) -> Vec<(usize, Range<usize>)> {
    let tasks = |(index, (panels, at_once)): (usize, (usize, usize))| {
        (0..panels).step_by(at_once).map(move |panel| (index, panel..panels.min(panel + at_once)))
    };
    matrices.enumerate().flat_map(tasks).collect()
}

/// Multiplies many rows of activations. One parallel run packs the activations. A second parallel run multiplies all
/// panels of all matrices. A task multiplies the outliers directly after the codes of the same panels, while the codes are
/// in a near cache.
fn multiply_many(backend: &Backend, products: &[Product]) {
    let cpu = backend.cpu();
    let mut packings: Vec<Packing> = Vec::new();
    let mut work: Vec<Work> = Vec::new();
    for product in products {
        let (mut groups, mut done) = (Vec::new(), 0);
        for (index, kernel) in cpu.many_rows().iter().enumerate() {
            let rows = done..done + (kernel.row_count)(product.matrix, product.x.rows() - done);
            if rows.is_empty() {
                continue;
            }
            done = rows.end;
            let packing = packing(&mut packings, kernel, product, rows.clone());
            groups.push(Group { kernel: index, rows, packing });
        }
        work.push(Work { product, groups, done, outliers: product.outliers_of_rows() });
    }
    pack(backend, &mut packings, products[0].matrix.chunks());
    let tasks = panel_tasks(products.iter().map(|product| {
        let at_once = product.matrix.panels_of_task(backend.threads(), product.outliers.is_some());
        (product.matrix.panels(), at_once)
    }));
    backend.pool().run(tasks.len(), &|task| {
        let (index, panels) = &tasks[task];
        let Work { product, groups, done, outliers } = &work[*index];
        for Group { kernel, rows, packing } in groups {
            let packed = &packings[*packing].packed;
            cpu.multiply_many(*kernel, product.matrix, panels.clone(), packed, rows.clone(), &product.y);
        }
        multiply_separate_rows(backend, product, panels.clone(), *done);
        if let Some(outliers) = outliers {
            cpu.add_outliers(product.matrix, panels.clone(), outliers, &product.y);
        }
    });
}

/// Returns the index of the packing that the rows `rows` of this product need. If the packing does not exist, the
/// function adds it.
fn packing<'a>(
    packings: &mut Vec<Packing<'a>>,
    kernel: &'a ManyRows,
    product: &Product<'a>,
    rows: Range<usize>,
) -> usize {
    let zero_point = (kernel.zero_point)(product.matrix);
    let halves = product.matrix.scale_layout == ScaleLayout::HalfGroups;
    let matches = |other: &Packing| {
        std::ptr::eq(other.kernel, kernel)
            && std::ptr::eq(other.x.codes, product.x.codes)
            && (&other.rows, other.zero_point, other.halves) == (&rows, zero_point, halves)
    };
    packings.iter().position(matches).unwrap_or_else(|| {
        let floats = rows.len().div_ceil(kernel.group_rows) * kernel.group_floats(product.matrix.chunks());
        packings.push(Packing {
            kernel,
            x: product.x,
            rows,
            zero_point,
            halves,
            packed: Buffer::take(floats),
        });
        packings.len() - 1
    })
}

/// Packs the activations of all packings. A row of activations has `chunks` chunks.
fn pack(backend: &Backend, packings: &mut [Packing], chunks: usize) {
    let mut tasks = Vec::new();
    let targets: Vec<_> = packings
        .iter_mut()
        .enumerate()
        .map(|(index, packing)| {
            let Packing { kernel, x, rows, zero_point, halves, packed } = packing;
            let floats = kernel.group_floats(chunks);
            tasks.extend((0..packed.len() / floats).map(|group| (index, group)));
            (kernel, *x, rows.clone(), *zero_point, *halves, floats, Shared::new(packed))
        })
        .collect();
    backend.pool().run(tasks.len(), &|task| {
        let (index, group) = tasks[task];
        let (kernel, x, rows, zero_point, halves, floats, packed) = &targets[index];
        // SAFETY: each task writes only its own group, and the groups do not overlap.
        let packed = unsafe { packed.part(group * floats, *floats) };
        let first = rows.start + group * kernel.group_rows;
        (kernel.pack)(x, first..rows.end, *zero_point, *halves, packed);
    });
}

/// Multiplies the codes of the rows of activations from `done` on with some panels, one row or a few rows at a time.
fn multiply_separate_rows(backend: &Backend, product: &Product, panels: Range<usize>, done: usize) {
    for first in (done..product.x.rows()).step_by(CACHED_ROWS) {
        let mut sums = [[0.0f32; ROWS]; CACHED_ROWS];
        let sums = &mut sums[..CACHED_ROWS.min(product.x.rows() - first)];
        for panel in panels.clone() {
            backend.cpu().few_rows(product.matrix, panel, &product.x, first, sums);
            for (i, sums) in sums.iter().enumerate() {
                // SAFETY: each task has its own panels, so no other task writes these results.
                unsafe { product.matrix.write_sums(&product.y, first + i, panel, sums) };
            }
        }
    }
}

/// Adds pairs of rows: row i of `out` becomes the sum of the rows 2i and 2i + 1 of `row_pairs`. A row has `count`
/// floats.
fn add_pairs(backend: &Backend, row_pairs: &[f32], out: &mut [f32], count: usize) {
    let rows = out.len() / count;
    let out = Shared::new(out);
    let add = |row: usize| {
        let (first, second) = row_pairs[2 * row * count..][..2 * count].split_at(count);
        // SAFETY: each task writes only its own row.
        let out = unsafe { out.part(row * count, count) };
        out.iter_mut().zip(first.iter().zip(second)).for_each(|(out, (first, second))| *out = first + second);
    };
    if rows <= BANDWIDTH_BOUND_ROWS { (0..rows).for_each(add) } else { backend.pool().run(rows, &add) }
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
        multiply(&[self], &[x], &mut [y]);
    }

    fn add_transposed(&self, x: &[f32], y: &mut [f32]) {
        // The speed of gradients does not matter here, so the stored format is decoded.
        Dequantized::new(&self.backend, &self.tensor).add_transposed(x, y);
    }
}
