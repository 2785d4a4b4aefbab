//! Encodes a tensor piece by piece, in parallel, and compares the result with the original. A piece consists of whole
//! rows.

use super::solver::{Layer, Solved};
use crate::Error;
use kvant_core::{Bytes, FormatRef, Tensor};
use rayon::prelude::*;

/// Maximum number of elements of a piece; a longer row is one piece. The original values of a piece stay in the private
/// cache of one core until they are compared with the encoded ones.
const PIECE_ELEMENTS: usize = 1 << 14;

/// The result of the comparison of one piece.
struct Piece {
    /// The sum of (before − after)².
    squared_error: f64,
    /// The sum of before².
    squared_sum: f64,
    /// The first element before encoding that is NaN or infinite: its index in the tensor and its value.
    not_finite: Option<(usize, f32)>,
    /// An element that the format cannot hold: its index in the tensor and its value before encoding.
    overflow: Option<(usize, f32)>,
}

/// A function that encodes whole rows. Its arguments are the index of the first row, the values of the rows, and the
/// bytes to fill.
pub type Encode<'a> = &'a (dyn Fn(usize, &[f32], &mut [u8]) + Sync);

/// Encodes a tensor piece by piece, in parallel, and compares the result with the original.
///
/// # Errors
/// [`Error::Shape`] if the format cannot hold the tensor's shape.
pub fn by_pieces(layer: &Layer, format: FormatRef, encode: Encode) -> Result<Solved, Error> {
    let tensor = layer.weight;
    let shape_error = |source| Error::Shape { tensor: layer.name.to_owned(), source };
    let shape = *tensor.shape();
    let mut bytes = vec![0u8; format.tensor_bytes(&shape).map_err(shape_error)?];
    let columns = shape.columns();
    let rows_per_piece = (PIECE_ELEMENTS / columns.max(1)).max(1);
    let row_bytes = columns / format.block().elements * format.block().bytes;
    let pieces: Vec<Piece> = if bytes.is_empty() {
        Vec::new()
    } else {
        bytes
            .par_chunks_mut(rows_per_piece * row_bytes)
            .enumerate()
            .map_init(
                || (Vec::new(), Vec::new()),
                |(before, after), (index, out)| {
                    let (start, rows) = (index * rows_per_piece, out.len() / row_bytes);
                    before.resize(rows * columns, 0.0f32);
                    after.resize(rows * columns, 0.0f32);
                    tensor.format().decode(tensor.rows(start, rows), before);
                    encode(start, before, out);
                    format.decode(out, after);
                    compare(format, columns, before, after, start * columns)
                },
            )
            .collect()
    };
    Ok(Solved {
        tensor: Tensor::new(shape, format, Bytes::from(bytes)).map_err(shape_error)?,
        squared_error: pieces.iter().map(|p| p.squared_error).sum(),
        squared_sum: pieces.iter().map(|p| p.squared_sum).sum(),
        not_finite: pieces.iter().find_map(|p| p.not_finite),
        overflow: pieces.iter().find_map(|p| p.overflow),
        flags: Vec::new(),
        chosen: None,
    })
}

/// Compares whole rows before and after encoding. `first` is the index of their first element in the tensor.
fn compare(format: FormatRef, columns: usize, before: &[f32], after: &[f32], first: usize) -> Piece {
    let (squared_error, squared_sum) = pulp::Arch::new().dispatch(Errors { before, after });
    // If the sum of squares is not finite, a value is not finite, because the square of a finite f32 does not overflow
    // f64.
    let find_not_finite = |sum: f64, x: &[f32]| if sum.is_finite() { None } else { first_not_finite(x) };
    let with_value = |i: usize| (first + i, before[i]);
    let not_finite = find_not_finite(squared_sum, before).map(with_value);
    let reach = format.grid().map_or(f32::INFINITY, |grid| grid.reach());
    let may_exceed = squared_sum > f64::from(reach) * f64::from(reach);
    let first_overflow = match (
        find_not_finite(squared_error, after),
        before.iter().position(|x| may_exceed && x.abs() > reach),
    ) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let overflow = first_overflow.filter(|_| not_finite.is_none()).map(|first_overflow| {
        let row = first_overflow / columns * columns..(first_overflow / columns + 1) * columns;
        let (before, after) = (&before[row.clone()], &after[row.clone()]);
        with_value(row.start + largest_overflow(format.block().elements, reach, before, after))
    });
    Piece { squared_error, squared_sum, not_finite, overflow }
}

/// Returns the index of the element with the largest magnitude among those blocks of a row that overflowed. The first
/// such block may not be the cause, because methods that compensate for errors carry the infinity of one block into
/// other blocks.
fn largest_overflow(elements: usize, reach: f32, before: &[f32], after: &[f32]) -> usize {
    let overflows = |at: usize| {
        let (before, after) = (&before[at..][..elements], &after[at..][..elements]);
        after.iter().any(|x| !x.is_finite()) || before.iter().any(|x| x.abs() > reach)
    };
    let blocks = (0..before.len()).step_by(elements).filter(|&at| overflows(at));
    let mut largest = 0;
    let mut magnitude = -1.0;
    for at in blocks.flat_map(|at| at..at + elements) {
        if before[at].abs() > magnitude {
            (largest, magnitude) = (at, before[at].abs());
        }
    }
    largest
}

/// Computes the sum of squared errors and the sum of squares. `pulp` compiles this code for each instruction set. The
/// order of the additions is always the same.
struct Errors<'a> {
    before: &'a [f32],
    after: &'a [f32],
}

/// Number of errors that are computed before they are summed.
const CHUNK: usize = 256;

impl pulp::NullaryFnOnce for Errors<'_> {
    type Output = (f64, f64);

    #[inline(always)]
    fn call(self) -> (f64, f64) {
        let (mut errors, mut squares) = (0.0, 0.0);
        for (before, after) in self.before.chunks(CHUNK).zip(self.after.chunks(CHUNK)) {
            // The errors are stored in an array first, because the compiler does not vectorize them inside the sum.
            let mut error = [0.0f32; CHUNK];
            for ((error, x), y) in error.iter_mut().zip(before).zip(after) {
                *error = x - y;
            }
            errors += sum_of_squares(&error[..before.len()]);
            squares += sum_of_squares(before);
        }
        (errors, squares)
    }
}

/// Sums the squares in eight partial sums, always in the same order. Eight sums are independent, so that an addition
/// does not wait for the previous addition.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f64 {
    const SUMS: usize = 8;
    let mut sums = [0.0f64; SUMS];
    let (chunks, rest) = x.as_chunks::<SUMS>();
    let square = |x: f32| f64::from(x) * f64::from(x);
    for x in chunks {
        for i in 0..SUMS {
            sums[i] += square(x[i]);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += square(x);
    }
    sums.iter().sum()
}

/// Returns the index of the first NaN or infinite value, or `None` if all values are finite.
pub fn first_not_finite(x: &[f32]) -> Option<usize> {
    const EXPONENT: u32 = 0x7f80_0000;
    // This loop over all values has no early exit, so that the compiler vectorizes it.
    let any = x.iter().fold(false, |any, x| any | (x.to_bits() & EXPONENT == EXPONENT));
    if any { x.iter().position(|x| !x.is_finite()) } else { None }
}
