//! An implementation of [`SimdInt8`] for any processor. Tests use it to check the vector code on processors that lack
//! the vector instructions.

use super::simd::SimdInt8;
use crate::cpu::codes::layout::ROWS;
use std::array::from_fn;

/// Vectors of `N` lanes as arrays. Each method returns the same result as the vector instruction.
#[derive(Clone, Copy)]
pub(crate) struct Portable<const N: usize>;

fn lane_bytes<const N: usize>(a: [i32; N]) -> [[u8; 4]; N] {
    a.map(i32::to_le_bytes)
}

/// Applies `f` to the two 16-bit halves of each lane.
fn map_16_bit<const N: usize>(a: [i32; N], f: impl Fn(u16) -> u16) -> [i32; N] {
    a.map(|a| {
        let a = a.cast_unsigned();
        (u32::from(f(a as u16)) | u32::from(f((a >> 16) as u16)) << 16).cast_signed()
    })
}

impl<const N: usize> SimdInt8 for Portable<N> {
    type Ints = [i32; N];
    type Floats = [f32; N];
    const ROWS: usize = N;
    const BIAS: i16 = 128;
    const PERMUTES_FLOATS: bool = N == 16;

    unsafe fn load(self, at: *const u8) -> [i32; N] {
        // SAFETY: the caller guarantees that `4 * N` bytes are readable at `at`.
        from_fn(|i| unsafe { at.add(4 * i).cast::<i32>().read_unaligned() })
    }
    fn splat(self, x: i32) -> [i32; N] {
        [x; N]
    }
    fn level_table(self, table: &[u8; 16]) -> [i32; N] {
        from_fn(|i| i32::from_le_bytes(from_fn(|b| table[(4 * i + b) % 16])))
    }
    fn and(self, a: [i32; N], b: [i32; N]) -> [i32; N] {
        from_fn(|i| a[i] & b[i])
    }
    fn or(self, a: [i32; N], b: [i32; N]) -> [i32; N] {
        from_fn(|i| a[i] | b[i])
    }
    fn xor(self, a: [i32; N], b: [i32; N]) -> [i32; N] {
        from_fn(|i| a[i] ^ b[i])
    }
    fn shift_right_16<const BITS: u32>(self, a: [i32; N]) -> [i32; N] {
        map_16_bit(a, |half| half >> BITS)
    }
    fn shift_left_16<const BITS: u32>(self, a: [i32; N]) -> [i32; N] {
        map_16_bit(a, |half| half << BITS)
    }
    fn lookup(self, table: [i32; N], index: [i32; N]) -> [i32; N] {
        let (table, index) = (lane_bytes(table), lane_bytes(index));
        // Like the instruction, each look-up reads only the sixteen table bytes of its own group of four lanes.
        from_fn(|i| {
            i32::from_le_bytes(from_fn(|b| {
                let at = index[i][b];
                let source = i / 4 * 16 + usize::from(at & 15);
                if at & 0x80 == 0 { table[source / 4][source % 4] } else { 0 }
            }))
        })
    }
    fn permute_floats(self, table: [f32; N], index: [i32; N]) -> [f32; N] {
        index.map(|index| table[(index & 15) as usize])
    }
    fn dot(self, sum: [i32; N], codes: [i32; N], activations: i32) -> [i32; N] {
        let (codes, x) = (lane_bytes(codes), activations.to_le_bytes());
        from_fn(|i| {
            let products = (0..4).map(|b| i32::from(codes[i][b]) * i32::from(x[b].cast_signed()));
            sum[i] + products.sum::<i32>()
        })
    }
    fn divide_by_16(self, a: [i32; N]) -> [i32; N] {
        a.map(|a| a / 16)
    }
    fn shift_right_32(self, a: [i32; N], bits: u32) -> [i32; N] {
        a.map(|a| (a.cast_unsigned() >> bits).cast_signed())
    }
    fn add(self, a: [i32; N], b: [i32; N]) -> [i32; N] {
        from_fn(|i| a[i] + b[i])
    }
    unsafe fn load_i8(self, at: *const u8) -> [i32; N] {
        // SAFETY: the caller guarantees that `N` bytes are readable at `at`.
        from_fn(|i| i32::from(unsafe { at.add(i).read() }.cast_signed()))
    }
    unsafe fn load_u8(self, at: *const u8) -> [i32; N] {
        // SAFETY: the caller guarantees that `N` bytes are readable at `at`.
        from_fn(|i| i32::from(unsafe { at.add(i).read() }))
    }
    fn to_floats(self, a: [i32; N]) -> [f32; N] {
        a.map(|a| a as f32)
    }
    fn splat_float(self, x: f32) -> [f32; N] {
        [x; N]
    }
    unsafe fn load_f16(self, at: *const u8) -> [f32; N] {
        // SAFETY: the caller guarantees that `2 * N` bytes are readable at `at`.
        from_fn(|i| half::f16::from_bits(unsafe { at.cast::<u16>().add(i).read_unaligned() }).to_f32())
    }
    unsafe fn load_bf16(self, at: *const u8) -> [f32; N] {
        // SAFETY: the caller guarantees that `2 * N` bytes are readable at `at`.
        from_fn(|i| half::bf16::from_bits(unsafe { at.cast::<u16>().add(i).read_unaligned() }).to_f32())
    }
    fn multiply(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        from_fn(|i| a[i] * b[i])
    }
    fn negate(self, a: [f32; N]) -> [f32; N] {
        a.map(|a| -a)
    }
    fn multiply_add(self, a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    fn to_array(self, a: [f32; N]) -> [f32; ROWS] {
        from_fn(|i| a.get(i).copied().unwrap_or(0.0))
    }
    unsafe fn load_floats(self, at: *const f32) -> [f32; N] {
        // SAFETY: the caller guarantees that `N` floats are readable at `at`.
        from_fn(|i| unsafe { at.add(i).read() })
    }
    unsafe fn store_floats(self, a: [f32; N], at: *mut f32) {
        // SAFETY: the caller guarantees that `N` floats are writable at `at`, and that no other thread accesses them.
        a.into_iter().enumerate().for_each(|(i, a)| unsafe { at.add(i).write(a) });
    }
}
