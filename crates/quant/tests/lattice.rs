//! Weights that are on the lattice of a format (all values that a block can represent with one scale) are stored
//! unchanged. All other weights are rejected.

use half::{bf16, f16};
use kvant_core::format::{self, BF16, F16, F32};
use kvant_core::{Codes, FormatRef};
use kvant_quant::Lattice;

const SOURCES: [FormatRef; 3] = [&F32, &F16, &BF16];

/// SplitMix64: a simple generator is random enough for these tests.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u32) -> u32 {
        (self.word() >> 32) as u32 % n
    }

    /// A value from 0 to 1.
    fn uniform(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1u32 << 24) as f32
    }

    fn gaussian(&mut self) -> f32 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
    }

    /// A positive `f16` value between `low` and `high`, with a uniform logarithm.
    fn half(&mut self, low: f32, high: f32) -> f32 {
        f16::from_f32(low * (high / low).powf(self.uniform())).to_f32()
    }
}

fn rounded(x: f32, from: FormatRef) -> f32 {
    match from.name() {
        "f16" => f16::from_f32(x).to_f32(),
        "bf16" => bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

fn half_step(x: f32) -> f32 {
    let power = f32::from_bits(x.to_bits() & 0x7f80_0000);
    (power / 2048.0).max(1.0 / (1 << 25) as f32)
}

/// Returns the codes and values of a block that was carried over, or `None` if it was rejected.
fn carried(x: &[f32], from: FormatRef, format: FormatRef) -> Option<(Codes, Vec<f32>)> {
    let mut bytes = vec![0xa5; format.block().bytes];
    let lattice = Lattice::new(from, format).unwrap();
    if !lattice.transplant_block(x, &mut bytes) {
        assert!(bytes.iter().all(|&b| b == 0xa5), "a refused block is left alone");
        return None;
    }
    let mut codes = Codes::new(format.block());
    format.grid().unwrap().unpack(&bytes, &mut codes);
    let mut values = vec![0.0; x.len()];
    format.decode(&bytes, &mut values);
    Some((codes, values))
}

fn assert_exact(x: &[f32], from: FormatRef, format: FormatRef, what: &str) -> Codes {
    let Some((codes, values)) = carried(x, from, format) else {
        panic!("{} to {}: {what}: refused {x:?}", from.name(), format.name());
    };
    for (&x, v) in x.iter().zip(values) {
        assert_eq!(rounded(v, from), x, "{} to {}: {what}: stored {v}", from.name(), format.name());
    }
    codes
}

fn divisor(a: i32, b: i32) -> i32 {
    if b == 0 { a.abs() } else { divisor(b, a % b) }
}

/// Returns integers from −8 to 7 without a common divisor. At least one of them is −8, −7 or 7.
fn integers(random: &mut Random) -> [i32; 32] {
    loop {
        let narrow = random.below(4) == 0;
        let integers: [i32; 32] = std::array::from_fn(|_| {
            if narrow { [-7, 0, 5, 7][random.below(4) as usize] } else { random.below(16) as i32 - 8 }
        });
        let ends = integers.iter().any(|n| [-8, -7, 7].contains(n));
        if ends && integers.iter().copied().fold(0, divisor) == 1 {
            return integers;
        }
    }
}

#[test]
fn q4_0_is_recovered_for_every_scale() {
    let mut random = Random(1);
    for exponent in 1..31u16 {
        let ends = [0, 1, 0x155, 0x2aa, 0x3fe, 0x3ff];
        let mantissas: Vec<u16> =
            ends.into_iter().chain((0..40).map(|_| random.below(1024) as u16)).collect();
        for mantissa in mantissas {
            for sign in [0, 0x8000] {
                let d = f16::from_bits(sign | exponent << 10 | mantissa).to_f32();
                let integers = integers(&mut random);
                for from in SOURCES {
                    let x = integers.map(|n| rounded(d * n as f32, from));
                    if x.iter().any(|x| x.is_infinite()) {
                        continue;
                    }
                    let found = assert_exact(&x, from, &format::Q4_0, &format!("d {d}"));
                    // Without −8 both signs of the scale are possible, and the positive one is chosen.
                    let mirrored = d < 0.0 && !integers.contains(&-8);
                    let expected = integers.map(|n| (8 + if mirrored { -n } else { n }) as u8);
                    assert_eq!(found.codes, expected, "{} d {d}", from.name());
                    if from == &F32 as FormatRef {
                        assert_eq!(found.d, if mirrored { -d } else { d });
                    }
                }
            }
        }
    }
}

#[test]
fn q4_0_with_a_common_divisor_or_without_ends_keeps_its_values() {
    let mut random = Random(2);
    for round in 0..20_000 {
        let d = random.half(6.2e-5, 6e4) * [1.0, -1.0][random.below(2) as usize];
        let (factor, most) = [(2, 3), (3, 2), (4, 1), (1, 6), (1, 1), (7, 1), (5, 1)][round % 7];
        let integers: [i32; 32] =
            std::array::from_fn(|_| factor * (random.below(2 * most + 1) as i32 - most as i32));
        for from in SOURCES {
            let x = integers.map(|n| rounded(d * n as f32, from));
            if x.iter().all(|x| x.is_finite()) {
                assert_exact(&x, from, &format::Q4_0, "no ends");
            }
        }
    }
}

#[test]
fn q4_0_takes_the_nearest_scale_if_the_scale_is_not_an_f16_value() {
    let mut random = Random(3);
    let mut carried_over = 0;
    const ROUNDS: usize = 20_000;
    for _ in 0..ROUNDS {
        let d = (1e-4 * 1e4f32.powf(random.uniform())) * [1.0, -1.0][random.below(2) as usize];
        let integers = integers(&mut random);
        let x = integers.map(|n| d * n as f32);
        let stored = f16::from_f32(d).to_f32();
        let near = integers.iter().zip(x).all(|(&n, x)| (stored * n as f32 - x).abs() <= half_step(x));
        let found = carried(&x, &F32, &format::Q4_0);
        assert_eq!(found.is_some(), near, "d {d}");
        let Some((codes, values)) = found else { continue };
        let mirrored = d < 0.0 && !integers.contains(&-8);
        assert_eq!(codes.codes, integers.map(|n| (8 + if mirrored { -n } else { n }) as u8));
        assert_eq!(codes.d, if mirrored { -stored } else { stored });
        assert!(values.iter().zip(x).all(|(v, x)| (v - x).abs() <= half_step(x)));
        carried_over += 1;
    }
    println!("scales that are no f16: {carried_over} of {ROUNDS} carried over");
    assert!(carried_over > ROUNDS / 2);
}

#[test]
fn an_f32_block_off_the_lattice_by_more_than_a_thousandth_is_rejected() {
    let mut random = Random(4);
    for _ in 0..2_000 {
        let d = random.half(1e-4, 1e-1) * 1.0001;
        let mut x = integers(&mut random).map(|n| d * n as f32);
        x[5] = d * (3.0 + 2e-3);
        assert!(carried(&x, &F32, &format::Q4_0).is_none());
        // Two different values are always on a lattice.
        let two = std::array::from_fn::<f32, 32, _>(|i| if i % 3 == 0 { 0.0 } else { d * 1.1 });
        if let Some((_, values)) = carried(&two, &F32, &format::Q4_0) {
            assert_eq!(values, two);
        }
    }
}

#[test]
fn f16_values_stored_as_f32_are_recognized() {
    let mut random = Random(5);
    for _ in 0..5_000 {
        let d = random.half(1e-3, 1e3);
        let integers = integers(&mut random);
        let x = integers.map(|n| rounded(d * n as f32, &F16));
        let (codes, values) = carried(&x, &F32, &format::Q4_0).expect("carried over");
        assert_eq!(codes.codes, integers.map(|n| (8 + n) as u8));
        assert!(values.iter().zip(x).all(|(&v, x)| rounded(v, &F16) == x));
    }
}

/// Returns random codes. A block uses all codes of the format, or only a few, two or one of them.
fn codes(random: &mut Random, count: u32, elements: usize) -> Vec<u8> {
    let kinds = [count, count, 5, 3, 2, 1][random.below(6) as usize];
    let some: Vec<u8> = (0..kinds).map(|_| random.below(count) as u8).collect();
    let all = kinds == count;
    (0..elements)
        .map(|_| if all { random.below(count) as u8 } else { some[random.below(kinds) as usize] })
        .collect()
}

#[test]
fn affine_blocks_keep_their_values() {
    let mut random = Random(6);
    for format in [&format::Q4_1 as FormatRef, &format::Q5_1] {
        let count = format.grid().unwrap().levels().count() as u32;
        for round in 0..60_000 {
            let d = random.half(1e-4, 1e-1);
            let m = match round % 5 {
                0 => random.half(1e-5, 1.0) * [1.0, -1.0][random.below(2) as usize],
                1 => 0.0,
                2 => random.half(1e-7, 6e4) * [1.0, -1.0][random.below(2) as usize],
                _ => f16::from_f32(-d * count as f32 * (0.4 + 0.2 * random.uniform())).to_f32(),
            };
            let codes = codes(&mut random, count, 32);
            for from in SOURCES {
                // If the source type has too few bits to distinguish neighbouring codes, not every block can be carried
                // over.
                let most = if from == &BF16 as FormatRef { 16.0 } else { 1e6 };
                if m.abs() > most * d {
                    continue;
                }
                let x: Vec<f32> = codes.iter().map(|&c| rounded(f32::from(c) * d + m, from)).collect();
                let found = assert_exact(&x, from, format, &format!("d {d:e} m {m:e}"));
                let full = codes.contains(&0) && codes.contains(&(count as u8 - 1));
                let clear = m.abs() < 1e4 * d && from == &F32 as FormatRef;
                if full && clear {
                    assert_eq!((found.codes, found.d, found.dmin), (codes.clone(), d, -m));
                }
            }
        }
    }
}

#[test]
fn affine_blocks_take_the_nearest_scale_if_the_scale_is_not_an_f16_value() {
    let mut random = Random(11);
    let mut carried_over = 0;
    for _ in 0..5_000 {
        let d = 1e-4 * 1e3f32.powf(random.uniform());
        let integers: [u8; 32] =
            std::array::from_fn(|i| if i < 16 { i as u8 } else { random.below(16) as u8 });
        let x = integers.map(|n| d * (f32::from(n) - 8.0));
        let Some((codes, values)) = carried(&x, &F32, &format::Q4_1) else { continue };
        assert_eq!((&codes.codes[..], codes.d), (&integers[..], f16::from_f32(d).to_f32()));
        assert!(values.iter().zip(x).all(|(v, x)| (v - x).abs() <= half_step(x)));
        carried_over += 1;
    }
    println!("minima that are no f16: {carried_over} of 5000 carried over");
    assert!(carried_over > 2_500);
}

/// Returns the decoded values of a block with random codes and scales.
fn stored_block(format: FormatRef, random: &mut Random) -> Vec<f32> {
    let grid = format.grid().unwrap();
    let block = format.block();
    let mut found = Codes::new(block);
    let count = grid.levels().count() as u32;
    for group in found.codes.chunks_mut(block.group) {
        group.copy_from_slice(&codes(random, count, block.group));
    }
    found.d = grid.stored(random.half(1e-4, 1e-1));
    let affine = matches!(grid.levels(), kvant_core::Levels::Linear { offset: 0, .. });
    if affine {
        found.dmin = grid.stored(found.d * 32.0 * (random.uniform() - 0.5));
    }
    found.scales.fill(1);
    found.mins.fill(i16::from(affine));
    let mut bytes = vec![0; block.bytes];
    grid.pack(&found, &mut bytes);
    let mut values = vec![0.0; block.elements];
    format.decode(&bytes, &mut values);
    values
}

#[test]
fn every_format_with_one_scale_per_block_recovers_its_stored_values() {
    let mut random = Random(7);
    for name in ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4"] {
        let format = format::by_name(name).unwrap();
        for _ in 0..4_000 {
            let x = stored_block(format, &mut random);
            for from in SOURCES {
                let rounded: Vec<f32> = x.iter().map(|&x| rounded(x, from)).collect();
                assert_exact(&rounded, from, format, name);
            }
        }
    }
}

/// Returns normally distributed weights, encoded by the format's encoder and decoded.
fn encoded(format: FormatRef, random: &mut Random) -> Vec<f32> {
    let block = format.block();
    let scale = random.half(1e-3, 1e-1);
    let x: Vec<f32> = (0..block.elements).map(|_| random.gaussian() * scale).collect();
    let mut bytes = vec![0; block.bytes];
    format.encoder().unwrap().encode(&x, None, &mut bytes);
    let mut values = vec![0.0; block.elements];
    format.decode(&bytes, &mut values);
    values
}

#[test]
fn superblocks_recover_their_stored_values() {
    let mut random = Random(8);
    for name in ["q4_k", "q5_k", "q6_k", "iq4_xs"] {
        let format = format::by_name(name).unwrap();
        for from in SOURCES {
            for _ in 0..500 {
                let x: Vec<f32> = encoded(format, &mut random).iter().map(|&x| rounded(x, from)).collect();
                assert_exact(&x, from, format, name);
            }
        }
    }
}

#[test]
fn superblocks_accept_one_scale_for_all_groups() {
    let mut random = Random(9);
    for name in ["q4_k", "q5_k", "q6_k"] {
        let format = format::by_name(name).unwrap();
        for from in SOURCES {
            for _ in 0..200 {
                let d = random.half(1e-3, 1e-1);
                let x: Vec<f32> =
                    (0..256).map(|_| rounded(d * (random.below(16) as f32 - 8.0), from)).collect();
                assert_exact(&x, from, format, name);
            }
        }
    }
}

#[test]
fn gaussian_weights_are_rejected() {
    let mut random = Random(10);
    for format in format::FORMATS.iter().filter(|f| f.grid().is_some()) {
        let elements = format.block().elements;
        for from in SOURCES {
            let lattice = Lattice::new(from, *format).unwrap();
            let mut block = vec![0; format.block().bytes];
            for _ in 0..100_000 * 32 / elements {
                let scale = 0.02 * (1.0 + random.uniform());
                let x: Vec<f32> = (0..elements).map(|_| rounded(random.gaussian() * scale, from)).collect();
                assert!(!lattice.transplant_block(&x, &mut block), "{} {x:?}", format.name());
            }
        }
    }
}

#[test]
fn zeros_are_carried_over_and_values_that_are_not_finite_are_not() {
    for format in format::FORMATS.iter().filter(|f| f.grid().is_some()) {
        for from in SOURCES {
            let mut x = vec![0.0; format.block().elements];
            x[1] = -0.0;
            assert_exact(&x, from, *format, "zeros");
            for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40] {
                x[3] = special;
                if let Some((_, values)) = carried(&x, from, *format) {
                    assert_eq!(rounded(values[3], from), special);
                }
            }
        }
    }
}

#[test]
fn rows_report_each_block() {
    let good: Vec<f32> = (0..32).map(|i| 0.5 * ((i % 16) as f32 - 8.0)).collect();
    let bad: Vec<f32> = (0..32).map(|i| (i as f32).sin()).collect();
    let lattice = Lattice::new(&F32, &format::Q4_0).unwrap();
    let mut bytes = vec![0; 4 * 18];
    let rows = [&good[..], &bad, &bad, &good].concat();
    assert_eq!(lattice.transplant(&rows, &mut bytes), [true, false, false, true]);
    assert!(Lattice::new(&format::Q4_0, &format::Q4_0).is_none());
    assert!(Lattice::new(&F32, &F16).is_none());
}
