//! Encodes each block independently with the format's own encoder. For k and iq formats, this is upstream's search for
//! scales. For other formats, it is upstream's rounding.
//!
//! ```text
//! for each piece of whole rows:            (pieces of fixed size, in parallel)
//!     x ← decode(piece)
//!     bytes ← encode(x)
//! ```

use super::encoding::by_pieces;
use super::solver::{Layer, Need, Solved, Solver};
use crate::Error;
use kvant_core::FormatRef;

/// The method `rtn`.
pub struct RoundToNearest;

impl Solver for RoundToNearest {
    fn name(&self) -> &'static str {
        "rtn"
    }

    fn need(&self) -> Need {
        Need::Nothing
    }

    fn solve(&self, layer: &Layer, format: FormatRef) -> Result<Solved, Error> {
        let encoder = layer.encoder(format)?;
        by_pieces(layer, format, &|_, x, out| encoder.encode(x, None, out))
    }
}
