//! Rows of activations as inner loops see them: apart from each other, or several that lie together.

use super::activations::Row;
use super::kinds::HALF_GROUPS;
use super::outliers::{Outliers, OutliersOfRows};
use super::together::{Together, lay};
use super::{Activations, CHUNK, Panels, ROWS};
use crate::shared::Shared;

/// Rows of activations that stay near while panels of a task pass.
const NEAR: usize = 64;

/// `T` rows of activations.
pub(super) trait Rows<const T: usize>: Copy {
    /// Four codes of row `t`: those of quad `q` of a chunk.
    fn quad(&self, chunk: usize, t: usize, q: usize) -> i32;
    /// As [`Row::less`].
    fn less(&self, chunk: usize, t: usize) -> [i32; 2];
    /// A chunk's scale, and the scale times the sum of its codes.
    fn scales(&self, chunk: usize, t: usize) -> [f32; 2];
}

/// Rows apart from each other. Invariant: each has as many chunks as are asked for.
#[derive(Clone, Copy)]
pub(super) struct Apart<'a, const T: usize, const SCHEME: u8> {
    pub rows: [Row<'a>; T],
    pub offset: i16,
}

impl<const T: usize, const SCHEME: u8> Rows<T> for Apart<'_, T, SCHEME> {
    #[inline(always)]
    fn quad(&self, chunk: usize, t: usize, q: usize) -> i32 {
        // SAFETY: the invariant; 32 codes a chunk.
        unsafe { self.rows[t].codes.as_ptr().add(chunk * CHUNK + 4 * q).cast::<i32>().read_unaligned() }
    }
    #[inline(always)]
    fn less(&self, chunk: usize, t: usize) -> [i32; 2] {
        self.rows[t].less(chunk, self.offset, SCHEME == HALF_GROUPS)
    }
    #[inline(always)]
    fn scales(&self, chunk: usize, t: usize) -> [f32; 2] {
        self.rows[t].scales[chunk]
    }
}

impl<const T: usize> Rows<T> for &[Together<T>] {
    #[inline(always)]
    fn quad(&self, chunk: usize, t: usize, q: usize) -> i32 {
        let codes = self[chunk].codes[t].as_chunks::<4>().0[q];
        i32::from_ne_bytes(codes.map(i8::cast_unsigned))
    }
    #[inline(always)]
    fn less(&self, chunk: usize, t: usize) -> [i32; 2] {
        self[chunk].less.map(|less| less[t])
    }
    #[inline(always)]
    fn scales(&self, chunk: usize, t: usize) -> [f32; 2] {
        [self[chunk].scales[t], self[chunk].scaled[t]]
    }
}

/// `y` = x · the matrix for whole groups of `R` rows of `x` from row `from` on, with what their outliers add; says where the
/// next row is.
pub(super) fn groups<const R: usize>(
    matrix: &Panels,
    x: &Activations,
    from: usize,
    (y, outliers): (&Shared<f32>, Option<&Outliers>),
    offset: i16,
    of: &(impl Fn(usize, &[Together<R>]) -> [[f32; ROWS]; R] + Sync),
) -> usize
where
    Together<R>: bytemuck::Pod,
{
    let chunks = matrix.chunks();
    let end = from + (x.rows() - from) / R * R;
    if end == from {
        return from;
    }
    let outliers = outliers.map(|all| OutliersOfRows::new(matrix, all, from..end));
    lay::<R, false, _>(matrix, x, from..end, offset, |laid| {
        let tasks = matrix.tasks();
        matrix.backend.pool().run(tasks.len() - 1, &|task| {
            for (near, laid) in laid.chunks(NEAR / R * chunks).enumerate() {
                for panel in tasks[task]..tasks[task + 1] {
                    for (group, laid) in laid.chunks(chunks).enumerate() {
                        let first = from + near * NEAR + group * R;
                        for (t, sums) in of(panel, laid).iter().enumerate() {
                            // SAFETY: each task has its own panels.
                            unsafe { matrix.put(y, first + t, panel, sums) };
                        }
                    }
                }
            }
            if let Some(outliers) = &outliers {
                matrix.add_outliers(tasks[task]..tasks[task + 1], outliers, y);
            }
        });
    });
    end
}
