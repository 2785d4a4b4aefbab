//! What attention and float tiles need of an instruction set's vectors.

use crate::kv_format::LANES;

/// Vectors of sixteen floats. A value of such a type proves that the processor has the instruction set: only `unsafe` code
/// makes one.
pub(crate) trait Lanes: Copy {
    type Vector: Copy;
    /// Whether it multiplies and adds in one step.
    const FUSED: bool;
    /// Rows that read a page's keys and values together, at most: 8 or 4.
    const TOGETHER: usize;
    /// Sums of sixteen floats that its registers hold beside what is added to them.
    const SUMS: usize;

    fn zero(self) -> Self::Vector;
    fn splat(self, x: f32) -> Self::Vector;
    fn load_array(self, x: &[f32; LANES]) -> Self::Vector;
    fn to_array(self, a: Self::Vector) -> [f32; LANES];
    /// From little-endian `f32`.
    fn load_f32(self, bytes: &[u8; 4 * LANES]) -> Self::Vector;
    /// From little-endian `f16`.
    fn load_f16(self, bytes: &[u8; 2 * LANES]) -> Self::Vector;
    /// From signed bytes.
    fn load_i8(self, codes: &[u8; LANES]) -> Self::Vector;
    /// From the lower or the upper four bits of bytes, minus eight.
    fn load_i4(self, codes: &[u8; LANES], upper: bool) -> Self::Vector;
    fn multiply(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// b where it is larger than a, else a.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// a · b + c.
    fn multiply_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
}
