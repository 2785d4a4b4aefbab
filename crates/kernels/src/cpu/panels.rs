//! Matrices of integer codes, repacked at load so that one vector multiplies eight or sixteen rows, and activations in
//! eight bits.
//!
//! So many rows make a panel, 32 columns a chunk of it. A chunk's codes are quads, four columns of all rows side by side, so
//! that four activations stand in every lane against them; a vector is as long as a quad of bytes:
//!
//! ```text
//! quad q:   row 0: columns 4q..4q+4 | row 1: the same | … | the last row
//! nibbles:  four vectors; vector v has quad v in its low halves and quad v + 4 in its high ones
//! high bits of 5:  one vector, bit q of each byte for quad q
//! high bits of 6:  two vectors, of quads 0–3 and 4–7, two bits each
//! bytes:    eight vectors of signed levels
//! ```
//!
//! Beside the codes lie each chunk's scales, and what eight chunks share ([`Scheme`]). An activation row has one scale
//! every 32 numbers ([`Activations`]), so that only integers are multiplied inside a chunk; its sum joins the row's in
//! `f32`, chunk after chunk.
//! Invariant: a result depends on its row and its activations alone: not on threads, nor on what is multiplied beside
//! it, nor on the instruction set, for every path adds the same numbers in the same order with one rounding each.
//! Left out: formats without codes, which are multiplied as numbers (`numbers.rs`).

#[cfg(target_arch = "x86_64")]
mod across;
mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod chunk;
mod kinds;
#[cfg(target_arch = "aarch64")]
mod neon;
mod outliers;
mod pack;
mod plain;
#[cfg(test)]
mod portable;
mod quads;
mod rows;
mod together;
mod vector;
#[cfg(target_arch = "x86_64")]
mod vnni;

use super::{Kernel, Stored};
use crate::backend::{Arithmetic, Matrix};
use crate::region::Region;
use crate::scratch::Buffer;
use crate::shared::Shared;
use crate::{Backend, Input, Precision};
use activations::Activations;
pub(crate) use activations::{Rounded, RowCodes, round, round_rest, round_twice};
use kvant_core::Tensor;
pub(crate) use outliers::Outlier;
use outliers::{Outliers, OutliersOfRows};
use std::ops::Range;

/// Rows of a panel, at most.
pub(crate) const ROWS: usize = 16;
/// Columns of a chunk.
pub(crate) const CHUNK: usize = 32;
/// Chunks that share what a block of 256 columns has but once.
pub(crate) const SHARING: usize = 8;
/// Activation rows that a task multiplies with one panel after the other: they stay in a core's own cache.
const TOKENS: usize = 64;
/// Bytes of codes that a task multiplies, at least.
const TASK_BYTES: usize = 1 << 16;
/// Rows of activations with which products wait for memory.
pub(crate) const FEW: usize = 2;
/// Rows of activations whose outliers are multiplied beside their codes, panel by panel.
const NEAR: usize = 16;

/// What stands beside a chunk's codes, for each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// d as half a float: value = d · level.
    Block,
    /// The same as the upper half of a float: powers of two that no half reaches.
    Power,
    /// d and m as halves: value = d · code + m.
    Affine,
    /// An integer scale s and minimum m; d and e, halves, once for eight chunks: value = d · s · code − e · m.
    GroupsAffine,
    /// An integer scale s; d once for eight chunks: value = d · s · level.
    Groups,
    /// The same with a scale for either half of the chunk.
    HalfGroups,
}

impl Scheme {
    /// Bytes a row and chunk.
    const fn bytes(self) -> usize {
        match self {
            Self::Groups => 1,
            Self::Block | Self::Power | Self::GroupsAffine | Self::HalfGroups => 2,
            Self::Affine => 4,
        }
    }

    /// Bytes a row that eight chunks share.
    const fn shared_bytes(self) -> usize {
        match self {
            Self::Block | Self::Power | Self::Affine => 0,
            Self::Groups | Self::HalfGroups => 2,
            Self::GroupsAffine => 4,
        }
    }
}

/// How codes are stored and what they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Four bits: code − offset.
    Four(i16),
    /// Five bits: code − offset.
    Five(i16),
    /// Six bits: code − offset.
    Six(i16),
    /// Four bits: a table of signed levels.
    Table([i8; 16]),
    /// Signed levels themselves.
    Bytes,
}

impl Coding {
    /// Bytes of a row's codes of a chunk.
    fn bytes(self) -> usize {
        let bits = match self {
            Self::Four(_) | Self::Table(_) => 4,
            Self::Five(_) => 5,
            Self::Six(_) => 6,
            Self::Bytes => 8,
        };
        CHUNK * bits / 8
    }

    /// What is subtracted from every code.
    fn offset(self) -> i16 {
        match self {
            Self::Four(offset) | Self::Five(offset) | Self::Six(offset) => offset,
            Self::Table(_) | Self::Bytes => 0,
        }
    }
}

/// The bytes of one panel.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    codes: &'a [u8],
    scales: &'a [u8],
    shared: &'a [u8],
}

/// Sums of a panel's rows for each of some activation rows.
pub(crate) type Sums = [[f32; ROWS]];

/// A repacked matrix.
pub(crate) struct Panels {
    /// The source: rows are read from it one by one, for an embedding.
    tensor: Tensor,
    backend: Backend,
    kernel: Kernel,
    precision: Precision,
    coding: Coding,
    scheme: Scheme,
    codes: Region,
    scales: Region,
    shared: Region,
}

impl Panels {
    fn chunks(&self) -> usize {
        self.columns() / CHUNK
    }

    /// Bytes of a panel's codes, scales and shared parts.
    fn panel_bytes(&self) -> [usize; 3] {
        let (rows, chunks) = (self.kernel.rows(), self.chunks());
        [
            rows * chunks * self.coding.bytes(),
            rows * chunks * self.scheme.bytes(),
            rows * (chunks / SHARING) * self.scheme.shared_bytes(),
        ]
    }

    /// Where tasks begin and the last ends, in panels.
    fn tasks(&self) -> Vec<usize> {
        let panels = self.rows().div_ceil(self.kernel.rows());
        let each = (TASK_BYTES / self.panel_bytes()[0].max(1)).max(1);
        (0..panels).step_by(each).chain([panels]).collect()
    }

    #[inline(always)]
    fn panel(&self, index: usize) -> Panel<'_> {
        let [codes, scales, shared] = self.panel_bytes().map(|bytes| index * bytes..(index + 1) * bytes);
        Panel {
            codes: &self.codes.bytes()[codes],
            scales: &self.scales.bytes()[scales],
            shared: &self.shared.bytes()[shared],
        }
    }

    /// Writes a panel's sums with row `row` of the activations.
    ///
    /// # Safety
    /// Nobody else writes this panel's results meanwhile.
    unsafe fn put(&self, y: &Shared<f32>, row: usize, panel: usize, sums: &[f32; ROWS]) {
        let start = panel * self.kernel.rows();
        let count = self.kernel.rows().min(self.rows() - start);
        // SAFETY: the caller's.
        let out = unsafe { y.part(row * self.rows() + start, count) };
        out.copy_from_slice(&sums[..count]);
    }

    /// `y` = x · the matrix.
    fn multiply_rounded(&self, x: &Rounded, y: &mut [f32]) {
        let rows = self.rows();
        let codes = x.activations();
        if codes.rows() == x.rows {
            self.multiply_codes(&codes, x.outliers.as_ref(), y);
            return;
        }
        // Two rows of codes for each row.
        let mut both = Buffer::take(codes.rows() * rows);
        self.multiply_codes(&codes, None, &mut both);
        let (both, y) = (&*both, Shared::new(y));
        let add = |row: usize| {
            // SAFETY: each task has its own row.
            add_pairs(&both[2 * row * rows..][..2 * rows], unsafe { y.part(row * rows, rows) }, rows);
        };
        self.backend.pool().run(x.rows, &add);
    }

    /// `y` = codes · the matrix, with what outliers add.
    fn multiply_codes(&self, x: &Activations, outliers: Option<&Outliers>, y: &mut [f32]) {
        let n = x.rows();
        let y = &Shared::new(y);
        // Few rows wait for memory: their outliers meet the codes while these are near. Many find them again.
        let (near, afterwards) = if n <= NEAR { (outliers, None) } else { (None, outliers) };
        let done = match self.kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Amx(token) => {
                let done = amx::product(token, self, x, (y, near));
                quads::avx512_together(token.avx512(), self, x, done, (y, near))
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(token) => quads::avx512_together(token, self, x, 0, (y, near)),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(token) => {
                let done = across::multiply(token, self, x, (y, near));
                avx2::multiply_together(token, self, x, done, (y, near))
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnni(token) => quads::avx_vnni_together(token, self, x, 0, (y, near)),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon(token) => quads::neon_together(token, self, x, 0, (y, near)),
            _ => 0,
        };
        self.multiply_rest(x, done, near, y);
        if let Some(outliers) = afterwards {
            let panels = self.rows().div_ceil(self.kernel.rows());
            let side = (2 * outliers::SIDE / self.kernel.rows()).max(1);
            let outliers = OutliersOfRows::new(self, outliers, 0..n);
            self.backend.pool().run(panels.div_ceil(side), &|task| {
                self.add_outliers(task * side..panels.min((task + 1) * side), &outliers, y);
            });
        }
    }

    /// The same for rows from `done` on, one or a few at a time.
    fn multiply_rest(&self, x: &Activations, done: usize, outliers: Option<&Outliers>, y: &Shared<f32>) {
        if done < x.rows() {
            let tasks = self.tasks();
            self.backend.pool().run(tasks.len() - 1, &|task| {
                self.multiply_panels(tasks[task]..tasks[task + 1], x, done, (y, outliers));
            });
        }
    }

    /// The same for some panels.
    fn multiply_panels(
        &self,
        panels: Range<usize>,
        x: &Activations,
        from: usize,
        (y, outliers): (&Shared<f32>, Option<&Outliers>),
    ) {
        let side = (outliers::SIDE / self.kernel.rows()).max(1);
        let mut sums = [[0.0f32; ROWS]; TOKENS];
        for first in (from..x.rows()).step_by(TOKENS) {
            let sums = &mut sums[..TOKENS.min(x.rows() - first)];
            let outliers = outliers.map(|all| OutliersOfRows::new(self, all, first..first + sums.len()));
            for some in panels.clone().step_by(side) {
                let some = some..panels.end.min(some + side);
                for panel in some.clone() {
                    self.multiply_panel(panel, x, first, sums);
                    for (i, sums) in sums.iter().enumerate() {
                        // SAFETY: each task has its own panels.
                        unsafe { self.put(y, first + i, panel, sums) };
                    }
                }
                if let Some(outliers) = &outliers {
                    self.add_outliers(some, outliers, y);
                }
            }
        }
    }

    /// The sums of one panel with as many rows, from `first` on, as there are sums.
    fn multiply_panel(&self, panel: usize, x: &Activations, first: usize, sums: &mut Sums) {
        match self.kernel {
            Kernel::Plain(_) => plain::multiply(self, panel, x, first, sums),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(token) => avx2::multiply(token, self, panel, x, first, sums),
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnni(token) => quads::avx_vnni(token, self, panel, x, first, sums),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(token) => quads::avx512(token, self, panel, x, first, sums),
            #[cfg(target_arch = "x86_64")]
            Kernel::Amx(token) => quads::avx512(token.avx512(), self, panel, x, first, sums),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon(token) => quads::neon(token, self, panel, x, first, sums),
        }
    }

    /// Adds to results with some panels what outliers come to.
    fn add_outliers(&self, panels: Range<usize>, x: &OutliersOfRows, y: &Shared<f32>) {
        match self.kernel {
            Kernel::Plain(_) => plain::add_outliers(self, panels, x, y),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(token) => avx2::add_outliers(token, self, panels, x, y),
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnni(token) => quads::avx_vnni_outliers(token, self, panels, x, y),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(token) => quads::avx512_outliers(token, self, panels, x, y),
            #[cfg(target_arch = "x86_64")]
            Kernel::Amx(token) => quads::avx512_outliers(token.avx512(), self, panels, x, y),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon(token) => quads::neon_outliers(token, self, panels, x, y),
        }
    }
}

/// Products of one input with several matrices, where there are few rows: in one run of the pool, whose threads wait for each
/// other once for all of them. Tasks are long, for what is asked for past a task's end is another thread's, and shorter
/// towards the end, so that threads end together: each takes half of an equal share of what is left.
pub(crate) fn multiply_few(matrices: &[&Panels], x: &Input, results: &mut [&mut [f32]]) {
    let backend = &matrices[0].backend;
    let rounded: Vec<&Rounded> = matrices.iter().map(|m| x.rounded(backend, m.precision)).collect();
    // Two rows of codes for each row become one of results.
    let mut both: Vec<Option<Buffer>> = (matrices.iter().zip(&rounded))
        .map(|(m, x)| {
            let codes = x.activations().rows();
            (codes > x.rows).then(|| Buffer::take(codes * m.rows()))
        })
        .collect();
    let shared: Vec<Shared<f32>> = (results.iter_mut().zip(&mut both))
        .map(|(result, both)| Shared::new(both.as_deref_mut().unwrap_or(result)))
        .collect();
    let bytes_of = |m: &Panels| m.panel_bytes()[0].max(1);
    let panels_of = |m: &Panels| m.rows().div_ceil(m.kernel.rows());
    let mut left: usize = matrices.iter().map(|m| bytes_of(m) * panels_of(m)).sum();
    let mut tasks: Vec<(usize, Range<usize>)> = Vec::new();
    for (index, matrix) in matrices.iter().enumerate() {
        let mut at = 0;
        while at < panels_of(matrix) {
            let bytes = (left / (2 * backend.threads())).max(TASK_BYTES);
            let end = panels_of(matrix).min(at + (bytes / bytes_of(matrix)).max(1));
            tasks.push((index, at..end));
            left -= (end - at) * bytes_of(matrix);
            at = end;
        }
    }
    backend.pool().run(tasks.len(), &|task| {
        let (index, panels) = &tasks[task];
        let (matrix, x) = (matrices[*index], rounded[*index]);
        matrix.multiply_panels(panels.clone(), &x.activations(), 0, (&shared[*index], x.outliers.as_ref()));
    });
    for ((result, both), matrix) in results.iter_mut().zip(&both).zip(matrices) {
        if let Some(both) = both {
            add_pairs(both, result, matrix.rows());
        }
    }
}

/// Rows of `count` numbers: the sums of two rows each.
fn add_pairs(both: &[f32], out: &mut [f32], count: usize) {
    for (out, both) in out.chunks_exact_mut(count).zip(both.chunks_exact(2 * count)) {
        let (first, second) = both.split_at(count);
        out.iter_mut().zip(first.iter().zip(second)).for_each(|(out, (first, second))| *out = first + second);
    }
}

impl Matrix for Panels {
    fn panels(&self) -> Option<&Panels> {
        Some(self)
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
        let (rows, columns) = (self.rows(), self.columns());
        assert!(x.numbers().len() == x.rows() * columns, "activations are rows of {columns}");
        assert_eq!(y.len(), x.rows() * rows, "a result for every row");
        if x.rows() <= FEW {
            multiply_few(&[self], x, &mut [y]);
        } else {
            self.multiply_rounded(x.rounded(&self.backend, self.precision), y);
        }
    }

    fn add_transposed(&self, x: &[f32], y: &mut [f32]) {
        // Gradients are no matter of speed here.
        Stored::new(&self.backend, &self.tensor).add_transposed(x, y);
    }
}
