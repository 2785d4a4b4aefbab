//! Outliers of rows of activations: a few values that are not rounded. Each outlier is multiplied with the column of
//! the matrix that has the same index. `layout.rs` defines panels, chunks, superblocks and quads.

use super::layout::*;
use super::matrix::CodeMatrix;
use crate::scratch::Buffer;
use std::ops::Range;

/// Minimum number of rows of activations for which all columns count as columns with outliers. With this number of
/// rows, most columns have an outlier.
const ALL_COLUMNS_ROWS: usize = 128;

/// Maximum number of rows of activations for which each row decodes the columns of its own outliers. With more rows, most
/// of the decoded columns have several outliers.
pub(crate) const FEW_ROWS: usize = 32;

/// An activation that is not rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct Outlier {
    /// Before [`Outliers::new`]: the column of the value. After [`Outliers::new`]: the index of this column in
    /// [`Outliers::columns`].
    pub index: u32,
    pub value: f32,
}

// SAFETY: an outlier is a `u32` and an `f32`, and zero bytes are valid for both types.
unsafe impl bytemuck::Zeroable for Outlier {}
// SAFETY: the fields have four bytes each, so there is no padding. The type is `Copy`, and all bit patterns are valid.
unsafe impl bytemuck::Pod for Outlier {}

/// The outliers of rows of activations.
/// Invariant: the indices of a row ascend, and each index is below the length of `columns`.
pub(crate) struct Outliers {
    entries: Buffer,
    /// Number of outliers of each row.
    counts: Vec<u32>,
    /// Number of entries that are reserved for each row.
    row_capacity: usize,
    /// The columns in which at least one row has an outlier, in ascending order. If there are at least
    /// [`ALL_COLUMNS_ROWS`] rows, or 2 to [`FEW_ROWS`], the list contains all columns.
    pub columns: Vec<u32>,
}

impl Outliers {
    /// Creates the outliers from `entries`. The entries of a row begin at index `row · row_capacity`; the first
    /// `counts[row]` entries are outliers. A row of activations has `columns` values.
    pub fn new(mut entries: Buffer, counts: Vec<u32>, row_capacity: usize, columns: usize) -> Self {
        let columns = if let [count] = counts[..] {
            let all: &mut [Outlier] = bytemuck::cast_slice_mut(&mut entries);
            let indices = all[..count as usize].iter_mut().zip(0..);
            indices.map(|(outlier, index)| std::mem::replace(&mut outlier.index, index)).collect()
        } else if counts.len() <= FEW_ROWS || counts.len() >= ALL_COLUMNS_ROWS {
            (0..columns as u32).collect()
        } else {
            let all: &mut [Outlier] = bytemuck::cast_slice_mut(&mut entries);
            let mut indices = vec![u32::MAX; columns];
            for (row, count) in all.chunks_exact(row_capacity).zip(&counts) {
                row[..*count as usize].iter().for_each(|outlier| indices[outlier.index as usize] = 0);
            }
            let found: Vec<u32> = (0..columns as u32).filter(|&c| indices[c as usize] == 0).collect();
            for (index, &column) in found.iter().enumerate() {
                indices[column as usize] = index as u32;
            }
            for (row, count) in all.chunks_exact_mut(row_capacity).zip(&counts) {
                row[..*count as usize]
                    .iter_mut()
                    .for_each(|outlier| outlier.index = indices[outlier.index as usize]);
            }
            found
        };
        Self { entries, counts, row_capacity, columns }
    }

    /// Returns true if no row has an outlier.
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// Returns true if each row decodes the columns of its own outliers. Then `columns` contains all columns.
    pub fn is_few_rows(&self) -> bool {
        (2..=FEW_ROWS).contains(&self.counts.len())
    }

    /// Returns the outliers of row `row`.
    #[inline(always)]
    pub fn of(&self, row: usize) -> &[Outlier] {
        let entries: &[Outlier] = bytemuck::cast_slice(&self.entries);
        &entries[row * self.row_capacity..][..self.counts[row] as usize]
    }

    /// Returns the columns that have outliers; see the field `columns`.
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }
}

/// The position of a column's weights in a panel. Offsets are in bytes. A shift is the number of bits by which 32-bit
/// lanes are shifted to the right, so that the bits of the column begin at bit 0.
#[derive(Clone, Copy)]
pub(crate) struct ColumnPosition {
    /// Offset of the vector that holds the codes (or their lower four bits), from the start of the panel's codes.
    pub codes: u32,
    /// Shift of the vector at `codes`.
    pub shift: u32,
    /// Offset of the vector that holds the upper bits of 5-bit and 6-bit codes, from the start of the panel's codes; 0
    /// for other codes.
    pub upper: u32,
    /// Shift of the vector at `upper`.
    pub upper_shift: u32,
    /// Offset from the start of the panel's chunk scales.
    pub scales: u32,
    /// Offset from the start of the panel's superblock scales.
    pub shared: u32,
}

impl ColumnPosition {
    /// Returns the position of column `column` in panels of `rows` rows.
    ///
    /// # Panics
    /// If an offset in the panel is 4 GiB or more.
    #[inline(always)]
    pub fn new<const CODES: u8, const SCALES: u8>(column: usize, rows: usize) -> Self {
        let (chunk, within) = (column / CHUNK, column % CHUNK);
        // In a vector, each row has four bytes: one byte for each column of a quad.
        let (quad, byte) = (within / 4, 8 * (within as u32 % 4));
        let half = quad / 4;
        let vector = |index: usize| (chunk * CHUNK * code_bits(CODES) / 8 + index * 4) * rows;
        let (codes, shift, upper, upper_shift) = match CODES {
            BYTES => (vector(quad), byte, 0, 0),
            FIVE => (vector(quad % 4), byte + 4 * half as u32, vector(4), byte + quad as u32),
            SIX => (vector(quad % 4), byte + 4 * half as u32, vector(4 + half), byte + 2 * (quad as u32 % 4)),
            _ => (vector(quad % 4), byte + 4 * half as u32, 0, 0),
        };
        let layout = scale_layout(SCALES);
        let half_offset = if SCALES == HALF_GROUPS { half * rows } else { 0 };
        let offset = |bytes: usize| u32::try_from(bytes).expect("a panel of at most 4 GiB");
        Self {
            codes: offset(codes),
            shift,
            upper: offset(upper),
            upper_shift,
            scales: offset(chunk * rows * layout.bytes() + half_offset),
            shared: offset(chunk / SUPERBLOCK_CHUNKS * rows * layout.shared_bytes()),
        }
    }
}

/// The value of an outlier, and the position of the weights of its column in a panel.
#[derive(Clone, Copy)]
pub(crate) struct PlacedOutlier {
    pub position: ColumnPosition,
    pub value: f32,
}

/// The outliers of some rows of activations, prepared for the panels of one matrix.
pub(crate) struct OutliersOfRows<'a> {
    /// The outliers of all rows.
    pub all: &'a Outliers,
    /// The rows of activations.
    pub rows: Range<usize>,
    /// If `rows` is a single row: its outliers with their positions, which are the same in all panels. Otherwise empty.
    pub single_row: Vec<PlacedOutlier>,
}

impl<'a> OutliersOfRows<'a> {
    pub fn new(matrix: &CodeMatrix, all: &'a Outliers, rows: Range<usize>) -> Self {
        let panel_rows = matrix.panel_rows;
        let single = if rows.len() == 1 { all.of(rows.start) } else { &[] };
        macro_rules! run {
            ($codes:ident, $scales:ident) => {
                (single.iter())
                    .map(|outlier| PlacedOutlier {
                        position: ColumnPosition::new::<$codes, $scales>(
                            all.columns[outlier.index as usize] as usize,
                            panel_rows,
                        ),
                        value: outlier.value,
                    })
                    .collect()
            };
        }
        let single_row = for_each_layout!(matrix, run);
        Self { all, rows, single_row }
    }
}
