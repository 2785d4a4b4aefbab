//! Panels of numbers: 32 rows of a matrix side by side, column by column, so that vectors hold one number of all.
//!
//! ```text
//! for each part of 256 columns, for each panel, for up to 6 or 12 rows of activations t at a time:
//!     for each column c of the part: sums[t] += x[t][c] · panel[c]
//!     y[t] += sums[t]
//! ```
//!
//! Sums fill an instruction set's registers; one widened column serves all; a part of a panel stays in the nearest cache
//! while activations pass. Invariant: a product is summed in one order, by its length alone,
//! whatever is multiplied beside it. Left out: where a panel's numbers come from ([`Source`]).

use crate::dense::View;
use crate::shared::Shared;
use crate::{Backend, Matrix, scratch};
use half::{bf16, f16};
use std::ops::Range;

/// Rows of a panel.
pub(crate) const ROWS: usize = 32;
/// Columns of a part.
pub(crate) const PART: usize = 256;
/// Rows of activations that are multiplied where they lie. More are laid together part by part: rows a power of two apart
/// would fall on the same lines of the nearest cache.
const FEW: usize = 4;
/// Rows of activations whose sums are held at once.
const HELD: usize = 48;
/// Bytes of panels of a task, about.
const TASK_BYTES: usize = 1 << 16;

/// How a panel's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    F32,
    F16,
    Bf16,
}

impl Width {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A weight as it is multiplied: subnormal numbers (below 2⁻¹²⁶) count as zero, because a processor takes up to a hundred
/// times as long for each of them. No such weight changes a result by more than its last bits.
#[inline(always)]
pub(crate) fn flushed(weight: f32) -> f32 {
    if weight.abs() < f32::MIN_POSITIVE { 0.0 } else { weight }
}

/// [`flushed`] for stored numbers of a width. Every `f16` is a normal `f32`.
pub(crate) fn flush(width: Width, bytes: &mut [u8]) {
    match width {
        Width::F32 => {
            for number in bytes.as_chunks_mut().0 {
                *number = flushed(f32::from_le_bytes(*number)).to_le_bytes();
            }
        }
        Width::Bf16 => {
            for number in bytes.as_chunks_mut().0 {
                let bits = u16::from_le_bytes(*number);
                *number = if bits & 0x7f80 == 0 { [0; 2] } else { *number };
            }
        }
        Width::F16 => {}
    }
}

/// Widths as numbers, so that inner loops are compiled for each.
pub(crate) const F32: u8 = 0;
pub(crate) const F16: u8 = 1;
pub(crate) const BF16: u8 = 2;

/// Bytes of a column of a panel of a width.
pub(crate) const fn column_bytes(width: u8) -> usize {
    if width == F32 { 4 * ROWS } else { 2 * ROWS }
}

/// Products of 32 rows, one result for each row of activations.
pub(crate) type Products = [[f32; ROWS]];

/// Where panels come from.
pub(crate) trait Source: Matrix {
    /// How the numbers are stored.
    fn width(&self) -> Width;
    /// Hands over some columns of a panel, 32 numbers each.
    fn part(&self, panel: usize, columns: Range<usize>, take: &mut dyn FnMut(&[u8]));
}

/// `y` (n × rows) = `x` (n × columns) · all panels.
pub(crate) fn product(backend: &Backend, source: &dyn Source, x: &[f32], y: &mut [f32]) {
    let (rows, columns) = (source.rows(), source.columns());
    assert!(x.len().is_multiple_of(columns), "activations are rows of {columns}");
    let n = x.len() / columns;
    assert_eq!(y.len(), n * rows, "a result for every row");
    if n == 0 {
        return;
    }
    if n <= FEW || columns <= PART {
        return by_panels(backend, source, n, y, &|rows, part| {
            View::new(&x[rows.start * columns + part.start..], rows.len(), part.len(), columns)
        });
    }
    scratch::with(x.len(), |parts| {
        let all = Shared::new(parts);
        backend.pool().run(columns.div_ceil(PART), &|task| {
            let part = task * PART..columns.min((task + 1) * PART);
            // SAFETY: each task has its own part.
            let into = unsafe { all.part(n * part.start, n * part.len()) };
            for (into, row) in into.chunks_exact_mut(part.len()).zip(x.chunks_exact(columns)) {
                into.copy_from_slice(&row[part.clone()]);
            }
        });
        let parts = &*parts;
        by_panels(backend, source, n, y, &|rows, part| {
            let start = n * part.start + rows.start * part.len();
            View::new(&parts[start..], rows.len(), part.len(), part.len())
        });
    });
}

/// [`product`] with `n` rows of activations, of which `x` gives some rows of a part.
fn by_panels<'a>(
    backend: &Backend,
    source: &dyn Source,
    n: usize,
    y: &mut [f32],
    x: &(dyn Fn(Range<usize>, Range<usize>) -> View<'a, f32> + Sync),
) {
    let (rows, columns, width) = (source.rows(), source.columns(), source.width());
    let panels = rows.div_ceil(ROWS);
    let each = (TASK_BYTES / (columns * ROWS * width.bytes())).clamp(1, panels.max(1));
    let y = Shared::new(y);
    backend.pool().run(panels.div_ceil(each), &|task| {
        let of_task = task * each..panels.min((task + 1) * each);
        // Results gather here, for rows of them a power of two apart would fall on the same lines, too.
        scratch::with(of_task.len() * n * ROWS, |results| {
            let results = results.as_chunks_mut::<ROWS>().0;
            let mut sums = [[0.0f32; ROWS]; HELD];
            for start in (0..columns).step_by(PART) {
                let part = start..columns.min(start + PART);
                for (panel, results) in of_task.clone().zip(results.chunks_exact_mut(n)) {
                    source.part(panel, part.clone(), &mut |numbers| {
                        for (index, results) in results.chunks_mut(HELD).enumerate() {
                            let sums = &mut sums[..results.len()];
                            let first = index * HELD;
                            let x = x(first..first + sums.len(), part.clone());
                            (backend.operations().panel)(width, numbers, x, sums);
                            if start == 0 {
                                results.copy_from_slice(sums);
                            } else {
                                let pairs = results.as_flattened_mut().iter_mut().zip(sums.as_flattened());
                                pairs.for_each(|(result, sum)| *result += sum);
                            }
                        }
                    });
                }
            }
            for (panel, results) in of_task.zip(results.chunks_exact(n)) {
                let count = ROWS.min(rows - panel * ROWS);
                for (t, results) in results.iter().enumerate() {
                    // SAFETY: each task has its own rows of the weights, hence its own results.
                    let out = unsafe { y.part(t * rows + panel * ROWS, count) };
                    out.copy_from_slice(&results[..count]);
                }
            }
        });
    });
}

/// What an instruction set makes of a part of a panel and some rows of activations.
pub(crate) trait Tile {
    /// Rows of activations that share what is widened, at most: 12 or 6.
    const TOGETHER: usize;

    /// The sums of each row, column after column. Panics unless every row has as many numbers as the part has columns.
    fn tile<const T: usize>(width: Width, panel: &[u8], x: [&[f32]; T]) -> [[f32; ROWS]; T];
}

/// Sums of a part of a panel with rows of activations, as many as `out` has.
#[inline(always)]
pub(crate) fn multiply<K: Tile>(width: Width, panel: &[u8], x: View<f32>, out: &mut Products) {
    assert_eq!(x.rows(), out.len(), "sums of every row");
    let mut first = 0;
    while first < out.len() {
        macro_rules! put {
            ($count:literal) => {{
                let x: [&[f32]; $count] = std::array::from_fn(|t| x.row(first + t));
                out[first..][..$count].copy_from_slice(&K::tile(width, panel, x));
                first += $count;
            }};
        }
        match out.len() - first {
            1 => put!(1),
            2 => put!(2),
            3 => put!(3),
            4 | 5 => put!(4),
            12.. if K::TOGETHER == 12 => put!(12),
            _ => put!(6),
        }
    }
    const { assert!((K::TOGETHER == 6 || K::TOGETHER == 12) && HELD.is_multiple_of(K::TOGETHER)) };
}

/// Columns of a part of a panel. Panics unless every row has as many numbers.
pub(crate) fn columns<const T: usize>(width: Width, panel: &[u8], x: [&[f32]; T]) -> usize {
    let columns = panel.len() / (ROWS * width.bytes());
    assert!(x.iter().all(|x| x.len() == columns), "a number for every column");
    columns
}

/// [`Tile`] in plain Rust.
#[inline(always)]
pub(crate) fn plain<const T: usize>(width: Width, panel: &[u8], x: [&[f32]; T]) -> [[f32; ROWS]; T] {
    let number = |bytes: &[u8]| match *bytes {
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        [a, b] if width == Width::F16 => f16::from_le_bytes([a, b]).to_f32(),
        [a, b] => bf16::from_le_bytes([a, b]).to_f32(),
        _ => unreachable!("a number has two or four bytes"),
    };
    columns(width, panel, x);
    let mut sums = [[0.0f32; ROWS]; T];
    for (x, sums) in x.iter().zip(&mut sums) {
        for (x, column) in x.iter().zip(panel.chunks_exact(ROWS * width.bytes())) {
            for (sum, bytes) in sums.iter_mut().zip(column.chunks_exact(width.bytes())) {
                *sum += x * number(bytes);
            }
        }
    }
    sums
}
