//! What the products of integer codes need of an instruction set's vectors, for panels of eight and of sixteen rows.

use crate::cpu::codes::layout::ROWS;

/// The vectors of an instruction set: four bytes, an integer or a float for each row of a panel.
///
/// A value of such a type proves that the processor has the instruction set: only `unsafe` code makes one. So its methods are
/// safe, but for those that read or write through pointers.
pub(crate) trait SimdInt8: Copy {
    /// Integers of 32 bits, or four bytes in the place of each.
    type Ints: Copy;
    /// Floats.
    type Floats: Copy;
    /// Rows of a panel.
    const ROWS: usize;
    /// What is added to signed levels where [`SimdInt8::dot`] multiplies unsigned codes.
    const BIAS: i16;

    /// Loads four bytes a row.
    ///
    /// # Safety
    /// So many bytes lie there.
    unsafe fn load(self, at: *const u8) -> Self::Ints;
    /// One integer in every lane.
    fn splat(self, x: i32) -> Self::Ints;
    /// A table of sixteen bytes for [`SimdInt8::lookup`].
    fn level_table(self, bytes: &[u8; 16]) -> Self::Ints;
    fn and(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn or(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn xor(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// Shifts 16-bit lanes to the right.
    fn shift_right_16<const N: u32>(self, a: Self::Ints) -> Self::Ints;
    /// Shifts 16-bit lanes to the left.
    fn shift_left_16<const N: u32>(self, a: Self::Ints) -> Self::Ints;
    /// For each byte the byte of the table at that index.
    fn lookup(self, table: Self::Ints, index: Self::Ints) -> Self::Ints;
    /// sum + the products of four codes with four activations, in every lane.
    fn dot(self, sum: Self::Ints, codes: Self::Ints, activations: i32) -> Self::Ints;
    /// Divides multiples of sixteen by it.
    fn divide_by_16(self, a: Self::Ints) -> Self::Ints;
    /// Shifts 32-bit lanes to the right.
    fn shift_right_32(self, a: Self::Ints, bits: u32) -> Self::Ints;
    fn add(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// Loads a signed byte a row.
    ///
    /// # Safety
    /// So many bytes lie there.
    unsafe fn load_i8(self, at: *const u8) -> Self::Ints;
    /// Loads an unsigned byte a row.
    ///
    /// # Safety
    /// So many bytes lie there.
    unsafe fn load_u8(self, at: *const u8) -> Self::Ints;
    fn to_floats(self, a: Self::Ints) -> Self::Floats;
    /// One float in every lane.
    fn splat_float(self, x: f32) -> Self::Floats;
    /// Loads an `f16` a row.
    ///
    /// # Safety
    /// So many bytes lie there.
    unsafe fn load_f16(self, at: *const u8) -> Self::Floats;
    /// Loads a `bf16` a row.
    ///
    /// # Safety
    /// So many bytes lie there.
    unsafe fn load_bf16(self, at: *const u8) -> Self::Floats;
    fn multiply(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn negate(self, a: Self::Floats) -> Self::Floats;
    /// a · b + c with one rounding.
    fn multiply_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The floats, and zeros where a panel has fewer than sixteen rows.
    fn to_array(self, a: Self::Floats) -> [f32; ROWS];
    /// Loads a float a row.
    ///
    /// # Safety
    /// So many floats lie there.
    unsafe fn load_floats(self, at: *const f32) -> Self::Floats;
    /// Stores a float a row.
    ///
    /// # Safety
    /// There is room for so many, which nobody else reads or writes meanwhile.
    unsafe fn store_floats(self, a: Self::Floats, at: *mut f32);
}
