//! The vector operations that attention and float tiles need.

use crate::kv_format::LANES;

/// Vectors of sixteen floats. A value of an implementing type proves that the processor has the instruction set,
/// because only `unsafe` code creates one.
pub(crate) trait Lanes: Copy {
    type Vector: Copy;
    /// True if the instruction set has fused multiply-add.
    const FUSED: bool;
    /// Maximum number of query rows that read a page's keys and values together: 8 or 4.
    const MAX_ROWS: usize;
    /// Number of accumulators of sixteen floats that the registers hold in addition to the operands.
    const ACCUMULATORS: usize;

    fn zero(self) -> Self::Vector;
    fn splat(self, x: f32) -> Self::Vector;
    fn load_array(self, x: &[f32; LANES]) -> Self::Vector;
    fn to_array(self, a: Self::Vector) -> [f32; LANES];
    /// Loads little-endian `f32`.
    fn load_f32(self, bytes: &[u8; 4 * LANES]) -> Self::Vector;
    /// Loads little-endian `f16`.
    fn load_f16(self, bytes: &[u8; 2 * LANES]) -> Self::Vector;
    /// Converts signed bytes.
    fn load_i8(self, codes: &[u8; LANES]) -> Self::Vector;
    /// Converts the lower or the upper four bits of each byte, minus eight.
    fn load_i4(self, codes: &[u8; LANES], upper: bool) -> Self::Vector;
    fn multiply(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Returns b where it is larger than a, otherwise a.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Returns a · b + c.
    fn multiply_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
}
