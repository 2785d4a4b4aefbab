//! The vector operations that attention and float tiles (`float_tile.rs`) need.

use crate::kv_format::LANES;

/// Operations on vectors of sixteen floats. A value of an implementing type proves that the processor has the
/// instruction set, because only `unsafe` code creates such a value.
pub(crate) trait Lanes: Copy {
    type Vector: Copy;
    /// True if the instruction set has fused multiply-add.
    const FUSED: bool;
    /// Maximum number of query rows that attention multiplies at the same time with the keys and values of a page: 8 or
    /// 4.
    const MAX_ROWS: usize;
    /// Number of accumulators (vectors of sixteen floats) that the registers hold in addition to the operands.
    const ACCUMULATORS: usize;

    /// Returns a vector of zeros.
    fn zero(self) -> Self::Vector;
    /// Returns a vector with `x` in every lane.
    fn splat(self, x: f32) -> Self::Vector;
    fn load_array(self, x: &[f32; LANES]) -> Self::Vector;
    fn to_array(self, a: Self::Vector) -> [f32; LANES];
    /// Loads sixteen little-endian `f32`.
    fn load_f32(self, bytes: &[u8; 4 * LANES]) -> Self::Vector;
    /// Loads sixteen little-endian `f16` and converts them to `f32`.
    fn load_f16(self, bytes: &[u8; 2 * LANES]) -> Self::Vector;
    /// Converts sixteen signed bytes to floats.
    fn load_i8(self, codes: &[u8; LANES]) -> Self::Vector;
    /// Converts the four upper bits of each byte to a float if `upper` is true, otherwise the four lower bits.
    /// Subtracts eight from each of them.
    fn load_i4(self, codes: &[u8; LANES], upper: bool) -> Self::Vector;
    fn multiply(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Returns, for each lane, b if b is larger than a, otherwise a.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Returns a · b + c, with one rounding if [`Lanes::FUSED`] is true.
    fn multiply_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
}
