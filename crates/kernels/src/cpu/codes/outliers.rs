//! Outliers of rows of activations: few numbers that are not rounded, each multiplied with its column of the matrix.

use super::layout::*;
use super::matrix::CodeMatrix;
use crate::scratch::Buffer;
use std::ops::Range;

/// Rows of activations from which on all columns count as having outliers: most of them have.
const MANY: usize = 128;

/// A number that stays as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct Outlier {
    /// Its column when it is found, then the column's place among those that have outliers.
    pub place: u32,
    pub value: f32,
}

// SAFETY: a number without a sign and an `f32`, four bytes each: no padding.
unsafe impl bytemuck::Zeroable for Outlier {}
// SAFETY: as above; `Copy`, and any bits are numbers.
unsafe impl bytemuck::Pod for Outlier {}

/// The outliers of rows of activations.
/// Invariant: a row's places ascend, and each is that of a column.
pub(crate) struct Outliers {
    entries: Buffer,
    /// How many each row has.
    counts: Vec<u32>,
    /// Entries that there is room for in a row.
    most: usize,
    /// Columns in which some row has an outlier, ascending.
    pub columns: Vec<u32>,
}

impl Outliers {
    /// From `counts[row]` entries of each row, which begin `most` apart, of as many columns as are said.
    pub fn new(mut entries: Buffer, counts: Vec<u32>, most: usize, columns: usize) -> Self {
        let columns = if let [count] = counts[..] {
            let all: &mut [Outlier] = bytemuck::cast_slice_mut(&mut entries);
            let places = all[..count as usize].iter_mut().zip(0..);
            places.map(|(outlier, place)| std::mem::replace(&mut outlier.place, place)).collect()
        } else if counts.len() >= MANY {
            (0..columns as u32).collect()
        } else {
            let all: &mut [Outlier] = bytemuck::cast_slice_mut(&mut entries);
            let mut places = vec![u32::MAX; columns];
            for (row, count) in all.chunks_exact(most).zip(&counts) {
                row[..*count as usize].iter().for_each(|outlier| places[outlier.place as usize] = 0);
            }
            let found: Vec<u32> = (0..columns as u32).filter(|&c| places[c as usize] == 0).collect();
            for (place, &column) in found.iter().enumerate() {
                places[column as usize] = place as u32;
            }
            for (row, count) in all.chunks_exact_mut(most).zip(&counts) {
                row[..*count as usize]
                    .iter_mut()
                    .for_each(|outlier| outlier.place = places[outlier.place as usize]);
            }
            found
        };
        Self { entries, counts, most, columns }
    }

    /// Whether no row has one.
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// Those of row `row`.
    #[inline(always)]
    pub fn of(&self, row: usize) -> &[Outlier] {
        let entries: &[Outlier] = bytemuck::cast_slice(&self.entries);
        &entries[row * self.most..][..self.counts[row] as usize]
    }

    /// The columns that have outliers.
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }
}

/// Where a panel keeps the weights of a column: offsets in bytes from the panel's codes, scales and shared scales, and how
/// far the column's bits have to be shifted down.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub codes: u32,
    pub shift: u32,
    /// The codes' upper bits, where these are stored apart.
    pub upper: u32,
    pub upper_shift: u32,
    pub scales: u32,
    pub shared: u32,
}

impl Place {
    /// That of column `column`, in panels of `rows` rows.
    ///
    /// # Panics
    /// If a panel has more than 4 GiB.
    #[inline(always)]
    pub fn of<const CODES: u8, const SCALES: u8>(column: usize, rows: usize) -> Self {
        let (chunk, within) = (column / CHUNK, column % CHUNK);
        // A vector has four bytes of each row: columns of the same byte of a quad, quad by quad.
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
        let of_half = if SCALES == HALF_GROUPS { half * rows } else { 0 };
        let offset = |bytes: usize| u32::try_from(bytes).expect("a panel of at most 4 GiB");
        Self {
            codes: offset(codes),
            shift,
            upper: offset(upper),
            upper_shift,
            scales: offset(chunk * rows * layout.bytes() + of_half),
            shared: offset(chunk / SHARING * rows * layout.shared_bytes()),
        }
    }
}

/// An outlier, and where a panel keeps the weights of its column.
#[derive(Clone, Copy)]
pub(crate) struct PlacedOutlier {
    pub place: Place,
    pub value: f32,
}

/// The outliers of some rows, for the panels of a matrix.
pub(crate) struct OutliersOfRows<'a> {
    pub all: &'a Outliers,
    pub rows: Range<usize>,
    /// The places of a single row, found once for all panels.
    pub placed: Vec<PlacedOutlier>,
}

impl<'a> OutliersOfRows<'a> {
    pub fn new(matrix: &CodeMatrix, all: &'a Outliers, rows: Range<usize>) -> Self {
        let of_panel = matrix.panel_rows;
        let single = if rows.len() == 1 { all.of(rows.start) } else { &[] };
        macro_rules! run {
            ($codes:ident, $scales:ident) => {
                (single.iter())
                    .map(|outlier| PlacedOutlier {
                        place: Place::of::<$codes, $scales>(
                            all.columns[outlier.place as usize] as usize,
                            of_panel,
                        ),
                        value: outlier.value,
                    })
                    .collect()
            };
        }
        let placed = for_each_layout!(matrix, run);
        Self { all, rows, placed }
    }
}
