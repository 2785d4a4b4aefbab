//! The vector operations that products of integer codes need. A panel is eight or sixteen rows of a matrix, stored side
//! by side (`codes/layout.rs`).

use crate::cpu::codes::layout::ROWS;

/// The vectors of an instruction set. A lane belongs to one row of a panel; it holds four bytes, one 32-bit integer or
/// one float.
///
/// A value of an implementing type proves that the processor has the instruction set, because only `unsafe` code
/// creates such a value. So the methods are safe, except the methods that read or write through pointers.
pub(crate) trait SimdInt8: Copy {
    /// A vector with one 32-bit integer or four bytes per lane.
    type Ints: Copy;
    /// A vector with one float per lane.
    type Floats: Copy;
    /// Number of rows of a panel, and number of lanes of a vector: 8 or 16.
    const ROWS: usize;
    /// The value that is added to signed levels if [`SimdInt8::dot`] needs unsigned codes (128); otherwise 0.
    const BIAS: i16;
    /// True if the instruction set has [`SimdInt8::permute_floats`].
    const PERMUTES_FLOATS: bool = false;

    /// Loads four bytes per row.
    ///
    /// # Safety
    /// `4 * ROWS` bytes are readable at `at`.
    unsafe fn load(self, at: *const u8) -> Self::Ints;
    /// Returns a vector with `x` in every lane.
    fn splat(self, x: i32) -> Self::Ints;
    /// Returns these sixteen bytes as a table for [`SimdInt8::lookup`].
    fn level_table(self, bytes: &[u8; 16]) -> Self::Ints;
    fn and(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn or(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn xor(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// Shifts the two 16-bit halves of each lane to the right by `N` bits, and fills with zeros.
    fn shift_right_16<const N: u32>(self, a: Self::Ints) -> Self::Ints;
    /// Shifts the two 16-bit halves of each lane to the left by `N` bits.
    fn shift_left_16<const N: u32>(self, a: Self::Ints) -> Self::Ints;
    /// Returns, for each byte of `index`, the byte of `table` at this index (0 to 15).
    fn lookup(self, table: Self::Ints, index: Self::Ints) -> Self::Ints;
    /// Returns, for each lane of `index`, the float of `table` at the index in the lane's low four bits. Other bits have
    /// no effect.
    ///
    /// # Panics
    /// If [`SimdInt8::PERMUTES_FLOATS`] is false.
    fn permute_floats(self, _table: Self::Floats, _index: Self::Ints) -> Self::Floats {
        unreachable!("an instruction set that permutes floats")
    }
    /// Adds four products to each lane of `sum`: the four codes of the lane times the four signed bytes of
    /// `activations`. The codes are unsigned unless [`SimdInt8::BIAS`] is 0.
    fn dot(self, sum: Self::Ints, codes: Self::Ints, activations: i32) -> Self::Ints;
    /// Divides each 32-bit lane by sixteen. Every lane must be a multiple of sixteen.
    fn divide_by_16(self, a: Self::Ints) -> Self::Ints;
    /// Shifts each 32-bit lane to the right by `bits` bits, and fills with zeros.
    fn shift_right_32(self, a: Self::Ints, bits: u32) -> Self::Ints;
    fn add(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// Loads one signed byte per row and converts it to 32 bits.
    ///
    /// # Safety
    /// `ROWS` bytes are readable at `at`.
    unsafe fn load_i8(self, at: *const u8) -> Self::Ints;
    /// Loads one unsigned byte per row and converts it to 32 bits.
    ///
    /// # Safety
    /// `ROWS` bytes are readable at `at`.
    unsafe fn load_u8(self, at: *const u8) -> Self::Ints;
    /// Converts each 32-bit integer to a float.
    fn to_floats(self, a: Self::Ints) -> Self::Floats;
    /// Returns a vector with `x` in every lane.
    fn splat_float(self, x: f32) -> Self::Floats;
    /// Loads one `f16` per row and converts it to `f32`.
    ///
    /// # Safety
    /// `2 * ROWS` bytes are readable at `at`.
    unsafe fn load_f16(self, at: *const u8) -> Self::Floats;
    /// Loads one `bf16` per row and converts it to `f32`.
    ///
    /// # Safety
    /// `2 * ROWS` bytes are readable at `at`.
    unsafe fn load_bf16(self, at: *const u8) -> Self::Floats;
    fn multiply(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn negate(self, a: Self::Floats) -> Self::Floats;
    /// Returns a · b + c with one rounding.
    fn multiply_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Returns the floats of all lanes. If a panel has fewer than sixteen rows, zeros follow.
    fn to_array(self, a: Self::Floats) -> [f32; ROWS];
    /// Loads one float per row.
    ///
    /// # Safety
    /// `ROWS` floats are readable at `at`.
    unsafe fn load_floats(self, at: *const f32) -> Self::Floats;
    /// Stores one float per row.
    ///
    /// # Safety
    /// `ROWS` floats are writable at `at`, and no other thread accesses these floats during the call.
    unsafe fn store_floats(self, a: Self::Floats, at: *mut f32);
}
