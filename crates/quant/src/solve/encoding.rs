//! A tensor encoded piece by piece, in parallel, and compared with the original.

use super::solver::{Layer, Solved};
use crate::Error;
use kvant_core::{Bytes, FormatRef, Tensor};
use rayon::prelude::*;

/// Elements that are decoded at once: few enough that a piece stays in a core's own cache from its decoding to its
/// comparison.
const PIECE_ELEMENTS: usize = 1 << 14;

struct Piece {
    squared_error: f64,
    squared_sum: f64,
    not_finite: Option<(usize, f32)>,
    overflow: Option<(usize, f32)>,
}

/// Fills bytes from values: first row, values of whole rows, their bytes.
pub type Encode<'a> = &'a (dyn Fn(usize, &[f32], &mut [u8]) + Sync);

/// Fills a tensor's bytes piece by piece, in parallel; then compares.
pub fn by_pieces(layer: &Layer, format: FormatRef, encode: Encode) -> Result<Solved, Error> {
    let tensor = layer.weight;
    let shape_error = |source| Error::Shape { tensor: layer.name.to_owned(), source };
    let shape = *tensor.shape();
    let mut bytes = vec![0u8; format.tensor_bytes(&shape).map_err(shape_error)?];
    let columns = shape.columns();
    let rows_a_piece = (PIECE_ELEMENTS / columns.max(1)).max(1);
    let row_bytes = columns / format.block().elements * format.block().bytes;
    let pieces: Vec<Piece> = if bytes.is_empty() {
        Vec::new()
    } else {
        bytes
            .par_chunks_mut(rows_a_piece * row_bytes)
            .enumerate()
            .map_init(
                || (Vec::new(), Vec::new()),
                |(before, after), (index, out)| {
                    let (start, rows) = (index * rows_a_piece, out.len() / row_bytes);
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

/// What values of whole rows have lost; `first` is the place of the first one in its tensor.
fn compare(format: FormatRef, columns: usize, before: &[f32], after: &[f32], first: usize) -> Piece {
    let (squared_error, squared_sum) = pulp::Arch::new().dispatch(Errors { before, after });
    // A finite sum has nothing but finite numbers in it: squares of f32 don't overflow f64.
    let broken = |sum: f64, x: &[f32]| if sum.is_finite() { None } else { first_not_finite(x) };
    let named = |i: usize| (first + i, before[i]);
    let not_finite = broken(squared_sum, before).map(named);
    let reach = format.grid().map_or(f32::INFINITY, |grid| grid.reach());
    let beyond = squared_sum > f64::from(reach) * f64::from(reach);
    let bad = match (broken(squared_error, after), before.iter().position(|x| beyond && x.abs() > reach)) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let overflow = bad.filter(|_| not_finite.is_none()).map(|bad| {
        let row = bad / columns * columns..(bad / columns + 1) * columns;
        let (before, after) = (&before[row.clone()], &after[row.clone()]);
        named(row.start + largest_overflow(format.block().elements, reach, before, after))
    });
    Piece { squared_error, squared_sum, not_finite, overflow }
}

/// The largest magnitude in the blocks of a row that could not be stored. Methods that make up for errors carry one
/// block's infinity into others, so the first such block need not be the culprit.
fn largest_overflow(elements: usize, reach: f32, before: &[f32], after: &[f32]) -> usize {
    let lost = |at: usize| {
        let (before, after) = (&before[at..][..elements], &after[at..][..elements]);
        after.iter().any(|x| !x.is_finite()) || before.iter().any(|x| x.abs() > reach)
    };
    let blocks = (0..before.len()).step_by(elements).filter(|&at| lost(at));
    let mut largest = 0;
    let mut magnitude = -1.0;
    for at in blocks.flat_map(|at| at..at + elements) {
        if before[at].abs() > magnitude {
            (largest, magnitude) = (at, before[at].abs());
        }
    }
    largest
}

/// Sums of squared errors and of squares, compiled for each instruction set; their order is the same.
struct Errors<'a> {
    before: &'a [f32],
    after: &'a [f32],
}

/// Errors that are taken at once.
const ERRORS: usize = 256;

impl pulp::NullaryFnOnce for Errors<'_> {
    type Output = (f64, f64);

    #[inline(always)]
    fn call(self) -> (f64, f64) {
        let (mut errors, mut squares) = (0.0, 0.0);
        for (before, after) in self.before.chunks(ERRORS).zip(self.after.chunks(ERRORS)) {
            // In an array first: errors made one by one inside the sum are not vectorized.
            let mut error = [0.0f32; ERRORS];
            for ((error, x), y) in error.iter_mut().zip(before).zip(after) {
                *error = x - y;
            }
            errors += sum_of_squares(&error[..before.len()]);
            squares += sum_of_squares(before);
        }
        (errors, squares)
    }
}

/// Summed in eight parts, element by element in turn: always the same order, and none waits for another.
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

/// Where the first number stands that is NaN or infinite.
pub fn first_not_finite(x: &[f32]) -> Option<usize> {
    const EXPONENT: u32 = 0x7f80_0000;
    // The whole first, without an early end, which the compiler makes vector instructions.
    let any = x.iter().fold(false, |any, x| any | (x.to_bits() & EXPONENT == EXPONENT));
    if any { x.iter().position(|x| !x.is_finite()) } else { None }
}
