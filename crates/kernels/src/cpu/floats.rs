//! Panels of numbers: sixteen rows of a matrix side by side, column by column, so that a vector holds one number of all.
//!
//! ```text
//! for each part of 256 columns, for each panel, for up to six rows of activations t at a time:
//!     for each column c of the part: sums[t] += x[t][c] · panel[c]
//!     y[t] += sums[t]
//! ```
//!
//! Six rows of activations and two vectors of eight fill twelve sums; one widened column serves all; a part of a panel
//! stays in the nearest cache while activations pass. Invariant: a product is summed in one order, by its length alone,
//! whatever is multiplied beside it. Left out: where a panel's numbers come from ([`Source`]).

use crate::dense::View;
use crate::shared::Shared;
use crate::{Backend, Matrix};
use half::{bf16, f16};
use std::ops::Range;

/// Rows of a panel.
pub(crate) const ROWS: usize = 16;
/// Columns of a part.
pub(crate) const PART: usize = 256;
/// Rows of activations that share what is widened, at most.
const TOGETHER: usize = 6;
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

/// Products of sixteen rows, one result for each row of activations.
pub(crate) type Products = [[f32; ROWS]];

/// Where panels come from.
pub(crate) trait Source: Matrix {
    /// How the numbers are stored.
    fn width(&self) -> Width;
    /// Hands over some columns of a panel, sixteen numbers each.
    fn part(&self, panel: usize, columns: Range<usize>, take: &mut dyn FnMut(&[u8]));
}

/// `y` (n × rows) = `x` (n × columns) · all panels.
pub(crate) fn product(backend: &Backend, source: &dyn Source, x: &[f32], y: &mut [f32]) {
    let (rows, columns, width) = (source.rows(), source.columns(), source.width());
    assert!(x.len().is_multiple_of(columns), "activations are rows of {columns}");
    let n = x.len() / columns;
    assert_eq!(y.len(), n * rows, "a result for every row");
    let panels = rows.div_ceil(ROWS);
    let each = (TASK_BYTES / (columns * ROWS * width.bytes())).clamp(1, panels.max(1));
    let y = Shared::new(y);
    backend.pool().run(panels.div_ceil(each), &|task| {
        let mut sums = [[0.0f32; ROWS]; HELD];
        for start in (0..columns).step_by(PART) {
            let part = start..columns.min(start + PART);
            for panel in task * each..panels.min((task + 1) * each) {
                let count = ROWS.min(rows - panel * ROWS);
                source.part(panel, part.clone(), &mut |numbers| {
                    for first in (0..n).step_by(HELD) {
                        let sums = &mut sums[..HELD.min(n - first)];
                        let x = View::new(&x[first * columns + start..], sums.len(), part.len(), columns);
                        (backend.operations().panel)(width, numbers, x, sums);
                        for (t, sums) in sums.iter().enumerate() {
                            // SAFETY: each task has its own rows of the weights, hence its own results.
                            let out = unsafe { y.part((first + t) * rows + panel * ROWS, count) };
                            if start == 0 {
                                out.copy_from_slice(&sums[..count]);
                            } else {
                                out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                            }
                        }
                    }
                });
            }
        }
    });
}

/// What an instruction set makes of a part of a panel and up to six rows of activations.
pub(crate) trait Tile {
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
            _ => put!(6),
        }
    }
    const { assert!(TOGETHER == 6 && HELD.is_multiple_of(TOGETHER)) };
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
    let columns = panel.len() / (ROWS * width.bytes());
    let mut sums = [[0.0f32; ROWS]; T];
    for (x, sums) in x.iter().zip(&mut sums) {
        assert_eq!(x.len(), columns, "a number for every column");
        for (x, column) in x.iter().zip(panel.chunks_exact(ROWS * width.bytes())) {
            for (sum, bytes) in sums.iter_mut().zip(column.chunks_exact(width.bytes())) {
                *sum += x * number(bytes);
            }
        }
    }
    sums
}
