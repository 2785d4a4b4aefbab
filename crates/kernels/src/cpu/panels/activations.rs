//! Activations in eight bits: a scale every 32 numbers, and what kernels ask for beside them.

use super::CHUNK;
use crate::shared::Shared;
use crate::{Backend, scratch};
use std::hint::black_box;

/// Rows of activations.
pub(crate) struct Activations<'a> {
    columns: usize,
    /// Codes of −127..=127.
    codes: &'a [i8],
    /// A chunk's scale, and the scale times the sum of its codes.
    scales: &'a [[f32; 2]],
    /// Sums of the codes of either half of a chunk.
    sums: &'a [[i16; 2]],
}

/// One row.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub codes: &'a [i8],
    pub scales: &'a [[f32; 2]],
    pub sums: &'a [[i16; 2]],
}

impl Row<'_> {
    /// What an offset of all codes of a chunk adds to their products, taken away: of either half where these have scales of
    /// their own, else the first is all and the other nothing.
    #[inline(always)]
    pub fn less(&self, chunk: usize, offset: i16, halves: bool) -> [i32; 2] {
        let [first, second] = self.sums[chunk].map(|sum| -i32::from(offset) * i32::from(sum));
        if halves { [first, second] } else { [first + second, 0] }
    }
}

impl Activations<'_> {
    /// Runs `work` on those of rows of `columns` numbers, a multiple of 32. Numbers that are not finite make their chunk's
    /// scale so.
    pub fn with<R>(backend: &Backend, x: &[f32], columns: usize, work: impl FnOnce(&Activations) -> R) -> R {
        let (rows, chunks) = (x.len() / columns, columns / CHUNK);
        let all = rows * chunks;
        scratch::with(x.len() / size_of::<f32>() + 3 * all, |memory| {
            let (scales, memory) = memory.split_at_mut(2 * all);
            let (sums, codes) = memory.split_at_mut(all);
            let scales: &mut [[f32; 2]] = bytemuck::cast_slice_mut(scales);
            let (sums, codes): (&mut [[i16; 2]], &mut [i8]) =
                (bytemuck::cast_slice_mut(sums), bytemuck::cast_slice_mut(codes));
            round_rows(backend, x, columns, codes, scales, sums);
            work(&Activations { columns, codes, scales, sums })
        })
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.codes.len() / self.columns
    }

    pub fn row(&self, index: usize) -> Row<'_> {
        let chunks = self.columns / CHUNK;
        Row {
            codes: &self.codes[index * self.columns..][..self.columns],
            scales: &self.scales[index * chunks..][..chunks],
            sums: &self.sums[index * chunks..][..chunks],
        }
    }
}

fn round_rows(
    backend: &Backend,
    x: &[f32],
    columns: usize,
    codes: &mut [i8],
    scales: &mut [[f32; 2]],
    sums: &mut [[i16; 2]],
) {
    let (rows, chunks) = (x.len() / columns, columns / CHUNK);
    let (codes, scales, sums) = (Shared::new(codes), Shared::new(scales), Shared::new(sums));
    let work = |row: usize| {
        // SAFETY: each task has its own row.
        let (codes, scales, sums) = unsafe {
            (
                codes.part(row * columns, columns),
                scales.part(row * chunks, chunks),
                sums.part(row * chunks, chunks),
            )
        };
        (backend.operations().round)(&x[row * columns..][..columns], codes, scales, sums);
    };
    if rows == 1 { work(0) } else { backend.pool().run(rows, &work) }
}

/// Rounds one row.
#[inline(always)]
pub(crate) fn round(x: &[f32], codes: &mut [i8], scales: &mut [[f32; 2]], sums: &mut [[i16; 2]]) {
    let chunks = x.as_chunks::<CHUNK>().0.iter().zip(codes.as_chunks_mut::<CHUNK>().0);
    for ((x, codes), (scale, sums)) in chunks.zip(scales.iter_mut().zip(sums)) {
        // Vectors run inside a chunk: the compiler would gather one number each of many chunks.
        let x = black_box(x);
        // As bits, in which sizes stand in order and NaN is above all.
        let mut most = 0;
        for x in x {
            most = most.max(x.to_bits() & 0x7fff_ffff);
        }
        let most = f32::from_bits(most);
        let inverse = 127.0 / most;
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        // Sums by themselves, in integers of which vectors add pairs.
        let mut rounded = [0i32; CHUNK];
        for (code, x) in rounded.iter_mut().zip(x) {
            // A number that leaves whole ones in the last bits of what it is added to rounds to even.
            const WHOLE: f32 = 12_582_912.0;
            *code = (x * inverse + WHOLE).to_bits().cast_signed() - WHOLE.to_bits().cast_signed();
        }
        for (code, rounded) in codes.iter_mut().zip(rounded) {
            *code = rounded as i8;
        }
        let mut halves = [0i32; 2];
        for (half, rounded) in halves.iter_mut().zip(rounded.as_chunks::<{ CHUNK / 2 }>().0) {
            for rounded in rounded {
                *half += rounded;
            }
        }
        *sums = halves.map(|half| half as i16);
        let d = most / 127.0;
        *scale = [d, d * f32::from(sums[0] + sums[1])];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn what_is_not_finite_stays_so_wherever_it_stands() {
        for isa in Isa::available() {
            let backend = Backend::new(isa, 1);
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for place in [0, 5, CHUNK - 1] {
                    let mut x: Vec<f32> = (0..2 * CHUNK).map(|i| i as f32 - 20.0).collect();
                    x[place] = bad;
                    let [damaged, sound] = Activations::with(&backend, &x, 2 * CHUNK, |all| {
                        [0, 1].map(|chunk| all.row(0).scales[chunk][0])
                    });
                    assert!(!damaged.is_finite() && sound == 43.0 / 127.0, "{isa:?}, {bad} at {place}");
                }
            }
        }
    }
}
