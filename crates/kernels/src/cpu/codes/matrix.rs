//! A matrix of integer codes that is packed into panels.

use super::layout::{CHUNK, CodeLayout, LayoutPair, ROWS, SUPERBLOCK_CHUNKS, ScaleLayout};
use crate::huge_pages::HugePages;
use crate::shared::Shared;

/// Minimum bytes of codes that a task multiplies.
pub(crate) const TASK_BYTES: usize = 1 << 16;

/// The bytes of one panel: the codes, the scales of its chunks and the scales of its superblocks.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub codes: &'a [u8],
    pub scales: &'a [u8],
    pub shared: &'a [u8],
}

/// Sums of the rows of a panel, one entry per row of activations.
pub(crate) type Sums = [[f32; ROWS]];

/// `rows × columns` codes and their scales.
pub(crate) struct CodeMatrix {
    pub rows: usize,
    pub columns: usize,
    /// Rows per panel: 8 or 16.
    pub panel_rows: usize,
    pub code_layout: CodeLayout,
    pub scale_layout: ScaleLayout,
    /// The pair of both layouts.
    pub layouts: LayoutPair,
    pub(super) codes: HugePages,
    pub(super) scales: HugePages,
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

    /// Returns the bytes of a panel's codes, scales and superblock scales.
    pub fn panel_bytes(&self) -> [usize; 3] {
        let (rows, chunks) = (self.panel_rows, self.chunks());
        [
            rows * chunks * self.code_layout.bytes(),
            rows * chunks * self.scale_layout.bytes(),
            rows * (chunks / SUPERBLOCK_CHUNKS) * self.scale_layout.shared_bytes(),
        ]
    }

    /// Returns the number of panels per task.
    pub fn panels_of_task(&self) -> usize {
        (TASK_BYTES / self.panel_bytes()[0].max(1)).max(1)
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

    /// Writes the sums of a panel with row `row` of the activations to the results.
    ///
    /// # Safety
    /// No other thread accesses these results during the call.
    pub unsafe fn write_sums(&self, y: &Shared<f32>, row: usize, panel: usize, sums: &[f32; ROWS]) {
        let start = panel * self.panel_rows;
        let count = self.panel_rows.min(self.rows - start);
        // SAFETY: the caller guarantees exclusive access.
        let out = unsafe { y.part(row * self.rows + start, count) };
        out.copy_from_slice(&sums[..count]);
    }
}
