//! Encodes a tensor piece by piece, in parallel, and compares it with the original.

use super::solver::{Layer, Solved};
use crate::Error;
use kvant_core::{Bytes, FormatRef, Tensor};
use rayon::prelude::*;

/// Elements of a piece. A piece is so small that it stays in the private cache of one core until it is compared.
const PIECE_ELEMENTS: usize = 1 << 14;

struct Piece {
    squared_error: f64,
    squared_sum: f64,
    not_finite: Option<(usize, f32)>,
    overflow: Option<(usize, f32)>,
}

/// Encodes whole rows. The arguments are the index of the first row, the rows' values, and their bytes to fill.
pub type Encode<'a> = &'a (dyn Fn(usize, &[f32], &mut [u8]) + Sync);

/// Encodes a tensor piece by piece, in parallel, and compares it with the original.
///
/// # Errors
/// A shape that the format cannot hold.
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

/// Computes the errors of whole rows. `first` is the index of their first element in the tensor.
fn compare(format: FormatRef, columns: usize, before: &[f32], after: &[f32], first: usize) -> Piece {
    let (squared_error, squared_sum) = pulp::Arch::new().dispatch(Errors { before, after });
    // A finite sum contains only finite values, because squares of f32 don't overflow f64.
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

/// Returns the index of the largest magnitude in those blocks of a row that could not be stored. Methods that
/// compensate for errors carry the infinity of one block into other blocks, so the first such block may not be the
/// cause.
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

/// Computes the sum of squared errors and the sum of squares. `pulp` compiles it for each instruction set; the order of
/// the additions is always the same.
struct Errors<'a> {
    before: &'a [f32],
    after: &'a [f32],
}

/// Errors that are computed at once.
const CHUNK: usize = 256;

impl pulp::NullaryFnOnce for Errors<'_> {
    type Output = (f64, f64);

    #[inline(always)]
    fn call(self) -> (f64, f64) {
        let (mut errors, mut squares) = (0.0, 0.0);
        for (before, after) in self.before.chunks(CHUNK).zip(self.after.chunks(CHUNK)) {
            // The errors go to an array first, because the compiler does not vectorize them inside the sum.
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

/// Sums the squares in eight partial sums, always in the same order. No addition waits for the one before.
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

/// Returns the index of the first NaN or infinite value.
pub fn first_not_finite(x: &[f32]) -> Option<usize> {
    const EXPONENT: u32 = 0x7f80_0000;
    // This pass over all values has no early exit, so that the compiler vectorizes it.
    let any = x.iter().fold(false, |any, x| any | (x.to_bits() & EXPONENT == EXPONENT));
    if any { x.iter().position(|x| !x.is_finite()) } else { None }
}
