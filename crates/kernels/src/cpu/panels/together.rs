//! Rows of activations that are multiplied together lie together: rows a power of two apart fall on the same lines of the
//! nearest cache, and so many pointers fit no registers. VNNI, eight rows: 45 ns a chunk and core from rows apart, 20 so.

use super::{Activations, CHUNK, Panels, Scheme};
use crate::scratch;
use crate::shared::Shared;
use std::ops::Range;

/// A chunk of `R` rows of activations.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Together<const R: usize> {
    pub codes: [[i8; CHUNK]; R],
    pub scales: [f32; R],
    /// Scales times the codes' sums.
    pub scaled: [f32; R],
    /// As [`super::activations::Row::less`].
    pub less: [[i32; R]; 2],
}

macro_rules! plain_numbers {
    ($($rows:literal)*) => {
        $(
            // SAFETY: plain numbers, 48 bytes a row, which are whole lines: no padding.
            unsafe impl bytemuck::Zeroable for Together<$rows> {}
            // SAFETY: as above; `Copy`, and any bits are numbers.
            unsafe impl bytemuck::Pod for Together<$rows> {}
            const _: () = assert!(size_of::<Together<$rows>>() == 48 * $rows);
        )*
    };
}
plain_numbers!(4 8 16);

/// Runs `work` on some rows of `x`, each group's chunks one after the other; the last group may be in part empty.
/// `offset` is what codes of the matrix lie higher than their levels. With `ACROSS` the codes of a chunk lie quad by quad, each
/// of all rows, instead of row by row.
pub(super) fn lay<const R: usize, const ACROSS: bool, Result>(
    matrix: &Panels,
    x: &Activations,
    rows: Range<usize>,
    offset: i16,
    work: impl FnOnce(&[Together<R>]) -> Result,
) -> Result
where
    Together<R>: bytemuck::Pod,
{
    let (groups, chunks) = (rows.len().div_ceil(R), matrix.chunks());
    let numbers = size_of::<Together<R>>() / size_of::<f32>();
    scratch::with(groups * chunks * numbers, |memory| {
        let all = Shared::new(memory);
        matrix.backend.pool().run(groups, &|group| {
            // SAFETY: each task has its own group.
            let laid = unsafe { all.part(group * chunks * numbers, chunks * numbers) };
            fill::<R, ACROSS>(
                x,
                rows.start + group * R,
                rows.end,
                (offset, matrix.scheme),
                bytemuck::cast_slice_mut(laid),
            );
        });
        work(bytemuck::cast_slice(memory))
    })
}

/// Rows of activations from `first` on, where there are such below `end`; the rest is zero.
fn fill<const R: usize, const ACROSS: bool>(
    x: &Activations,
    first: usize,
    end: usize,
    (offset, scheme): (i16, Scheme),
    laid: &mut [Together<R>],
) where
    Together<R>: bytemuck::Pod,
{
    if first + R > end {
        laid.fill(bytemuck::Zeroable::zeroed());
    }
    for t in 0..R.min(end - first) {
        let row = x.row(first + t);
        let parts = row.codes.as_chunks::<CHUNK>().0.iter().zip(row.scales);
        for (chunk, (laid, (codes, [scale, scaled]))) in laid.iter_mut().zip(parts).enumerate() {
            if ACROSS {
                let quads =
                    laid.codes.as_flattened_mut().as_chunks_mut::<4>().0.iter_mut().skip(t).step_by(R);
                quads.zip(codes.as_chunks::<4>().0).for_each(|(quad, codes)| *quad = *codes);
            } else {
                laid.codes[t] = *codes;
            }
            (laid.scales[t], laid.scaled[t]) = (*scale, *scaled);
            [laid.less[0][t], laid.less[1][t]] = row.less(chunk, offset, scheme == Scheme::HalfGroups);
        }
    }
}
