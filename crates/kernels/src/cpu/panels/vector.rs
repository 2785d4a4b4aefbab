//! What `quads.rs` asks of vectors of eight and of sixteen rows.

use super::ROWS;

/// A vector of an instruction set: four bytes, an integer or a number for each row.
///
/// Every function needs the instruction set; pointers must lead to as many bytes as they say.
pub(crate) trait Vector {
    type Integers: Copy;
    type Numbers: Copy;
    /// Rows of a panel.
    const ROWS: usize;
    /// What signed levels are stored higher by where codes have to be unsigned.
    const RAISE: i16;

    /// Four bytes a row.
    unsafe fn load(at: *const u8) -> Self::Integers;
    fn splat(x: i32) -> Self::Integers;
    /// Sixteen bytes, again and again.
    fn table(bytes: &[u8; 16]) -> Self::Integers;
    fn and(a: Self::Integers, b: Self::Integers) -> Self::Integers;
    fn or(a: Self::Integers, b: Self::Integers) -> Self::Integers;
    fn xor(a: Self::Integers, b: Self::Integers) -> Self::Integers;
    /// Bits of 16-bit halves, to the right.
    fn right<const N: u32>(a: Self::Integers) -> Self::Integers;
    /// Bits of 16-bit halves, to the left.
    fn left<const N: u32>(a: Self::Integers) -> Self::Integers;
    /// Bytes of the table.
    fn lookup(table: Self::Integers, index: Self::Integers) -> Self::Integers;
    /// sum + codes · four activations.
    fn dot(sum: Self::Integers, codes: Self::Integers, activations: i32) -> Self::Integers;
    /// Of a multiple of sixteen.
    fn sixteenth(a: Self::Integers) -> Self::Integers;
    /// Bits of each row's four bytes, to the right.
    fn shifted(a: Self::Integers, bits: u32) -> Self::Integers;
    fn add(a: Self::Integers, b: Self::Integers) -> Self::Integers;
    /// A signed byte a row.
    unsafe fn signed(at: *const u8) -> Self::Integers;
    /// An unsigned byte a row.
    unsafe fn unsigned(at: *const u8) -> Self::Integers;
    fn numbers(a: Self::Integers) -> Self::Numbers;
    fn number(x: f32) -> Self::Numbers;
    /// A half float a row.
    unsafe fn halves(at: *const u8) -> Self::Numbers;
    /// The upper half of a float a row.
    unsafe fn upper_halves(at: *const u8) -> Self::Numbers;
    fn multiply(a: Self::Numbers, b: Self::Numbers) -> Self::Numbers;
    fn negative(a: Self::Numbers) -> Self::Numbers;
    /// a · b + c.
    fn multiply_add(a: Self::Numbers, b: Self::Numbers, c: Self::Numbers) -> Self::Numbers;
    fn store(a: Self::Numbers) -> [f32; ROWS];
    /// A number a row.
    unsafe fn take(at: *const f32) -> Self::Numbers;
    /// A number a row.
    unsafe fn put(a: Self::Numbers, at: *mut f32);
}
