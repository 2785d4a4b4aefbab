//! Outliers of rows of activations: few numbers that stay as they are, each times its column of the matrix.
//!
//! ```text
//! for some panels side by side (32 rows), for each segment of the columns that have outliers:
//!     weights ← these columns of these rows, decoded
//!     for each row of activations: sums += outlier · weights of its column, column after column
//! results += sums
//! ```
//!
//! A weight is what the scalar path says it is: the row's scales first, then its level. Sums run over a row's own outliers
//! alone, so that the result does not depend on which columns its neighbours have.

use super::Panels;
use super::chunk::{SharedScale, WeightScale, columns_of_scale};
use super::kinds::*;
use super::vector::Vector;
use super::{CHUNK, Coding, Panel, SHARING, Scheme};
use crate::cpu::{AHEAD, prefetch};
use crate::scratch::Buffer;
use crate::shared::Shared;
use std::ops::Range;

/// Rows of the matrix that are decoded side by side for one row of activations; for more of them twice as many.
pub(super) const SIDE: usize = 32;
/// Columns whose weights stay in the second cache. More rows come again with fewer (SmolLM2, prompts: 256 as long again).
const SEGMENT: usize = 768;
/// Rows of activations ahead of which results are asked for.
const ROWS_AHEAD: usize = 6;
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
    columns: Vec<u32>,
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
struct Place {
    codes: u32,
    shift: u32,
    /// The codes' upper bits, where these are stored apart.
    upper: u32,
    upper_shift: u32,
    scales: u32,
    shared: u32,
}

impl Place {
    /// That of column `column`, in panels of `rows` rows.
    ///
    /// # Panics
    /// If a panel has more than 4 GiB.
    #[inline(always)]
    fn of<const CODING: u8, const SCHEME: u8>(column: usize, rows: usize) -> Self {
        let (chunk, within) = (column / CHUNK, column % CHUNK);
        // A vector has four bytes of each row: columns of the same byte of a quad, quad by quad.
        let (quad, byte) = (within / 4, 8 * (within as u32 % 4));
        let half = quad / 4;
        let vector = |index: usize| (chunk * CHUNK * code_bits(CODING) / 8 + index * 4) * rows;
        let (codes, shift, upper, upper_shift) = match CODING {
            BYTES => (vector(quad), byte, 0, 0),
            FIVE => (vector(quad % 4), byte + 4 * half as u32, vector(4), byte + quad as u32),
            SIX => (vector(quad % 4), byte + 4 * half as u32, vector(4 + half), byte + 2 * (quad as u32 % 4)),
            _ => (vector(quad % 4), byte + 4 * half as u32, 0, 0),
        };
        let scheme = scheme(SCHEME);
        let of_half = if SCHEME == HALF_GROUPS { half * rows } else { 0 };
        let offset = |bytes: usize| u32::try_from(bytes).expect("a panel of at most 4 GiB");
        Self {
            codes: offset(codes),
            shift,
            upper: offset(upper),
            upper_shift,
            scales: offset(chunk * rows * scheme.bytes() + of_half),
            shared: offset(chunk / SHARING * rows * scheme.shared_bytes()),
        }
    }
}

/// An outlier, and where a panel keeps the weights of its column.
#[derive(Clone, Copy)]
struct PlacedOutlier {
    place: Place,
    value: f32,
}

/// The outliers of some rows, for the panels of a matrix.
pub(crate) struct OutliersOfRows<'a> {
    pub all: &'a Outliers,
    pub rows: Range<usize>,
    /// Of a single row, once for all panels.
    placed: Vec<PlacedOutlier>,
}

impl<'a> OutliersOfRows<'a> {
    pub fn new(matrix: &Panels, all: &'a Outliers, rows: Range<usize>) -> Self {
        let of_panel = matrix.kernel.rows();
        let single = if rows.len() == 1 { all.of(rows.start) } else { &[] };
        macro_rules! run {
            ($coding:ident, $scheme:ident) => {
                (single.iter())
                    .map(|outlier| PlacedOutlier {
                        place: Place::of::<$coding, $scheme>(
                            all.columns[outlier.place as usize] as usize,
                            of_panel,
                        ),
                        value: outlier.value,
                    })
                    .collect()
            };
        }
        let placed = for_each_kind!(matrix, run);
        Self { all, rows, placed }
    }
}

/// Calls `$of::<V, CODING, SCHEME, P>(matrix, first panel, …)` for all panels, `$side` of them side by side.
macro_rules! side_by_side {
    ($matrix:ident, $panels:ident, $side:expr, $of:ident, $arguments:tt) => {{
        macro_rules! run {
            ($coding:ident, $scheme:ident) => {{
                let mut first = $panels.start;
                while first < $panels.end {
                    // SAFETY: the matrix has these panels, and outliers lie in its columns.
                    first += unsafe {
                        match $side.min($panels.end - first) {
                            8.. => call!($of, $coding, $scheme, 8, first, $matrix, $arguments),
                            4.. => call!($of, $coding, $scheme, 4, first, $matrix, $arguments),
                            2.. => call!($of, $coding, $scheme, 2, first, $matrix, $arguments),
                            _ => call!($of, $coding, $scheme, 1, first, $matrix, $arguments),
                        }
                    };
                }
            }};
        }
        for_each_kind!($matrix, run)
    }};
}

macro_rules! call {
    ($of:ident, $coding:ident, $scheme:ident, $p:literal, $first:ident, $matrix:ident, ($($argument:expr),*)) => {{
        $of::<V, $coding, $scheme, $p>($matrix, $first, $($argument),*);
        $p
    }};
}

/// Adds to results with some panels what outliers come to.
#[inline(always)]
pub(super) fn add<V: Vector>(matrix: &Panels, panels: Range<usize>, x: &OutliersOfRows, y: &Shared<f32>) {
    if x.rows.len() == 1 {
        if !x.placed.is_empty() {
            side_by_side!(matrix, panels, SIDE / V::ROWS, single, (x.rows.start, &x.placed, y))
        }
    } else {
        side_by_side!(matrix, panels, 2 * SIDE / V::ROWS, several, (x.rows.clone(), x.all, y))
    }
}

/// `add` for one row and `P` panels from `first` on. Nobody shares what is decoded.
///
/// # Safety
/// The instruction set is there, the matrix has the panels, and outliers were placed in its columns.
#[inline(always)]
unsafe fn single<V: Vector, const CODING: u8, const SCHEME: u8, const P: usize>(
    matrix: &Panels,
    first: usize,
    row: usize,
    outliers: &[PlacedOutlier],
    y: &Shared<f32>,
) {
    let columns = Columns::<V, CODING, SCHEME, P>::new(matrix, first);
    let mut sums = [V::number(0.0); P];
    // The codes that the next products read are prefetched, so that memory is not idle.
    let mut next = columns.end().wrapping_add(2 * AHEAD);
    let mut shared = ([SharedScale::zero(); P], u32::MAX);
    for PlacedOutlier { place, value } in outliers {
        prefetch::<false>(next);
        prefetch::<false>(next.wrapping_add(64));
        next = next.wrapping_add(128);
        let value = V::number(*value);
        // SAFETY: the caller's.
        unsafe {
            if shared.1 != place.shared {
                shared = (columns.shared(place), place.shared);
            }
            let scales = columns.scales(place, &shared.0);
            for (sum, weight) in sums.iter_mut().zip(columns.weights(place, &scales)) {
                *sum = V::multiply_add(value, weight, *sum);
            }
        }
    }
    add_to::<V, P>(matrix, first, row, &sums, y);
}

/// `add` for several rows and `P` panels from `first` on.
///
/// # Safety
/// The instruction set is there, the matrix has the panels, and places and columns of outliers lie below what there are.
#[inline(always)]
unsafe fn several<V: Vector, const CODING: u8, const SCHEME: u8, const P: usize>(
    matrix: &Panels,
    first: usize,
    rows: Range<usize>,
    x: &Outliers,
    y: &Shared<f32>,
) {
    let columns = Columns::<V, CODING, SCHEME, P>::new(matrix, first);
    let width = P * V::ROWS;
    let of_scale = columns_of_scale(SCHEME) as u32;
    let mut weights = Buffer::take(SEGMENT.min(x.columns.len()) * width);
    let segments = x.columns.len().div_ceil(SEGMENT);
    // Sums and places on the way, where rows come again for another segment.
    let mut all_sums = Buffer::take(if segments > 1 { rows.len() * width } else { 0 });
    let mut all_done = vec![0usize; if segments > 1 { rows.len() } else { 0 }];
    for (segment, of_segment) in x.columns.chunks(SEGMENT).enumerate() {
        let mut to = &mut weights[..];
        for group in of_segment.chunk_by(|a, b| a / of_scale == b / of_scale) {
            let (now, then) = to.split_at_mut(group.len() * width);
            // SAFETY: the caller's.
            unsafe { columns.decode(group, now) };
            to = then;
        }
        let begin = segment * SEGMENT;
        let end = (begin + of_segment.len()) as u32;
        for (i, row) in rows.clone().enumerate() {
            let outliers = x.of(row);
            if segment + 1 == segments && i + ROWS_AHEAD < rows.len() {
                ask_for_results::<V, P>(matrix, first, row + ROWS_AHEAD, y);
            }
            let mut done = if segment > 0 { all_done[i] } else { 0 };
            // SAFETY: sums are as many numbers as panels have rows, and so are weights of each place of the segment.
            unsafe {
                let mut sums = match segment {
                    0 => [V::number(0.0); P],
                    _ => take::<V, P>(&all_sums[i * width..][..width]),
                };
                while let Some(outlier) = outliers.get(done)
                    && outlier.place < end
                {
                    let value = V::number(outlier.value);
                    let from = weights.as_ptr().add((outlier.place as usize - begin) * width);
                    for (p, sum) in sums.iter_mut().enumerate() {
                        *sum = V::multiply_add(value, V::take(from.add(p * V::ROWS)), *sum);
                    }
                    done += 1;
                }
                if segment + 1 < segments {
                    let to = all_sums[i * width..][..width].as_mut_ptr();
                    for (p, sum) in sums.into_iter().enumerate() {
                        V::put(sum, to.add(p * V::ROWS));
                    }
                    all_done[i] = done;
                } else if !outliers.is_empty() {
                    add_to::<V, P>(matrix, first, row, &sums, y);
                }
            }
        }
    }
}

/// Numbers of `P` vectors.
///
/// # Safety
/// The instruction set is there, and so are as many numbers.
#[inline(always)]
unsafe fn take<V: Vector, const P: usize>(numbers: &[f32]) -> [V::Numbers; P] {
    let mut taken = [V::number(0.0); P];
    for (p, taken) in taken.iter_mut().enumerate() {
        // SAFETY: the caller's.
        *taken = unsafe { V::take(numbers.as_ptr().add(p * V::ROWS)) };
    }
    taken
}

/// Asks for the results of `P` panels from `first` on with row `row`, which lie far from those of other rows.
#[inline(always)]
fn ask_for_results<V: Vector, const P: usize>(matrix: &Panels, first: usize, row: usize, y: &Shared<f32>) {
    let all = crate::Matrix::rows(matrix);
    // SAFETY: a task has its own panels, and nothing is read.
    let results = unsafe { y.part(row * all + first * V::ROWS, 1) }.as_ptr();
    for line in (0..P * V::ROWS).step_by(16) {
        prefetch::<true>(results.wrapping_add(line).cast());
    }
    prefetch::<true>(results.wrapping_add(P * V::ROWS - 1).cast());
}

/// Adds sums to the results of `P` panels from `first` on with row `row`.
#[inline(always)]
fn add_to<V: Vector, const P: usize>(
    matrix: &Panels,
    first: usize,
    row: usize,
    sums: &[V::Numbers; P],
    y: &Shared<f32>,
) {
    let all = crate::Matrix::rows(matrix);
    let start = first * V::ROWS;
    let count = (P * V::ROWS).min(all - start);
    // SAFETY: a task has its own panels.
    let out = unsafe { y.part(row * all + start, count) };
    for (sums, out) in sums.iter().zip(out.chunks_mut(V::ROWS)) {
        if out.len() == V::ROWS {
            // SAFETY: as many numbers. A product with one is exact.
            unsafe {
                V::put(V::multiply_add(*sums, V::number(1.0), V::take(out.as_ptr())), out.as_mut_ptr())
            };
        } else {
            out.iter_mut().zip(V::store(*sums)).for_each(|(out, sum)| *out += sum);
        }
    }
}

/// Columns of `P` panels side by side.
struct Columns<'a, V: Vector, const CODING: u8, const SCHEME: u8, const P: usize> {
    /// The first panel; the others follow it.
    panel: Panel<'a>,
    /// Levels, where codes stand for such.
    table: V::Integers,
    /// The codes' offset, taken away.
    less: V::Integers,
}

impl<'a, V: Vector, const CODING: u8, const SCHEME: u8, const P: usize> Columns<'a, V, CODING, SCHEME, P> {
    #[inline(always)]
    fn new(matrix: &'a Panels, first: usize) -> Self {
        let levels = match matrix.coding {
            Coding::Table(levels) => levels.map(i8::cast_unsigned),
            _ => [0; 16],
        };
        // The last one is there.
        let _ = matrix.panel(first + P - 1);
        let less = V::splat(-i32::from(matrix.coding.offset()));
        Self { panel: matrix.panel(first), table: V::table(&levels), less }
    }

    /// Where the panels' codes end.
    fn end(&self) -> *const u8 {
        self.panel.codes.as_ptr().wrapping_add(P * self.panel.codes.len())
    }

    /// The scales that a column shares with eight chunks, of each panel.
    ///
    /// # Safety
    /// The instruction set is there, and the panels have the column.
    #[inline(always)]
    unsafe fn shared(&self, place: &Place) -> [SharedScale<V>; P] {
        let mut of_panels = [SharedScale::zero(); P];
        let shared = self.panel.shared;
        // A loop: a closure would not be compiled for the instruction set.
        for (p, of_panel) in of_panels.iter_mut().enumerate() {
            // SAFETY: the caller's; panels lie one after the other.
            *of_panel = unsafe {
                SharedScale::of::<SCHEME>(
                    shared.as_ptr().wrapping_add(p * shared.len() + place.shared as usize),
                )
            };
        }
        of_panels
    }

    /// A column's scales, from what its eight chunks share.
    ///
    /// # Safety
    /// As of `shared`.
    #[inline(always)]
    unsafe fn scales(&self, place: &Place, shared: &[SharedScale<V>; P]) -> [WeightScale<V>; P] {
        let mut of_panels = [WeightScale::zero(); P];
        let scales = self.panel.scales;
        for (p, (of_panel, shared)) in of_panels.iter_mut().zip(shared).enumerate() {
            // SAFETY: the caller's; panels lie one after the other.
            *of_panel = unsafe {
                WeightScale::of::<SCHEME>(
                    scales.as_ptr().add(p * scales.len() + place.scales as usize),
                    shared,
                )
            };
        }
        of_panels
    }

    /// A column's weights, decoded.
    ///
    /// # Safety
    /// As of `shared`. The scales are this column's.
    #[inline(always)]
    unsafe fn weights(&self, place: &Place, scales: &[WeightScale<V>; P]) -> [V::Numbers; P] {
        let mut weights = [V::number(0.0); P];
        let codes = self.panel.codes;
        for (p, (weight, scale)) in weights.iter_mut().zip(scales).enumerate() {
            // SAFETY: the caller's; panels lie one after the other.
            unsafe {
                let codes = codes.as_ptr().add(p * codes.len());
                *weight = scale.weight::<SCHEME>(V::numbers(self.level(codes, place)));
            }
        }
        weights
    }

    /// Writes the weights of columns that have one scale, as many for each as the panels have rows.
    ///
    /// # Safety
    /// As of `shared`.
    #[inline(always)]
    unsafe fn decode(&self, columns: &[u32], weights: &mut [f32]) {
        // SAFETY: the caller's; a vector has as many numbers as a panel has rows.
        unsafe {
            let place = Place::of::<CODING, SCHEME>(columns[0] as usize, V::ROWS);
            let scales = self.scales(&place, &self.shared(&place));
            for (column, to) in columns.iter().zip(weights.chunks_exact_mut(P * V::ROWS)) {
                let place = Place::of::<CODING, SCHEME>(*column as usize, V::ROWS);
                for (p, weight) in self.weights(&place, &scales).into_iter().enumerate() {
                    V::put(weight, to.as_mut_ptr().add(p * V::ROWS));
                }
            }
        }
    }

    /// A column's levels, from the panel's codes.
    ///
    /// # Safety
    /// As of `shared`.
    #[inline(always)]
    unsafe fn level(&self, codes: *const u8, place: &Place) -> V::Integers {
        // Bits from `shift` on of the vector at `offset`.
        // SAFETY: inside the panel's codes.
        let bits = |offset: u32, shift: u32, mask: i32| unsafe {
            V::and(V::shifted(V::load(codes.add(offset as usize)), shift), V::splat(mask))
        };
        let signed = |byte: V::Integers| V::add(V::xor(byte, V::splat(128)), V::splat(-128));
        if CODING == BYTES {
            return signed(bits(place.codes, place.shift, 255));
        }
        let low = bits(place.codes, place.shift, 15);
        let code = match CODING {
            FIVE => V::or(low, V::left::<4>(bits(place.upper, place.upper_shift, 1))),
            SIX => V::or(low, V::left::<4>(bits(place.upper, place.upper_shift, 3))),
            TABLE => return signed(V::and(V::lookup(self.table, low), V::splat(255))),
            _ => low,
        };
        if matches!(SCHEME, AFFINE | GROUPS_AFFINE) { code } else { V::add(code, self.less) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::portable::Portable;
    use super::super::{Kernel, Rounded, plain};
    use super::*;
    use crate::{Backend, Isa, Precision};
    use kvant_core::{Bytes, Shape, Tensor, format};

    /// Panels of eight and of sixteen, one row and several, more columns than a segment.
    #[test]
    fn the_body_gives_the_oracles_bits() {
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 506.0 - 1.0).collect()
        };
        let backend = Backend::new(Isa::Scalar, 1);
        let (rows, columns, n) = (70, 512, 150);
        for format in format::FORMATS.iter().filter(|format| format.grid().is_some()) {
            let shape = Shape::new(&[rows, columns]).unwrap();
            let mut stored = vec![0; format.tensor_bytes(&shape).unwrap()];
            format.encode(&numbers(rows * columns, 1), None, &mut stored);
            let tensor = Tensor::new(shape, *format, Bytes::from(stored)).unwrap();
            let mut x = numbers(n * columns, 2);
            // Every row but the second has some.
            x.iter_mut().step_by(101).for_each(|x| *x *= 50.0);
            x[columns..2 * columns].fill(0.5);
            for (lanes, n) in [8, 16].into_iter().flat_map(|lanes| [1, 3, n].map(|n| (lanes, n))) {
                let rounded = Rounded::new(&backend, &x[..n * columns], columns, Precision::Int8Outliers);
                let found = rounded.outliers.as_ref().unwrap();
                let matrix =
                    Panels::new(&backend, Kernel::Plain(lanes), Precision::Int8Outliers, &tensor).unwrap();
                let panels = 0..rows.div_ceil(lanes);
                let mut expected = numbers(n * rows, 3);
                let mut given = expected.clone();
                let of_rows = OutliersOfRows::new(&matrix, found, 0..n);
                plain::add_outliers(&matrix, panels.clone(), &of_rows, &Shared::new(&mut expected));
                match lanes {
                    8 => add::<Portable<8>>(&matrix, panels, &of_rows, &Shared::new(&mut given)),
                    _ => add::<Portable<16>>(&matrix, panels, &of_rows, &Shared::new(&mut given)),
                }
                assert!(given == expected, "{}, panels of {lanes}, {n} rows", format.name());
                // And what that is: the decoded weights times the outliers.
                let decoded = tensor.decode();
                let row = n - 1;
                for (at, y) in given[row * rows..].iter().enumerate() {
                    let exact: f64 = found
                        .of(row)
                        .iter()
                        .map(|o| (o.value, found.columns()[o.place as usize] as usize))
                        .map(|(value, column)| f64::from(value) * f64::from(decoded[at * columns + column]))
                        .sum();
                    let before = f64::from(numbers(n * rows, 3)[row * rows + at]);
                    assert!((f64::from(*y) - before - exact).abs() < 1e-2, "{}: {y}", format.name());
                }
            }
        }
    }
}
