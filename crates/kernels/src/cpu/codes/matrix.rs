//! A matrix of integer codes that is packed into panels. `layout.rs` defines panels, chunks and superblocks.

use super::layout::{CHUNK, CodeLayout, LayoutPair, ROWS, SUPERBLOCK_CHUNKS, ScaleLayout};
use crate::huge_pages::HugePages;
use crate::shared::Shared;

/// Approximate minimum number of bytes of codes that a task multiplies. A task multiplies at least one panel.
pub(crate) const TASK_BYTES: usize = 1 << 16;
/// Number of rows of the matrix that are decoded at the same time for the outliers of several rows of activations. Their
/// sums are enough independent chains to keep the multiply-add units busy.
pub(crate) const DECODED_ROWS: usize = 64;
/// Maximum number of bytes of codes of a task that multiplies outliers. The codes stay in the second-level cache until the
/// outliers are multiplied.
const OUTLIER_TASK_BYTES: usize = 1 << 18;
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

    /// Returns the number of panels per task, if `threads` threads share the panels. A task has about [`TASK_BYTES`]. With
    /// outliers it has [`DECODED_ROWS`], if that is at most [`OUTLIER_TASK_BYTES`] and every thread still gets several
    /// tasks.
    pub fn panels_of_task(&self, threads: usize, outliers: bool) -> usize {
        let panel_bytes = self.panel_bytes()[0].max(1);
        let joint = (DECODED_ROWS / self.panel_rows)
            .min(OUTLIER_TASK_BYTES / panel_bytes)
            .min(self.panels() / (TASKS_PER_THREAD * threads));
        (TASK_BYTES / panel_bytes).max(if outliers { joint } else { 1 }).max(1)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Isa};
    use kvant_core::{Bytes, Shape, Tensor, format};

    #[test]
    fn tasks_are_long_enough_for_outliers_and_short_enough_for_all_threads() {
        let q4_0 = format::FORMATS.iter().find(|format| format.name() == "q4_0").unwrap();
        let backend = Backend::new(Isa::Scalar, 1);
        for (rows, columns, threads, outliers, expected) in [
            // A panel has 16 KiB of codes.
            (2048, 2048, 2, true, 4),
            (2048, 2048, 2, false, 4),
            // 64 KiB
            (2048, 8192, 2, true, 4),
            (2048, 8192, 2, false, 1),
            // 128 panels are too few for 32 tasks of four panels.
            (2048, 8192, 16, true, 2),
            (16, 8192, 16, true, 1),
            // 128 KiB
            (2048, 16384, 2, true, 2),
        ] {
            let shape = Shape::new(&[rows, columns]).unwrap();
            let bytes = Bytes::from(vec![0; q4_0.tensor_bytes(&shape).unwrap()]);
            let tensor = Tensor::new(shape, *q4_0, bytes).unwrap();
            let matrix = CodeMatrix::new(backend.pool(), 16, &tensor).unwrap();
            let found = matrix.panels_of_task(threads, outliers);
            assert_eq!(found, expected, "{rows} x {columns}, {threads} threads, {outliers}");
        }
    }
}
