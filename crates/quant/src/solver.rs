//! Methods that choose a tensor's stored values, and their registry.
//!
//! A solver hands over the final bytes, never rounded floats that somebody must round again.

use crate::Error;
use kvant_core::{Bytes, FormatRef, Tensor};
use rayon::prelude::*;

/// A tensor in its new format, and what it lost.
#[derive(Clone, Debug)]
pub struct Solved {
    /// The final bytes.
    pub tensor: Tensor,
    /// Sum of squared errors, f64 in fixed order.
    pub squared_error: f64,
    /// Sum of squares of the original.
    pub squared_sum: f64,
    /// First element that was not finite before, and its value.
    pub not_finite: Option<(usize, f32)>,
    /// First element that is not finite after, and its value before.
    pub overflow: Option<(usize, f32)>,
}

/// A method of quantization.
pub trait Solver: Sync {
    /// What `--method` takes.
    fn name(&self) -> &'static str;

    /// Chooses the stored values of `tensor` in `format`.
    ///
    /// # Errors
    /// A shape that the format cannot hold.
    fn solve(&self, name: &str, tensor: &Tensor, format: FormatRef) -> Result<Solved, Error>;
}

/// Every method.
pub static METHODS: &[&dyn Solver] = &[&RoundToNearest];

/// The method of this name.
pub fn method(name: &str) -> Option<&'static dyn Solver> {
    METHODS.iter().copied().find(|m| m.name() == name)
}

/// Each block on its own, by the format's own encoder: upstream's rounding, and for k and iq types its search.
///
/// ```text
/// for each piece of whole rows:            (pieces of fixed size, in parallel)
///     x ← decode(piece)
///     bytes ← encode(x)
///     error += Σ (x − decode(bytes))²
/// ```
pub struct RoundToNearest;

/// Elements that are decoded at once: bounds memory to a few pieces a thread, whatever the tensor's size.
const PIECE_ELEMENTS: usize = 1 << 16;

struct Piece {
    squared_error: f64,
    squared_sum: f64,
    not_finite: Option<(usize, f32)>,
    overflow: Option<(usize, f32)>,
}

impl Solver for RoundToNearest {
    fn name(&self) -> &'static str {
        "rtn"
    }

    fn solve(&self, name: &str, tensor: &Tensor, format: FormatRef) -> Result<Solved, Error> {
        let shape_error = |source| Error::Shape { tensor: name.to_owned(), source };
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
                .map(|(index, out)| {
                    let (start, rows) = (index * rows_a_piece, out.len() / row_bytes);
                    let mut before = vec![0.0f32; rows * columns];
                    tensor.format().decode(tensor.rows(start, rows), &mut before);
                    encode_piece(&before, start * columns, format, out)
                })
                .collect()
        };
        Ok(Solved {
            tensor: Tensor::new(shape, format, Bytes::from(bytes)).map_err(shape_error)?,
            squared_error: pieces.iter().map(|p| p.squared_error).sum(),
            squared_sum: pieces.iter().map(|p| p.squared_sum).sum(),
            not_finite: pieces.iter().find_map(|p| p.not_finite),
            overflow: pieces.iter().find_map(|p| p.overflow),
        })
    }
}

fn encode_piece(before: &[f32], first: usize, format: FormatRef, out: &mut [u8]) -> Piece {
    let not_finite = before.iter().position(|x| !x.is_finite()).map(|i| (first + i, before[i]));
    format.encode(before, None, out);
    let mut after = vec![0.0f32; before.len()];
    format.decode(out, &mut after);
    let overflow = after.iter().position(|x| !x.is_finite()).map(|i| (first + i, before[i]));
    let (mut squared_error, mut squared_sum) = (0.0f64, 0.0f64);
    for (x, y) in before.iter().zip(&after) {
        squared_error += f64::from(x - y) * f64::from(x - y);
        squared_sum += f64::from(*x) * f64::from(*x);
    }
    Piece { squared_error, squared_sum, not_finite, overflow }
}
