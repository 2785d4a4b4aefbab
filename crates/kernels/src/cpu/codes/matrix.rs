//! A matrix of integer codes that is packed into panels. `layout.rs` defines panels, chunks and superblocks.

use super::layout::{CHUNK, CodeLayout, LayoutPair, ROWS, SUPERBLOCK_CHUNKS, ScaleLayout};
use crate::huge_pages::HugePages;
use crate::shared::Shared;

/// Approximate minimum number of bytes of codes that a task multiplies. A task multiplies at least one panel.
pub(crate) const TASK_BYTES: usize = 1 << 16;
/// Number of rows of the matrix that are decoded at the same time for the outliers of several rows of activations. Their
/// sums are enough independent chains to keep the multiply-add units busy.
pub(crate) const DECODED_ROWS: usize = 64;
/// Minimum number of tasks per thread for which a task may be longer than [`TASK_BYTES`].
const TASKS_PER_THREAD: usize = 4;

/// The bytes of one panel.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub codes: &'a [u8],
    /// The scales of each chunk.
    pub scales: &'a [u8],
    /// The scales of each superblock; empty if the layout has none.
    pub shared: &'a [u8],
}

/// Sums of products, one entry per row of activations. An entry has one sum per row of a panel. If a panel has eight
/// rows, only the first eight sums of an entry are used.
pub(crate) type Sums = [[f32; ROWS]];

/// A matrix of `rows × columns` codes and their scales.
pub(crate) struct CodeMatrix {
    pub rows: usize,
    pub columns: usize,
    /// Number of rows per panel: 8 or 16.
    pub panel_rows: usize,
    pub code_layout: CodeLayout,
    pub scale_layout: ScaleLayout,
    /// The pair of `code_layout` and `scale_layout`.
    pub layouts: LayoutPair,
    /// The codes of all panels, panel after panel.
    pub(super) codes: HugePages,
    /// The scales of the chunks of all panels, panel after panel.
    pub(super) scales: HugePages,
    /// The scales of the superblocks of all panels, panel after panel.
    pub(super) shared: HugePages,
}

impl CodeMatrix {
    /// Returns the number of chunks per row.
    pub fn chunks(&self) -> usize {
        self.columns / CHUNK
    }

    /// Returns the number of panels.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(self.panel_rows)
    }

    /// Returns the number of bytes of a panel's codes, of its chunk scales and of its superblock scales.
    pub fn panel_bytes(&self) -> [usize; 3] {
        let (rows, chunks) = (self.panel_rows, self.chunks());
        [
            rows * chunks * self.code_layout.bytes(),
            rows * chunks * self.scale_layout.bytes(),
            rows * (chunks / SUPERBLOCK_CHUNKS) * self.scale_layout.shared_bytes(),
        ]
    }

    /// Returns the number of panels per task, if `threads` threads share the panels. A task has about [`TASK_BYTES`], or
    /// [`DECODED_ROWS`] if every thread still gets several tasks.
    pub fn panels_of_task(&self, threads: usize) -> usize {
        let by_bytes = TASK_BYTES / self.panel_bytes()[0].max(1);
        let decoded = (DECODED_ROWS / self.panel_rows).min(self.panels() / (TASKS_PER_THREAD * threads));
        by_bytes.max(decoded).max(1)
    }

    #[inline(always)]
    pub fn panel(&self, index: usize) -> Panel<'_> {
        let [codes, scales, shared] = self.panel_bytes().map(|bytes| index * bytes..(index + 1) * bytes);
        Panel {
            codes: &self.codes.bytes()[codes],
            scales: &self.scales.bytes()[scales],
            shared: &self.shared.bytes()[shared],
        }
    }

    /// Writes the sums of panel `panel` and row `row` of the activations to the results `y`. Shape of `y`: rows of
    /// activations × rows of the matrix.
    ///
    /// # Safety
    /// No other thread accesses these results during the call.
    pub unsafe fn write_sums(&self, y: &Shared<f32>, row: usize, panel: usize, sums: &[f32; ROWS]) {
        let start = panel * self.panel_rows;
        let count = self.panel_rows.min(self.rows - start);
        // SAFETY: the caller guarantees that no other thread accesses these results.
        let out = unsafe { y.part(row * self.rows + start, count) };
        out.copy_from_slice(&sums[..count]);
    }
}
