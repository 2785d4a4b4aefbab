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
use crate::Backend;
use crate::backend::{Arithmetic, Matrix};
use crate::region::Region;
use crate::shared::Shared;
pub(crate) use activations::{Activations, round};
use kvant_core::Tensor;

/// Rows of a panel, at most.
pub(crate) const ROWS: usize = 16;
/// Columns of a chunk.
pub(crate) const CHUNK: usize = 32;
/// Chunks that share what a block of 256 columns has but once.
pub(crate) const SHARING: usize = 8;
/// Activation rows that a task multiplies with one panel after the other: they stay in a core's own cache.
const TOKENS: usize = 64;
/// Bytes of codes of a task, about: panels lie together.
const TASK_BYTES: usize = 1 << 16;
/// Rows of activations with which products wait for memory.
const FEW: usize = 2;

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

    /// Where tasks begin and the last ends, in panels. With few rows of activations they are long, for what is asked for past
    /// a task's end is another thread's, and shorter towards the end, so that threads end together: each takes half of an
    /// equal share of what is left.
    fn tasks(&self, activations: usize) -> Vec<usize> {
        let panels = self.rows().div_ceil(self.kernel.rows());
        let least = (TASK_BYTES / self.panel_bytes()[0].max(1)).max(1);
        let mut tasks = vec![0];
        let mut at = 0;
        while at < panels {
            let each = match activations {
                ..=FEW => ((panels - at) / (2 * self.backend.threads())).max(least),
                _ => least,
            };
            at = panels.min(at + each);
            tasks.push(at);
        }
        tasks
    }

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
    fn multiply_activations(&self, x: &Activations, y: &mut [f32]) {
        let n = x.rows();
        let y = Shared::new(y);
        let done = match self.kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Amx(token) => {
                let done = amx::product(token, self, x, &y);
                quads::avx512_together(token.avx512(), self, x, done, &y)
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(token) => quads::avx512_together(token, self, x, 0, &y),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(token) => {
                let done = across::multiply(token, self, x, &y);
                avx2::multiply_together(token, self, x, done, &y)
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnni(token) => quads::avx_vnni_together(token, self, x, 0, &y),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon(token) => quads::neon_together(token, self, x, 0, &y),
            _ => 0,
        };
        if done == n {
            return;
        }
        let tasks = self.tasks(n - done);
        self.backend.pool().run(tasks.len() - 1, &|task| {
            let mut sums = [[0.0f32; ROWS]; TOKENS];
            for first in (done..n).step_by(TOKENS) {
                let sums = &mut sums[..TOKENS.min(n - first)];
                for panel in tasks[task]..tasks[task + 1] {
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
                    for (i, sums) in sums.iter().enumerate() {
                        // SAFETY: each task has its own panels.
                        unsafe { self.put(&y, first + i, panel, sums) };
                    }
                }
            }
        });
    }
}

impl Matrix for Panels {
    fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    fn kernel(&self) -> String {
        format!("{} panels of integers", self.backend.isa().name())
    }

    fn arithmetic(&self) -> Arithmetic {
        Arithmetic::Integer
    }

    fn multiply(&self, x: &[f32], y: &mut [f32]) {
        let (rows, columns) = (self.rows(), self.columns());
        assert!(x.len().is_multiple_of(columns), "activations are rows of {columns}");
        let n = x.len() / columns;
        assert_eq!(y.len(), n * rows, "a result for every row");
        Activations::with(&self.backend, x, columns, |x| self.multiply_activations(x, y));
    }

    fn add_transposed(&self, x: &[f32], y: &mut [f32]) {
        // Gradients are no matter of speed here.
        Stored::new(&self.backend, &self.tensor).add_transposed(x, y);
    }
}
