//! Panels on VNNI: `vpdpbusd` multiplies unsigned codes with signed activations, four to a lane, and adds them to sums of 32
//! bits, so that nothing can overflow. Signed levels go in 128 higher, which the activations' sum takes away again.
//! One body for vectors of eight rows (AVX-VNNI) and of sixteen (AVX-512).

use super::activations::Row;
use super::kinds::*;
use super::vector::{Eight, Sixteen, Vector};
use super::{Activations, CHUNK, Coding, Panel, Panels, ROWS, SHARING, Scheme, Sums};
use crate::cpu::AHEAD;
use crate::cpu::tokens::{Avx512, AvxVnni};
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// What makes a signed level unsigned.
const RAISE: i16 = 128;

/// As `plain::multiply`, eight rows a panel.
pub(crate) fn multiply_256(
    _token: AvxVnni,
    matrix: &Panels,
    panel: usize,
    x: &Activations,
    first: usize,
    sums: &mut Sums,
) {
    assert_eq!(matrix.kernel.rows(), Eight::ROWS, "rows of a panel");
    let mut at = 0;
    while at < sums.len() {
        macro_rules! put {
            ($tokens:literal) => {{
                let rows: [Row; $tokens] = std::array::from_fn(|t| x.row(first + at + t));
                // SAFETY: the token proves the features.
                let found = unsafe { dispatch_256(matrix, panel, rows) };
                sums[at..at + $tokens].copy_from_slice(&found);
                at += $tokens;
            }};
        }
        match sums.len() - at {
            1 => put!(1),
            2 | 3 => put!(2),
            _ => put!(4),
        }
    }
}

/// As `plain::multiply`, sixteen rows a panel.
pub(crate) fn multiply_512(
    _token: Avx512,
    matrix: &Panels,
    panel: usize,
    x: &Activations,
    first: usize,
    sums: &mut Sums,
) {
    assert_eq!(matrix.kernel.rows(), Sixteen::ROWS, "rows of a panel");
    let mut at = 0;
    while at < sums.len() {
        macro_rules! put {
            ($tokens:literal) => {{
                let rows: [Row; $tokens] = std::array::from_fn(|t| x.row(first + at + t));
                // SAFETY: the token proves the features.
                let found = unsafe { dispatch_512(matrix, panel, rows) };
                sums[at..at + $tokens].copy_from_slice(&found);
                at += $tokens;
            }};
        }
        match sums.len() - at {
            1 => put!(1),
            2 | 3 => put!(2),
            4..8 => put!(4),
            _ => put!(8),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn dispatch_256<const T: usize>(matrix: &Panels, panel: usize, rows: [Row; T]) -> [[f32; ROWS]; T] {
    dispatch::<Eight, T>(matrix, panel, rows)
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn dispatch_512<const T: usize>(matrix: &Panels, panel: usize, rows: [Row; T]) -> [[f32; ROWS]; T] {
    dispatch::<Sixteen, T>(matrix, panel, rows)
}

#[inline(always)]
fn dispatch<V: Vector, const T: usize>(matrix: &Panels, panel: usize, rows: [Row; T]) -> [[f32; ROWS]; T] {
    let (chunks, panel, coding) = (matrix.chunks(), matrix.panel(panel), matrix.coding);
    macro_rules! run {
        ($coding:ident, $scheme:ident) => {
            // SAFETY: a panel's parts and a row of activations have `chunks` chunks.
            unsafe { sums::<V, $coding, $scheme, T>(panel, chunks, rows, coding) }
        };
    }
    for_each_kind!(matrix, run)
}

#[inline(always)]
unsafe fn sums<V: Vector, const CODING: u8, const SCHEME: u8, const T: usize>(
    panel: Panel,
    chunks: usize,
    rows: [Row; T],
    coding: Coding,
) -> [[f32; ROWS]; T] {
    let vector = 4 * V::ROWS;
    let code_bytes = match CODING {
        FOUR | TABLE => 4 * vector,
        FIVE => 5 * vector,
        SIX => 6 * vector,
        _ => 8 * vector,
    };
    let scale_bytes = V::ROWS
        * match SCHEME {
            GROUPS => 1,
            AFFINE => 4,
            _ => 2,
        };
    let shared_bytes = if SCHEME == GROUPS_AFFINE { 4 * V::ROWS } else { 2 * V::ROWS };
    let table = match coding {
        Coding::Table(table) => table.map(|level| (i16::from(level) + RAISE) as u8),
        _ => [0; 16],
    };
    let (table, fifteen, raise) =
        (V::table(&table), V::splat(0x0f0f_0f0f), V::splat(0x8080_8080_u32.cast_signed()));
    // What the codes are larger by than the levels, where that is subtracted from the products.
    let offset = match (CODING, SCHEME) {
        (TABLE | BYTES, _) => RAISE,
        (_, BLOCK | POWER | HALF_GROUPS) => coding.offset(),
        _ => 0,
    };
    let mut totals = [V::number(0.0); T];
    let (mut d, mut e) = (V::number(0.0), V::number(0.0));
    let activations = rows.map(|row| row.codes.as_ptr());
    for chunk in 0..chunks {
        // SAFETY: the caller promises so many chunks in every part.
        let (codes, scales) = unsafe {
            (panel.codes.as_ptr().add(chunk * code_bytes), panel.scales.as_ptr().add(chunk * scale_bytes))
        };
        if matches!(SCHEME, GROUPS_AFFINE | GROUPS | HALF_GROUPS) && chunk % SHARING == 0 {
            // SAFETY: as above; eight chunks share these bytes.
            unsafe {
                let shared = panel.shared.as_ptr().add(chunk / SHARING * shared_bytes);
                d = V::halves(shared);
                if SCHEME == GROUPS_AFFINE {
                    e = V::halves(shared.add(2 * V::ROWS));
                }
            }
        }
        if T <= 2 {
            for line in (0..code_bytes).step_by(64) {
                // SAFETY: a hint alone: nothing is read, wherever it points.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD + line).cast()) };
            }
        }
        // SAFETY: inside the chunk's codes.
        let load = |at: usize| unsafe { V::load(codes.add(at * vector)) };
        let quad = |t: usize, q: usize| -> i32 {
            // SAFETY: a row of activations has `chunks` chunks of 32.
            unsafe { activations[t].add(chunk * CHUNK + 4 * q).cast::<i32>().read_unaligned() }
        };
        // Either half of the chunk: quads 0–3 and 4–7.
        let mut halves: [[V::Integers; 2]; T] = std::array::from_fn(|t| {
            if SCHEME == HALF_GROUPS {
                rows[t].sums[chunk].map(|sum| V::splat(-i32::from(offset) * i32::from(sum)))
            } else {
                [V::splat(rows[t].less(chunk, offset)), V::splat(0)]
            }
        });
        let high = if CODING == FIVE { load(4) } else { V::splat(0) };
        for v in 0..4 {
            let (low, upper) = match CODING {
                BYTES => (V::xor(load(v), raise), V::xor(load(v + 4), raise)),
                _ => {
                    let both = load(v);
                    (V::and(both, fifteen), V::and(V::right::<4>(both), fifteen))
                }
            };
            let (low, upper) = match CODING {
                TABLE => (V::lookup(table, low), V::lookup(table, upper)),
                FIVE => {
                    let bit = V::splat(0x1010_1010);
                    let (a, b) = match v {
                        0 => (V::left::<4>(high), high),
                        1 => (V::left::<3>(high), V::right::<1>(high)),
                        2 => (V::left::<2>(high), V::right::<2>(high)),
                        _ => (V::left::<1>(high), V::right::<3>(high)),
                    };
                    (V::or(low, V::and(a, bit)), V::or(upper, V::and(b, bit)))
                }
                SIX => {
                    let bits = V::splat(0x3030_3030);
                    let shifted = |high: V::Integers| match v {
                        0 => V::left::<4>(high),
                        1 => V::left::<2>(high),
                        2 => high,
                        _ => V::right::<2>(high),
                    };
                    (V::or(low, V::and(shifted(load(4)), bits)), V::or(upper, V::and(shifted(load(5)), bits)))
                }
                _ => (low, upper),
            };
            for (t, halves) in halves.iter_mut().enumerate() {
                halves[0] = V::dot(halves[0], low, quad(t, v));
                halves[1] = V::dot(halves[1], upper, quad(t, v + 4));
            }
        }
        // SAFETY of all below: the chunk's scales lie there.
        match SCHEME {
            // SAFETY: as above.
            BLOCK | AFFINE => d = unsafe { V::halves(scales) },
            // SAFETY: as above.
            POWER => d = unsafe { V::upper_halves(scales) },
            _ => {}
        }
        let factors = match SCHEME {
            // SAFETY: as above.
            GROUPS_AFFINE => [unsafe { V::unsigned(scales) }; 2],
            // SAFETY: as above.
            GROUPS => [unsafe { V::signed(scales) }; 2],
            // SAFETY: as above.
            HALF_GROUPS => unsafe { [V::signed(scales), V::signed(scales.add(V::ROWS))] },
            _ => [V::splat(1); 2],
        };
        let shift = match SCHEME {
            // SAFETY: as above.
            AFFINE => unsafe { V::halves(scales.add(2 * V::ROWS)) },
            GROUPS_AFFINE => {
                // SAFETY: as above.
                let minima = V::numbers(unsafe { V::unsigned(scales.add(V::ROWS)) });
                V::negative(V::multiply(e, minima))
            }
            _ => V::number(0.0),
        };
        for t in 0..T {
            let [first, second] = halves[t];
            let integers = match SCHEME {
                HALF_GROUPS => V::add(V::times(first, factors[0]), V::times(second, factors[1])),
                GROUPS | GROUPS_AFFINE => V::times(V::add(first, second), factors[0]),
                _ => V::add(first, second),
            };
            let [scale, scaled] = rows[t].scales[chunk];
            let numbers = V::multiply(V::numbers(integers), V::number(scale));
            totals[t] = V::multiply_add(d, numbers, totals[t]);
            if matches!(SCHEME, AFFINE | GROUPS_AFFINE) {
                totals[t] = V::multiply_add(shift, V::number(scaled), totals[t]);
            }
        }
    }
    totals.map(V::store)
}

#[cfg(test)]
mod tests {
    use super::super::portable::Portable;
    use super::super::{Kernel, plain};
    use super::*;
    use crate::{Backend, Isa};
    use kvant_core::{Bytes, Shape, Tensor, format};

    #[test]
    fn the_body_gives_the_oracles_bits_in_panels_of_eight_and_of_sixteen() {
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 506.0 - 1.0).collect()
        };
        let backend = Backend::new(Isa::Scalar, 1);
        for format in format::FORMATS.iter().filter(|format| format.grid().is_some()) {
            let columns = 512;
            let shape = Shape::new(&[16, columns]).unwrap();
            let mut stored = vec![0; format.tensor_bytes(&shape).unwrap()];
            let mut weights = numbers(16 * columns, 1);
            // One row at the lower end of its codes throughout.
            weights[..columns].fill(-1.0);
            format.encode(&weights, None, &mut stored);
            let tensor = Tensor::new(shape, *format, Bytes::from(stored)).unwrap();
            // The last row as loud as can be, all of one sign.
            let mut x = numbers(7 * columns, 2);
            x.resize(8 * columns, 1.0);
            let x = Activations::new(&backend, &x, columns);
            for lanes in [8, 16] {
                let matrix = Panels::new(&backend, Kernel::Plain(lanes), &tensor).unwrap();
                let mut expected = [[0.0; ROWS]; 8];
                plain::multiply(&matrix, 0, &x, 0, &mut expected);
                macro_rules! with {
                    ($($rows:literal)*) => {
                        $({
                            let rows: [Row; $rows] = std::array::from_fn(|t| x.row(8 - $rows + t));
                            let found = match lanes {
                                8 => dispatch::<Portable<8>, $rows>(&matrix, 0, rows),
                                _ => dispatch::<Portable<16>, $rows>(&matrix, 0, rows),
                            };
                            let same = found == expected[8 - $rows..];
                            assert!(same, "{}, panels of {lanes}, {} rows", format.name(), $rows);
                        })*
                    };
                }
                with!(1 2 4 8);
            }
        }
    }
}
