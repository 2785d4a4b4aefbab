//! Panels where a vector multiplies four bytes a row at once (VNNI, NEON's dot products): one body for vectors of eight rows
//! and of sixteen. Where codes have to be unsigned, signed levels go in 128 higher, which the activations' sum takes away.
//!
//! `cargo bench -p kvant-kernels --bench integers avx512 q4_0`, two cores of machine X (docs/performance.md), 2048 columns:
//!
//! ```text
//!                                                   1 row, of bandwidth | 8 rows, of peak | 128 rows, of peak
//! codes asked for 4 KiB ahead, rows apart                          75 % |            19 % |              28 %
//! asked for in two caches, and scales                              90 % |                 |
//! upper nibbles as they lie                                        95 % |                 |
//! rows together, one sum for both halves                                |            36 % |              49 %
//! asked for ahead, however many rows                                    |            46 % |              52 %
//! ```

use super::activations::Row;
use super::chunk::{Scales, code_bytes, quads, table};
use super::kinds::*;
use super::outliers::{self, Outliers, OutliersOfRows};
use super::rows::{Apart, Rows, groups};
use super::together::Together;
use super::vector::Vector;
#[cfg(target_arch = "x86_64")]
use super::vnni::{Eight, Sixteen};
use super::{Activations, Coding, Panel, Panels, ROWS, SHARING, Scheme, Sums};
use crate::cpu::ask_ahead;
#[cfg(target_arch = "aarch64")]
use crate::cpu::tokens::Neon;
#[cfg(target_arch = "x86_64")]
use crate::cpu::tokens::{Avx512, AvxVnni};
use crate::shared::Shared;
use std::ops::Range;

/// What the codes are larger by than the levels, where that is subtracted from the products.
pub(super) fn offset<V: Vector>(matrix: &Panels) -> i16 {
    match (matrix.coding, matrix.scheme) {
        (Coding::Table(_) | Coding::Bytes, _) => V::RAISE,
        (_, Scheme::Block | Scheme::Power | Scheme::HalfGroups) => matrix.coding.offset(),
        _ => 0,
    }
}

/// For an instruction set: `$apart`, as `plain::multiply`, `$together`, which multiplies rows of activations from one on,
/// `$wide` at a time, and says where the next is, and `$outliers`, as `outliers::add`.
macro_rules! multiply {
    ($apart:ident, $together:ident, $outliers:ident, $token:ty, $vector:ty, $features:literal, $wide:literal) => {
        pub(crate) fn $apart(
            _token: $token,
            matrix: &Panels,
            panel: usize,
            x: &Activations,
            first: usize,
            sums: &mut Sums,
        ) {
            #[target_feature(enable = $features)]
            fn of<const T: usize>(matrix: &Panels, panel: usize, rows: [Row; T]) -> [[f32; ROWS]; T] {
                apart::<$vector, T>(matrix, panel, rows)
            }
            assert_eq!(matrix.kernel.rows(), <$vector>::ROWS, "rows of a panel");
            let mut at = 0;
            while at < sums.len() {
                macro_rules! put {
                    ($tokens:literal) => {{
                        let rows: [Row; $tokens] = std::array::from_fn(|t| x.row(first + at + t));
                        // SAFETY: the token proves the features.
                        let found = unsafe { of(matrix, panel, rows) };
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

        pub(crate) fn $together(
            _token: $token,
            matrix: &Panels,
            x: &Activations,
            from: usize,
            (y, outliers): (&Shared<f32>, Option<&Outliers>),
        ) -> usize {
            #[target_feature(enable = $features)]
            fn of(matrix: &Panels, panel: usize, rows: &[Together<$wide>]) -> [[f32; ROWS]; $wide] {
                together::<$vector, $wide>(matrix, panel, rows)
            }
            assert_eq!(matrix.kernel.rows(), <$vector>::ROWS, "rows of a panel");
            // SAFETY: the token proves the features.
            let of = |panel: usize, rows: &[Together<$wide>]| unsafe { of(matrix, panel, rows) };
            groups::<$wide>(matrix, x, from, (y, outliers), offset::<$vector>(matrix), &of)
        }

        pub(crate) fn $outliers(
            _token: $token,
            matrix: &Panels,
            panels: Range<usize>,
            x: &OutliersOfRows,
            y: &Shared<f32>,
        ) {
            #[target_feature(enable = $features)]
            fn of(matrix: &Panels, panels: Range<usize>, x: &OutliersOfRows, y: &Shared<f32>) {
                outliers::add::<$vector>(matrix, panels, x, y);
            }
            assert_eq!(matrix.kernel.rows(), <$vector>::ROWS, "rows of a panel");
            // SAFETY: the token proves the features.
            unsafe { of(matrix, panels, x, y) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
multiply!(avx_vnni, avx_vnni_together, avx_vnni_outliers, AvxVnni, Eight, "avx2,fma,f16c,avxvnni", 4);
#[cfg(target_arch = "x86_64")]
multiply!(
    avx512,
    avx512_together,
    avx512_outliers,
    Avx512,
    Sixteen,
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni",
    8
);
#[cfg(target_arch = "aarch64")]
multiply!(neon, neon_together, neon_outliers, Neon, super::neon::Eight, "neon,dotprod", 4);

#[inline(always)]
fn apart<V: Vector, const T: usize>(matrix: &Panels, panel: usize, rows: [Row; T]) -> [[f32; ROWS]; T] {
    let (chunks, panel, coding, offset) =
        (matrix.chunks(), matrix.panel(panel), matrix.coding, offset::<V>(matrix));
    macro_rules! run {
        ($coding:ident, $scheme:ident) => {
            // SAFETY: a panel's parts and a row of activations have `chunks` chunks.
            unsafe {
                sums::<V, $coding, $scheme, T>(panel, chunks, Apart::<T, $scheme> { rows, offset }, coding)
            }
        };
    }
    for_each_kind!(matrix, run)
}

#[inline(always)]
fn together<V: Vector, const T: usize>(
    matrix: &Panels,
    panel: usize,
    rows: &[Together<T>],
) -> [[f32; ROWS]; T] {
    let (chunks, panel, coding) = (matrix.chunks(), matrix.panel(panel), matrix.coding);
    let rows = &rows[..chunks];
    macro_rules! run {
        ($coding:ident, $scheme:ident) => {
            // SAFETY: a panel's parts have `chunks` chunks.
            unsafe { sums::<V, $coding, $scheme, T>(panel, chunks, rows, coding) }
        };
    }
    for_each_kind!(matrix, run)
}

#[inline(always)]
unsafe fn sums<V: Vector, const CODING: u8, const SCHEME: u8, const T: usize>(
    panel: Panel,
    chunks: usize,
    rows: impl Rows<T>,
    coding: Coding,
) -> [[f32; ROWS]; T] {
    let code_bytes = code_bytes::<V, CODING>();
    let table = table::<V>(coding);
    // Few rows have a sum for either half, so that one need not wait for the other; many have none to spare.
    let apart = const { T <= 2 || SCHEME == HALF_GROUPS };
    // Unsigned codes of four bits may then stay sixteen times as large in the upper halves of bytes: their sum is divided.
    let sixteenfold = const { CODING == FOUR && V::RAISE != 0 && T <= 2 };
    let mut totals = [V::number(0.0); T];
    let scales = Scales::<SCHEME>(panel);
    let run = if const { shares(SCHEME) } { SHARING } else { chunks.max(1) };
    for begin in (0..chunks).step_by(run) {
        let mut run_sums = [V::number(0.0); T];
        for chunk in begin..begin + run {
            // SAFETY: the caller promises so many chunks in every part, and blocks of eight where eight share.
            let codes = unsafe { panel.codes.as_ptr().add(chunk * code_bytes) };
            ask_ahead(codes, code_bytes);
            scales.ask_ahead::<V>(chunk);
            // Either half of the chunk: quads 0–3 and 4–7.
            let mut halves: [[V::Integers; 2]; T] =
                std::array::from_fn(|t| rows.less(chunk, t).map(|less| V::splat(less)));
            for v in 0..4 {
                // SAFETY: the chunk's codes lie there.
                let (low, upper) = unsafe {
                    if sixteenfold {
                        quads::<V, FOUR, true>(codes, v, table)
                    } else {
                        quads::<V, CODING, false>(codes, v, table)
                    }
                };
                for (t, halves) in halves.iter_mut().enumerate() {
                    halves[0] = V::dot(halves[0], low, rows.quad(chunk, t, v));
                    let second = usize::from(apart);
                    halves[second] = V::dot(halves[second], upper, rows.quad(chunk, t, v + 4));
                }
            }
            // SAFETY: as above.
            let factors = unsafe { scales.of::<V>(chunk) };
            for t in 0..T {
                let [first, second] = halves[t];
                let sums = match SCHEME {
                    HALF_GROUPS => [V::numbers(first), V::numbers(second)],
                    _ => {
                        let second = if sixteenfold { V::sixteenth(second) } else { second };
                        let whole = if apart { V::add(first, second) } else { first };
                        [V::numbers(whole), V::number(0.0)]
                    }
                };
                run_sums[t] = factors.add::<SCHEME>(run_sums[t], sums, rows.scales(chunk, t));
            }
        }
        if const { shares(SCHEME) } {
            let scaled = |chunk: usize, t: usize| rows.scales(chunk, t)[1];
            // SAFETY: as above.
            unsafe { scales.close::<V, T>(begin / SHARING, &mut run_sums, &mut totals, scaled) };
        } else {
            totals = run_sums;
        }
    }
    totals.map(V::store)
}

#[cfg(test)]
mod tests {
    use super::super::portable::Portable;
    use super::super::together::lay;
    use super::super::{Kernel, Rounded, plain};
    use super::*;
    use crate::{Backend, Isa, Precision};
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
            let rounded = Rounded::new(&backend, &x, columns, Precision::Int8);
            let x = &rounded.activations();
            for lanes in [8, 16] {
                let matrix = Panels::new(&backend, Kernel::Plain(lanes), Precision::Int8, &tensor).unwrap();
                let mut expected = [[0.0; ROWS]; 8];
                plain::multiply(&matrix, 0, x, 0, &mut expected);
                macro_rules! with {
                    ($($rows:literal)*) => {
                        $({
                            let rows: [Row; $rows] = std::array::from_fn(|t| x.row(8 - $rows + t));
                            let found = match lanes {
                                8 => apart::<Portable<8>, $rows>(&matrix, 0, rows),
                                _ => apart::<Portable<16>, $rows>(&matrix, 0, rows),
                            };
                            let same = found == expected[8 - $rows..];
                            assert!(same, "{}, panels of {lanes}, {} rows", format.name(), $rows);
                        })*
                    };
                }
                with!(1 2 4);
                let found = match lanes {
                    8 => lay::<4, false, _>(&matrix, x, 4..8, offset::<Portable<8>>(&matrix), |rows| {
                        together::<Portable<8>, 4>(&matrix, 0, rows).to_vec()
                    }),
                    _ => lay::<8, false, _>(&matrix, x, 0..8, offset::<Portable<16>>(&matrix), |rows| {
                        together::<Portable<16>, 8>(&matrix, 0, rows).to_vec()
                    }),
                };
                let same = found == expected[8 - found.len()..];
                assert!(same, "{}, panels of {lanes}, rows together", format.name());
            }
        }
    }
}
