//! Outliers of rows of activations: a few values that are not rounded. Each is multiplied with its column of the
//! matrix.

use super::layout::*;
use super::matrix::CodeMatrix;
use crate::scratch::Buffer;
use std::ops::Range;

/// From this number of rows on, all columns count as columns with outliers, because most of them have one.
const ALL_COLUMNS_ROWS: usize = 128;

/// A value that is not rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct Outlier {
    /// First the column of the value; after [`Outliers::new`] the index of this column in [`Outliers::columns`].
    pub index: u32,
    pub value: f32,
}

// SAFETY: a `u32` and an `f32`, four bytes each, without padding.
unsafe impl bytemuck::Zeroable for Outlier {}
// SAFETY: as above; the type is `Copy`, and all bit patterns are valid.
unsafe impl bytemuck::Pod for Outlier {}

/// The outliers of rows of activations.
/// Invariant: the indices of a row ascend, and each is an index into `columns`.
pub(crate) struct Outliers {
    entries: Buffer,
    /// Number of outliers of each row.
    counts: Vec<u32>,
    /// Number of entries that are reserved for each row.
    row_capacity: usize,
    /// Columns in which at least one row has an outlier, ascending; all columns if there are many rows.
    pub columns: Vec<u32>,
}

impl Outliers {
    /// Takes `counts[row]` entries for each row. The entries of consecutive rows begin `row_capacity` apart. A row of
    /// activations has `columns` values.
    pub fn new(mut entries: Buffer, counts: Vec<u32>, row_capacity: usize, columns: usize) -> Self {
        let columns = if let [count] = counts[..] {
            let all: &mut [Outlier] = bytemuck::cast_slice_mut(&mut entries);
            let indices = all[..count as usize].iter_mut().zip(0..);
            indices.map(|(outlier, index)| std::mem::replace(&mut outlier.index, index)).collect()
        } else if counts.len() >= ALL_COLUMNS_ROWS {
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

    /// Returns the outliers of row `row`.
    #[inline(always)]
    pub fn of(&self, row: usize) -> &[Outlier] {
        let entries: &[Outlier] = bytemuck::cast_slice(&self.entries);
        &entries[row * self.row_capacity..][..self.counts[row] as usize]
    }

    /// Returns the columns that have outliers.
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }
}

/// The position of a column's weights in a panel: byte offsets from the start of the panel's codes, scales and
/// superblock scales, and the right shifts that move the column's bits to bit 0.
#[derive(Clone, Copy)]
pub(crate) struct ColumnPosition {
    pub codes: u32,
    pub shift: u32,
    /// The upper bits of the codes, if they are stored separately.
    pub upper: u32,
    pub upper_shift: u32,
    pub scales: u32,
    pub shared: u32,
}

impl ColumnPosition {
    /// Returns the position of column `column` in panels of `rows` rows.
    ///
    /// # Panics
    /// If a panel has more than 4 GiB.
    #[inline(always)]
    pub fn new<const CODES: u8, const SCALES: u8>(column: usize, rows: usize) -> Self {
        let (chunk, within) = (column / CHUNK, column % CHUNK);
        // A vector has four bytes per row: one byte for each column of a quad.
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

/// The value of an outlier, and the position of its column's weights in a panel.
#[derive(Clone, Copy)]
pub(crate) struct PlacedOutlier {
    pub position: ColumnPosition,
    pub value: f32,
}

/// The outliers of some rows, for the panels of one matrix.
pub(crate) struct OutliersOfRows<'a> {
    pub all: &'a Outliers,
    pub rows: Range<usize>,
    /// The positions for a single row, which all panels share; empty for several rows.
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
