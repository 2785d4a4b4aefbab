//! The vector operations that products of integer codes need, for panels of eight and of sixteen rows.

use crate::cpu::codes::layout::ROWS;

/// The vectors of an instruction set. A lane holds four bytes, an integer or a float for one row of a panel.
///
/// A value of an implementing type proves that the processor has the instruction set, because only `unsafe` code
/// creates one. So the methods are safe, except those that read or write through pointers.
pub(crate) trait SimdInt8: Copy {
    /// A vector of 32-bit integers, or of four bytes per lane.
    type Ints: Copy;
    /// A vector of floats.
    type Floats: Copy;
    /// Rows of a panel, which is also the number of lanes.
    const ROWS: usize;
    /// The value that is added to signed levels, if [`SimdInt8::dot`] needs unsigned codes.
    const BIAS: i16;

    /// Loads four bytes per row.
    ///
    /// # Safety
    /// This number of bytes is readable at `at`.
    unsafe fn load(self, at: *const u8) -> Self::Ints;
    /// Returns a vector with `x` in every lane.
    fn splat(self, x: i32) -> Self::Ints;
    /// Returns a table of sixteen bytes for [`SimdInt8::lookup`].
    fn level_table(self, bytes: &[u8; 16]) -> Self::Ints;
    fn and(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn or(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn xor(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// Shifts 16-bit lanes to the right, and fills with zeros.
    fn shift_right_16<const N: u32>(self, a: Self::Ints) -> Self::Ints;
    /// Shifts 16-bit lanes to the left.
    fn shift_left_16<const N: u32>(self, a: Self::Ints) -> Self::Ints;
    /// Returns, for each byte of `index`, the byte of the table at this index.
    fn lookup(self, table: Self::Ints, index: Self::Ints) -> Self::Ints;
    /// Adds to `sum`, in every lane, the products of four codes with the four activations.
    fn dot(self, sum: Self::Ints, codes: Self::Ints, activations: i32) -> Self::Ints;
    /// Divides by sixteen; every lane is a multiple of sixteen.
    fn divide_by_16(self, a: Self::Ints) -> Self::Ints;
    /// Shifts 32-bit lanes to the right, and fills with zeros.
    fn shift_right_32(self, a: Self::Ints, bits: u32) -> Self::Ints;
    fn add(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// Loads a signed byte per row.
    ///
    /// # Safety
    /// This number of bytes is readable at `at`.
    unsafe fn load_i8(self, at: *const u8) -> Self::Ints;
    /// Loads an unsigned byte per row.
    ///
    /// # Safety
    /// This number of bytes is readable at `at`.
    unsafe fn load_u8(self, at: *const u8) -> Self::Ints;
    fn to_floats(self, a: Self::Ints) -> Self::Floats;
    /// Returns a vector with `x` in every lane.
    fn splat_float(self, x: f32) -> Self::Floats;
    /// Loads an `f16` per row.
    ///
    /// # Safety
    /// This number of bytes is readable at `at`.
    unsafe fn load_f16(self, at: *const u8) -> Self::Floats;
    /// Loads a `bf16` per row.
    ///
    /// # Safety
    /// This number of bytes is readable at `at`.
    unsafe fn load_bf16(self, at: *const u8) -> Self::Floats;
    fn multiply(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn negate(self, a: Self::Floats) -> Self::Floats;
    /// Returns a · b + c with one rounding.
    fn multiply_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Returns the floats, followed by zeros if a panel has fewer than sixteen rows.
    fn to_array(self, a: Self::Floats) -> [f32; ROWS];
    /// Loads a float per row.
    ///
    /// # Safety
    /// This number of floats is readable at `at`.
    unsafe fn load_floats(self, at: *const f32) -> Self::Floats;
    /// Stores a float per row.
    ///
    /// # Safety
    /// This number of floats is writable at `at`, and no other thread accesses them during the call.
    unsafe fn store_floats(self, a: Self::Floats, at: *mut f32);
}
