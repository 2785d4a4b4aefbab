//! A matrix of integer codes, packed into panels.

use super::layout::{CHUNK, CodeLayout, LayoutPair, ROWS, SHARING, ScaleLayout};
use crate::huge_pages::HugePages;
use crate::shared::Shared;

/// Bytes of codes that a task multiplies, at least.
pub(crate) const TASK_BYTES: usize = 1 << 16;

/// The bytes of one panel.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub codes: &'a [u8],
    pub scales: &'a [u8],
    pub shared: &'a [u8],
}

/// Sums of a panel's rows, for each of some rows of activations.
pub(crate) type Sums = [[f32; ROWS]];

/// `rows × columns` codes with their scales.
pub(crate) struct CodeMatrix {
    pub rows: usize,
    pub columns: usize,
    /// Rows of a panel: 8 or 16.
    pub panel_rows: usize,
    pub code_layout: CodeLayout,
    pub scale_layout: ScaleLayout,
    /// Both of them.
    pub layouts: LayoutPair,
    pub(super) codes: HugePages,
    pub(super) scales: HugePages,
    pub(super) shared: HugePages,
}

impl CodeMatrix {
    /// Chunks of a row.
    pub fn chunks(&self) -> usize {
        self.columns / CHUNK
    }

    /// How many panels there are.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(self.panel_rows)
    }

    /// Bytes of a panel's codes, scales and shared scales.
    pub fn panel_bytes(&self) -> [usize; 3] {
        let (rows, chunks) = (self.panel_rows, self.chunks());
        [
            rows * chunks * self.code_layout.bytes(),
            rows * chunks * self.scale_layout.bytes(),
            rows * (chunks / SHARING) * self.scale_layout.shared_bytes(),
        ]
    }

    /// Panels of a task.
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

    /// Writes a panel's sums with row `row` of the activations.
    ///
    /// # Safety
    /// Nobody else writes this panel's results meanwhile.
    pub unsafe fn put(&self, y: &Shared<f32>, row: usize, panel: usize, sums: &[f32; ROWS]) {
        let start = panel * self.panel_rows;
        let count = self.panel_rows.min(self.rows - start);
        // SAFETY: the caller's promise.
        let out = unsafe { y.part(row * self.rows + start, count) };
        out.copy_from_slice(&sums[..count]);
    }
}
