//! Compares every format with a second decoder. The second decoder is written element by element from the bit maps in
//! `docs/format`, and it has its own conversion of half-precision values. Codebooks come from
//! `tests/golden/formats/codebooks.json`. It is slow and shares no code with the crate.

use kvant_core::format::FORMATS;
use proptest::prelude::*;
use std::sync::LazyLock;

/// Converts an IEEE 754 binary16 value, by its definition.
fn half(block: &[u8], at: usize) -> f32 {
    let bits = u16::from_le_bytes([block[at], block[at + 1]]);
    let sign = if bits >> 15 == 1 { -1.0f64 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    (sign * magnitude) as f32
}

/// Returns the four-bit code of element `i` of 32 elements. They are stored in 16 bytes from `at` on.
fn nibble(block: &[u8], at: usize, i: usize) -> i32 {
    i32::from(if i < 16 { block[at + i] & 15 } else { block[at + i - 16] >> 4 })
}

fn bit(block: &[u8], at: usize, i: usize) -> i32 {
    i32::from(block[at + i / 8] >> (i % 8) & 1)
}

/// Returns the four-bit code of element `i` of 256 elements. Each 64 elements are stored in 32 bytes, from `at` on.
fn k_nibble(block: &[u8], at: usize, i: usize) -> i32 {
    let byte = block[at + i / 64 * 32 + i % 32];
    i32::from(if i % 64 < 32 { byte & 15 } else { byte >> 4 })
}

/// Returns the scale and the minimum of group `g` of `q4_k` and `q5_k`. Each one is stored in six bits.
fn k_scale(block: &[u8], g: usize) -> (f32, f32) {
    let s = |j: usize| u32::from(block[4 + j]);
    let (scale, min) = if g < 4 {
        (s(g) % 64, s(g + 4) % 64)
    } else {
        (s(g + 4) % 16 + s(g - 4) / 64 * 16, s(g + 4) / 16 + s(g) / 64 * 16)
    };
    (scale as f32, min as f32)
}

/// Returns the two-bit code of element `i` of 256 elements. Each 128 elements are stored in 32 bytes, from `at` on.
fn k_pair(block: &[u8], at: usize, i: usize) -> i32 {
    i32::from(block[at + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3)
}

/// Returns `count` bits from bit `first` on, counted from byte `at`.
fn bits(block: &[u8], at: usize, first: usize, count: usize) -> usize {
    (0..count).map(|i| (bit(block, at, first + i) as usize) << i).sum()
}

/// Returns the value of an E2M1 code. It has one sign bit, two exponent bits and one mantissa bit. With exponent 0 the
/// value is subnormal.
fn e2m1(code: i32) -> f64 {
    let (exponent, mantissa) = (code >> 1 & 3, f64::from(code & 1));
    let magnitude =
        if exponent == 0 { mantissa / 2.0 } else { (1.0 + mantissa / 2.0) * 2f64.powi(exponent - 1) };
    if code < 8 || magnitude == 0.0 { magnitude } else { -magnitude }
}

static CODEBOOKS: LazyLock<serde_json::Value> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/formats/codebooks.json");
    serde_json::from_slice(&std::fs::read(path).expect(path)).expect("JSON")
});

/// Returns value `j` of point `index` of a codebook.
fn level(codebook: &str, index: usize, j: usize) -> f32 {
    let codebook = &CODEBOOKS[codebook];
    let digit = codebook["points"][index].as_str().expect("a point").as_bytes()[j] - b'0';
    codebook["levels"][usize::from(digit)].as_i64().expect("a level") as f32
}

/// Returns the value of element `i` of the `iq2` and `iq3` formats from its scale, its level, and its sign bit.
fn signed(scale: f32, level: f32, negative: bool) -> f32 {
    scale * level * if negative { -1.0 } else { 1.0 }
}

/// Returns the sign bit `j` of eight. The first seven are stored from bit `first` on; the number of set bits is even.
fn even_sign(block: &[u8], at: usize, first: usize, j: usize) -> bool {
    let seven = bits(block, at, first, 7);
    if j < 7 { seven >> j & 1 == 1 } else { seven.count_ones() % 2 == 1 }
}

const UNEVEN: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// Returns the value of element `i` of a block. The order of the operations is part of the format.
fn value(format: &str, block: &[u8], i: usize) -> f32 {
    match format {
        "f32" => f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
        "f16" => half(block, 0),
        "bf16" => f32::from_le_bytes([0, 0, block[0], block[1]]),
        "q8_0" => half(block, 0) * f32::from(block[2 + i] as i8),
        "q4_0" => half(block, 0) * (nibble(block, 2, i) - 8) as f32,
        "q4_1" => half(block, 0) * nibble(block, 4, i) as f32 + half(block, 2),
        "q5_0" => half(block, 0) * (nibble(block, 6, i) + 16 * bit(block, 2, i) - 16) as f32,
        "q5_1" => half(block, 0) * (nibble(block, 8, i) + 16 * bit(block, 4, i)) as f32 + half(block, 2),
        "iq4_nl" => half(block, 0) * UNEVEN[nibble(block, 2, i) as usize],
        "mxfp4" => (e2m1(nibble(block, 1, i)) * 2f64.powi(i32::from(block[0]) - 127)) as f32,
        "q4_k" => {
            let (scale, min) = k_scale(block, i / 32);
            half(block, 0) * scale * k_nibble(block, 16, i) as f32 - half(block, 2) * min
        }
        "q5_k" => {
            let (scale, min) = k_scale(block, i / 32);
            let code = k_nibble(block, 48, i) + 16 * i32::from(block[16 + i % 32] >> (i / 32) & 1);
            half(block, 0) * scale * code as f32 - half(block, 2) * min
        }
        "q6_k" => {
            let (part, i_in_part) = (i / 128, i % 128);
            let low = block[64 * part + i_in_part % 64] >> (i_in_part / 64 * 4) & 15;
            let high = block[128 + 32 * part + i_in_part % 32] >> (i_in_part / 32 * 2) & 3;
            let code = i32::from(low) + 16 * i32::from(high) - 32;
            half(block, 208) * f32::from(block[192 + i / 16] as i8) * code as f32
        }
        "iq4_xs" => {
            let g = i / 32;
            let scale = i32::from(block[4 + g / 2] >> (g % 2 * 4) & 15)
                + 16 * (2 * bit(block, 2, 2 * g + 1) + bit(block, 2, 2 * g))
                - 32;
            half(block, 0) * scale as f32 * UNEVEN[nibble(block, 8 + 16 * g, i % 32) as usize]
        }
        "q2_k" => {
            let stored = block[i / 16];
            half(block, 80) * f32::from(stored % 16) * k_pair(block, 16, i) as f32
                - half(block, 82) * f32::from(stored / 16)
        }
        "q3_k" => {
            let g = i / 16;
            let scale =
                bits(block, 96, g % 8 * 8 + g / 8 * 4, 4) + 16 * bits(block, 104, g % 4 * 8 + g / 4 * 2, 2);
            let code = k_pair(block, 32, i) + 4 * i32::from(block[i % 32] >> (i / 32) & 1);
            half(block, 108) * (scale as f32 - 32.0) * (code - 4) as f32
        }
        "q1_0" => half(block, 0) * if bit(block, 2, i) == 1 { 1.0 } else { -1.0 },
        "q2_0" => half(block, 0) * (bits(block, 2, 2 * i, 2) as f32 - 1.0),
        "tq1_0" => {
            let (byte, digit) = match i {
                0..160 => (i % 32, i / 32),
                160..240 => (32 + i % 16, (i - 160) / 16),
                _ => (48 + i % 4, (i - 240) / 4),
            };
            // The digits of the fraction byte / 256 in base 3.
            let code = u32::from(block[byte]) * 3u32.pow(digit as u32 + 1) / 256 % 3;
            half(block, 52) * (code as f32 - 1.0)
        }
        "tq2_0" => half(block, 64) * (k_pair(block, 0, i) - 1) as f32,
        "nvfp4" => {
            let stored = i32::from(block[i / 16]);
            let (exponent, mantissa) = (stored / 8 % 16, f64::from(stored % 8));
            let scale = match exponent {
                _ if stored == 0x7f => 0.0,
                0 => mantissa / 8.0 * 2f64.powi(-6),
                _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
            };
            let byte = block[4 + i / 16 * 8 + i % 8];
            (e2m1(i32::from(if i % 16 < 8 { byte & 15 } else { byte >> 4 })) * scale) as f32
        }
        "iq1_s" => {
            let (g, point) = (i / 32, i / 8);
            let at = 34 + 2 * g;
            let index = usize::from(block[2 + point]) + 256 * bits(block, at, point % 4 * 3, 3);
            let shift = if bit(block, at, 15) == 1 { -0.125 } else { 0.125 };
            half(block, 0) * (2 * bits(block, at, 12, 3) + 1) as f32 * (level("iq1_s", index, i % 8) + shift)
        }
        "iq1_m" => {
            let (g, point) = (i / 16, i / 8);
            let index = usize::from(block[point]) + 256 * bits(block, 32, 4 * point, 3);
            let shift = if bit(block, 32, 4 * point + 3) == 1 { -0.125 } else { 0.125 };
            let d: usize = (0..4).map(|n| bits(block, 48, 16 * n + 12, 4) << (4 * n)).sum();
            let scale = 2 * bits(block, 48, g / 4 * 16 + g % 4 * 3, 3) + 1;
            half(&(d as u16).to_le_bytes(), 0) * scale as f32 * (level("iq1_s", index, i % 8) + shift)
        }
        "iq2_xxs" => {
            let (at, point) = (2 + i / 32 * 8, i / 8 % 4);
            let scale = half(block, 0) * (0.5 + bits(block, at + 4, 28, 4) as f32) * 0.25;
            let negative = even_sign(block, at + 4, 7 * point, i % 8);
            signed(scale, level("iq2_xxs", usize::from(block[at + point]), i % 8), negative)
        }
        "iq2_xs" => {
            let scale = half(block, 0) * (0.5 + bits(block, 66, i / 16 * 4, 4) as f32) * 0.25;
            let index = bits(block, 2, i / 8 * 16, 9);
            signed(scale, level("iq2_xs", index, i % 8), even_sign(block, 2, i / 8 * 16 + 9, i % 8))
        }
        "iq2_s" => {
            let scale = half(block, 0) * (0.5 + bits(block, 74, i / 16 * 4, 4) as f32) * 0.25;
            let index = usize::from(block[2 + i / 8]) + 256 * bits(block, 66, i / 8 * 2, 2);
            signed(scale, level("iq2_s", index, i % 8), bit(block, 34, i) == 1)
        }
        "iq3_xxs" => {
            let at = 66 + i / 32 * 4;
            let scale = half(block, 0) * (0.5 + bits(block, at, 28, 4) as f32) * 0.5;
            let negative = even_sign(block, at, i / 8 % 4 * 7, i % 8);
            signed(scale, level("iq3_xxs", usize::from(block[2 + i / 4]), i % 4), negative)
        }
        "iq3_s" => {
            let scale = half(block, 0) * (2 * bits(block, 106, i / 32 * 4, 4) + 1) as f32;
            let index = usize::from(block[2 + i / 4]) + 256 * bits(block, 66, i / 4, 1);
            signed(scale, level("iq3_s", index, i % 4), bit(block, 74, i) == 1)
        }
        name => panic!("no oracle for {name}: a new format needs one here"),
    }
}

#[test]
fn half_precision_is_read_as_the_crate_reads_it() {
    let format = kvant_core::format::by_name("f16").unwrap();
    for bits in 0..=u16::MAX {
        let mut found = [0.0];
        format.decode(&bits.to_le_bytes(), &mut found);
        let expected = half(&bits.to_le_bytes(), 0);
        assert!(
            found[0].to_bits() == expected.to_bits() || found[0].is_nan() && expected.is_nan(),
            "{bits:#x}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// All bytes can be decoded, and give the values of the bit map.
    #[test]
    fn decode_equals_the_oracle(bytes in prop::collection::vec(any::<u8>(), 4 * 256)) {
        for format in FORMATS {
            let block = format.block();
            let count = bytes.len() / block.bytes;
            let bytes = &bytes[..count * block.bytes];
            let mut found = vec![0.0; count * block.elements];
            format.decode(bytes, &mut found);
            for (at, found) in found.iter().enumerate() {
                let (index, i) = (at / block.elements, at % block.elements);
                let expected = value(format.name(), &bytes[index * block.bytes..][..block.bytes], i);
                prop_assert!(
                    found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                    "{} block {index} element {i}: expected {expected:e}, found {found:e}",
                    format.name()
                );
            }
        }
    }
}
