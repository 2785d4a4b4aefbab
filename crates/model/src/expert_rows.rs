//! Picks rows from the matrices of all experts, which a checkpoint stores in one tensor.
//!
//! Some checkpoints have the rows of two maps in turns, and store the matrices transposed or in MXFP4. Source:
//! `transformers`' `integrations/mxfp4.py` and `models/gpt_oss`.

use kvant_core::{Bytes, Error, Format, Shape, Tensor, format};

/// The number of elements of an MXFP4 block, and the number of bytes of their codes.
const BLOCK: (usize, usize) = (32, 16);
/// The number of rows that are copied together, so that a read of neighbors fills cache lines of these rows.
const TILE: usize = 32;

/// The dimensions of the tensor from which every `step`-th row gives a tensor of dimensions `canonical`: experts, rows,
/// and columns unless the rows are elements of biases.
pub(crate) fn dimensions(canonical: &[usize], transposed: bool, step: usize) -> Vec<usize> {
    let mut stored = canonical.to_vec();
    stored[1] *= step;
    if transposed {
        stored[1..].reverse();
    }
    stored
}

/// The dimensions of the codes and of the scales of an MXFP4 tensor; see [`dimensions`].
pub(crate) fn mxfp4_dimensions(canonical: &[usize], step: usize) -> [Vec<usize>; 2] {
    let mut scales = dimensions(canonical, false, step);
    scales[2] /= BLOCK.0;
    [[&scales[..], &[BLOCK.1]].concat(), scales]
}

/// Returns the rows `start`, `start + step`, … of each expert's matrix as a tensor of `shape`. `tensor` has [`dimensions`].
///
/// # Errors
/// [`Error::PartialBlock`] for a format with blocks of several elements.
pub(crate) fn pick(
    tensor: &Tensor,
    shape: Shape,
    transposed: bool,
    start: usize,
    step: usize,
) -> Result<Tensor, Error> {
    let block = tensor.format().block();
    // Elements of biases are rows of one column.
    let (rows, columns) = match shape.dimensions() {
        [_, rows] => (*rows, 1),
        dimensions => (dimensions[1], dimensions[2]),
    };
    let grid = Grid { rows, columns, transposed, start, step };
    let bytes = match (block.elements, block.bytes) {
        (1, 2) => grid.pick(tensor.bytes().as_chunks::<2>().0),
        (1, 4) => grid.pick(tensor.bytes().as_chunks::<4>().0),
        _ => {
            let format = tensor.format().name();
            return Err(Error::PartialBlock { columns: 1, block_elements: block.elements, format });
        }
    };
    Tensor::new(shape, tensor.format(), Bytes::from(bytes))
}

/// The rows of each expert that are picked.
#[derive(Clone, Copy)]
struct Grid {
    rows: usize,
    columns: usize,
    transposed: bool,
    start: usize,
    step: usize,
}

impl Grid {
    fn pick<const N: usize>(self, from: &[[u8; N]]) -> Vec<u8> {
        let Self { rows, columns, transposed, start, step } = self;
        let mut picked = vec![[0; N]; from.len() / step];
        let experts = from.chunks_exact(rows * step * columns).zip(picked.chunks_exact_mut(rows * columns));
        for (from, picked) in experts {
            for (tile, picked) in picked.chunks_mut(TILE * columns).enumerate() {
                let row_of = |index: usize| start + (tile * TILE + index) * step;
                if transposed {
                    for column in 0..columns {
                        let from = &from[column * rows * step..];
                        for (index, picked) in picked.chunks_exact_mut(columns).enumerate() {
                            picked[column] = from[row_of(index)];
                        }
                    }
                } else {
                    for (index, picked) in picked.chunks_exact_mut(columns).enumerate() {
                        picked.copy_from_slice(&from[row_of(index) * columns..][..columns]);
                    }
                }
            }
        }
        picked.into_flattened()
    }
}

/// Returns the rows `start`, `start + step`, … of each expert's matrix as an `mxfp4` tensor of `shape`. `codes` and
/// `scales` are the bytes of tensors with [`mxfp4_dimensions`]. No code and no scale changes.
///
/// # Errors
/// [`Error::PartialBlock`] if the blocks don't divide the rows.
pub(crate) fn pick_mxfp4(
    codes: &[u8],
    scales: &[u8],
    shape: Shape,
    start: usize,
    step: usize,
) -> Result<Tensor, Error> {
    let (rows, blocks) = (shape.rows(), shape.columns() / BLOCK.0);
    let mut bytes = Vec::with_capacity(format::Mxfp4.tensor_bytes(&shape)?);
    for row in 0..rows {
        // The rows of all experts are in one sequence, because each expert has a whole number of steps.
        let from = (start + row * step) * blocks;
        let codes = codes[from * BLOCK.1..][..blocks * BLOCK.1].as_chunks::<16>().0;
        for (codes, scale) in codes.iter().zip(&scales[from..]) {
            bytes.push(*scale);
            // The file has codes 2 i and 2 i + 1 in byte i; the format has codes i and i + 16.
            let code = |index: usize| codes[index / 2] >> (4 * (index % 2)) & 15;
            bytes.extend((0..16).map(|i| code(i) | code(i + 16) << 4));
        }
    }
    Tensor::new(shape, &format::Mxfp4, Bytes::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_of_transposed_matrices_are_picked(
            (experts, rows, columns) in (1usize..4, 1usize..70, 1usize..9), step in 1usize..3, transposed: bool,
        ) {
            let start = step - 1;
            let shape = Shape::new(&[experts, rows, columns]).unwrap();
            let stored = dimensions(shape.dimensions(), transposed, step);
            let count: usize = stored.iter().product();
            let bytes: Vec<u8> = (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect();
            let from = Tensor::new(Shape::new(&stored).unwrap(), &format::F32, Bytes::from(bytes)).unwrap();
            let found = pick(&from, shape, transposed, start, step).unwrap().decode();
            for (at, found) in found.into_iter().enumerate() {
                let (expert, row, column) = (at / columns / rows, at / columns % rows, at % columns);
                let row = start + row * step;
                let index = if transposed { column * rows * step + row } else { row * columns + column };
                prop_assert_eq!(found as usize, expert * rows * columns * step + index);
            }
        }

        #[test]
        fn mxfp4_keeps_every_code_and_scale(
            (experts, rows, blocks) in (1usize..4, 1usize..5, 1usize..4), step in 1usize..3,
            seed in prop::collection::vec(any::<u8>(), 17 * 3 * 4 * 3 * 2),
        ) {
            // The levels of the codes, from the standard: one sign bit, two exponent bits, one mantissa bit.
            const LEVELS: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
            let count = experts * rows * step * blocks;
            let (codes, scales) = seed[..17 * count].split_at(16 * count);
            let scales: Vec<u8> = scales.iter().map(|scale| 64 + scale / 2).collect();
            let shape = Shape::new(&[experts, rows, blocks * 32]).unwrap();
            let start = step - 1;
            let found = pick_mxfp4(codes, &scales, shape, start, step).unwrap().decode();
            for (at, found) in found.into_iter().enumerate() {
                let (row, column) = (at / (32 * blocks), at % (32 * blocks));
                let block = (start + row * step) * blocks + column / 32;
                let code = codes[16 * block + column % 32 / 2] >> (4 * (column % 2)) & 15;
                let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
                let expected = sign * LEVELS[usize::from(code & 7)] * 2f32.powi(i32::from(scales[block]) - 127);
                prop_assert_eq!(found, expected);
            }
        }
    }
}
