//! `q3_k`: 256 three-bit codes in sixteen groups of 16 with 6-bit scales. Read-only.
//!
//! ```text
//! byte 0..32     hmask   bit g of byte j is the high bit of code 32g + j
//! byte 32..96    qs      low 2 bits; for each 128 codes 32 bytes: byte j has those of j, j + 32, j + 64, j + 96
//! byte 96..104   scales  low 4 bits: group g in the low half of byte g, group g + 8 in the high half
//! byte 104..108  scales  high 2 bits: byte j has, from bit 0 up, those of groups j, j + 4, j + 8, j + 12
//! byte 108..110  d       f16                                            x = d · (scale − 32) · (code − 4)
//! ```
//!
//! Source: `block_q3_K`, `dequantize_row_q3_K`.

use super::{Block, Format, f16_at, quarters};

/// `q3_k`.
pub struct Q3K;

impl Format for Q3K {
    fn name(&self) -> &'static str {
        "q3_k"
    }

    fn block(&self) -> Block {
        Block { elements: 256, group: 16, bytes: 110 }
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        super::each_block::<110, 256>(
            src,
            dst,
            #[inline(always)]
            |block, out| {
                let d = f16_at(block, 108);
                let codes = unpack_codes(block);
                let groups = out.as_chunks_mut::<16>().0.iter_mut().zip(codes.as_chunks::<16>().0);
                for (group, (out, codes)) in groups.enumerate() {
                    let scale = d * f32::from(scale_at(block, group));
                    for (x, &code) in out.iter_mut().zip(codes) {
                        *x = scale * f32::from(code as i8 - 4);
                    }
                }
            },
        );
    }
}

#[inline(always)]
fn unpack_codes(block: &[u8; 110]) -> [u8; 256] {
    let mut codes = quarters::unpack(&block[32..96]);
    for (group, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, high) in codes.iter_mut().zip(&block[..32]) {
            *code |= (high >> group & 1) << 2;
        }
    }
    codes
}

/// Returns the scale of group `group`, from −32 to 31.
#[inline(always)]
fn scale_at(block: &[u8; 110], group: usize) -> i8 {
    let low = block[96 + group % 8] >> (4 * (group / 8)) & 15;
    let high = block[104 + group % 4] >> (2 * (group / 4)) & 3;
    (low | high << 4) as i8 - 32
}
