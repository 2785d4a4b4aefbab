//! Dense matrices: products, Gram matrices, Cholesky factorization and triangular solves.
//!
//! The crate `gemm` multiplies matrices. This module divides the work into tasks.
//!
//! Invariant: every sum is computed in pieces of at most [`DEPTH`] terms, in a fixed order. Only the shapes determine
//! the tasks. So a result does not depend on the number of threads or on the cache sizes.
//!
//! Not covered here: pivoting, and the factorization of matrices that are not symmetric positive definite.

use crate::Backend;
use crate::shared::Shared;
use crate::view::assert_inside;

pub use crate::view::View;

/// Maximum inner dimension of one call of `gemm`. `gemm` does not split an inner dimension of this size.
const DEPTH: usize = 256;
/// Maximum number of rows of a panel. In this module, a panel is consecutive rows that one task processes. [`cholesky`]
/// and [`solve`] also process this number of columns per step.
const PANEL: usize = 64;

/// Element type of the matrices.
pub trait Real: Copy + Send + Sync + PartialEq + 'static {
    /// The value 0.
    const ZERO: Self;
    /// The value 1.
    const ONE: Self;
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
}

/// Returns true if a slice of `length` elements is exactly a `rows` × `columns` matrix. Returns false if `rows` ×
/// `columns` overflows.
fn is_whole_matrix(length: usize, rows: usize, columns: usize) -> bool {
    rows.checked_mul(columns) == Some(length)
}

/// Computes `out` = `keep` · `out` + `factor` · `a` · `b` on the calling thread. The rows of `out` are `stride`
/// elements apart. If `keep` is 0, the old values of `out` are not read.
///
/// Panics if the shapes don't match.
pub fn product<T: Real>(out: &mut [T], stride: usize, keep: T, factor: T, a: View<T>, b: View<T>) {
    assert_inside(out.len(), a.rows, b.columns, stride, 1);
    assert_eq!(a.columns, b.rows, "as many columns on the left as rows on the right");
    assert!(b.columns <= stride || a.rows <= 1, "rows of the result don't overlap");
    if a.rows == 0 || b.columns == 0 {
        return;
    }
    let mut keep = keep;
    for start in (0..a.columns).step_by(DEPTH) {
        let depth = DEPTH.min(a.columns - start);
        // SAFETY: the constructor of a view checks that the view is inside its slice. So every element with a row below
        // `a.rows`, a column below `b.columns` and an inner index below `start + depth` is inside its slice. The extent
        // of the result is checked above. `out` is borrowed mutably, so no other pointer accesses its elements.
        unsafe {
            gemm::gemm(
                a.rows,
                b.columns,
                depth,
                out.as_mut_ptr(),
                1,
                stride as isize,
                keep != T::ZERO,
                a.data.as_ptr().add(start * a.column_stride),
                a.column_stride as isize,
                a.row_stride as isize,
                b.data.as_ptr().add(start * b.row_stride),
                b.column_stride as isize,
                b.row_stride as isize,
                keep,
                factor,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
        keep = T::ONE;
    }
}

/// Computes `out` += `a` · `b` on the calling thread, for a matrix `a` with few rows. `a` is row-major and has `b.rows`
/// columns. The rows of `out` are `stride` elements apart.
///
/// The function does not pack `b`, because packing takes more time than it saves if `a` has few rows.
///
/// Panics if the shapes don't match.
pub fn add_few(backend: &Backend, out: &mut [f32], stride: usize, a: &[f32], b: View<f32>) {
    if a.is_empty() || b.columns == 0 {
        return;
    }
    assert!(b.rows > 0 && a.len().is_multiple_of(b.rows), "rows of {} numbers", b.rows);
    let rows = a.len() / b.rows;
    assert_inside(out.len(), rows, b.columns, stride, 1);
    assert!(b.columns <= stride || rows <= 1, "rows of the result don't overlap");
    backend.cpu().add_few(out, stride, a, b);
}

/// Returns the number of rows of the result per task, for sums over tokens. `columns` is the number of rows of the
/// result, which is the number of columns of the left matrix. `gemm` packs the right matrix one time per task, so
/// larger tasks reduce the packing. If `columns` is small, the tasks are small, so that every thread gets a task.
fn rows_per_task(columns: usize) -> usize {
    (columns / 8 / PANEL * PANEL).clamp(PANEL, 3 * PANEL)
}

/// Computes `sum` += `x`ᵀ · `y`. The rows of `x` and `y` are the activations of the same tokens. `sum` has the shape
/// `x_columns` × `y_columns`.
///
/// Panics if the lengths don't match these shapes.
pub fn add_products(
    backend: &Backend,
    x: &[f32],
    x_columns: usize,
    y: &[f32],
    y_columns: usize,
    sum: &mut [f32],
) {
    let rows = x.len() / x_columns;
    assert!(
        is_whole_matrix(x.len(), rows, x_columns)
            && is_whole_matrix(y.len(), rows, y_columns)
            && is_whole_matrix(sum.len(), x_columns, y_columns),
        "rows of {x_columns} and of {y_columns} numbers"
    );
    let left = View::new(x, rows, x_columns, x_columns);
    let right = View::new(y, rows, y_columns, y_columns);
    let (sum, panel) = (Shared::new(sum), rows_per_task(x_columns));
    backend.pool().run(x_columns.div_ceil(panel), &|task| {
        let start = task * panel;
        let count = panel.min(x_columns - start);
        // SAFETY: tasks write disjoint rows of the sum.
        let out = unsafe { sum.part(start * y_columns, count * y_columns) };
        let left = View { data: &left.data[start..], columns: count, ..left };
        product(out, y_columns, 1.0, 1.0, left.transposed(), right);
    });
}

/// Adds the Gram matrix `x`ᵀ · `x` to the lower triangle of `sum`. A row of `x` has `columns` floats. `sum` has the
/// shape `columns` × `columns`; after the call, its values above the diagonal are unspecified.
///
/// Panics if the lengths don't match these shapes.
pub fn add_gram(backend: &Backend, x: &[f32], columns: usize, sum: &mut [f32]) {
    let rows = x.len() / columns;
    assert!(
        is_whole_matrix(x.len(), rows, columns) && is_whole_matrix(sum.len(), columns, columns),
        "rows of {columns} numbers"
    );
    let all = View::new(x, rows, columns, columns);
    let (sum, panel) = (Shared::new(sum), rows_per_task(columns));
    backend.pool().run(columns.div_ceil(panel), &|task| {
        // The tasks with the longest rows of the triangle start first, to balance the load.
        let start = (columns.div_ceil(panel) - 1 - task) * panel;
        let count = panel.min(columns - start);
        // SAFETY: tasks write disjoint rows of the sum.
        let out = unsafe { sum.part(start * columns, count * columns) };
        let left = View { data: &x[start..], columns: count, ..all };
        let right = View { columns: start + count, ..all };
        product(out, columns, 1.0, 1.0, left.transposed(), right);
    });
}

/// Computes `out` = `keep` · `out` + `a` · `b`. The matrices are row-major. `inner` is the number of columns of `a` and
/// the number of rows of `b`. `out` has the rows of `a` and the columns of `b`.
pub fn multiply(backend: &Backend, a: &[f32], b: &[f32], inner: usize, keep: f32, out: &mut [f32]) {
    let columns = b.len() / inner;
    assert_eq!(out.len(), a.len() / inner * columns, "a result for every row");
    let b = View::new(b, inner, columns, columns);
    by_panels(backend, out, columns, &|start, out| {
        let count = out.len() / columns;
        product(out, columns, keep, 1.0, View::new(&a[start * inner..], count, inner, inner), b);
    });
}

/// Divides `out` into panels of at most [`PANEL`] rows with `columns` elements per row. Calls `work` for each panel, in
/// parallel. The arguments of `work` are the index of the first row of the panel, and the elements of the panel.
fn by_panels<T: Real>(
    backend: &Backend,
    out: &mut [T],
    columns: usize,
    work: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    assert!(columns > 0 && out.len().is_multiple_of(columns), "whole rows of {columns}");
    let rows = out.len() / columns;
    let out = Shared::new(out);
    backend.pool().run(rows.div_ceil(PANEL), &|task| {
        let start = task * PANEL;
        let count = PANEL.min(rows - start);
        // SAFETY: tasks write disjoint rows of `out`.
        work(start, unsafe { out.part(start * columns, count * columns) });
    });
}

/// Computes the Cholesky factorization A = L Lᵀ in place, where A is symmetric and L is lower triangular. `a` is A,
/// with `n` × `n` elements. The function uses only the lower triangle of `a` and replaces this triangle by L. After the
/// call, the values above the diagonal are unspecified. Returns false if A is not positive definite; in this case all
/// values of `a` are unspecified.
///
/// The algorithm is right-looking and processes panels of 64 columns. For each panel, it factors the diagonal block,
/// solves for the rows below this block, and subtracts the products of these rows from the remaining matrix. Source:
/// Golub and Van Loan, Matrix Computations, 4.2.9.
pub fn cholesky(backend: &Backend, a: &mut [f64], n: usize) -> bool {
    assert!(is_whole_matrix(a.len(), n, n), "a square matrix");
    let mut square = vec![0.0; PANEL * PANEL];
    for start in (0..n).step_by(PANEL) {
        let width = PANEL.min(n - start);
        for i in 0..width {
            let row = &a[(start + i) * n + start..][..width];
            square[i * width..(i + 1) * width].copy_from_slice(row);
        }
        if !factor_square(&mut square[..width * width], width) {
            return false;
        }
        for i in 0..width {
            a[(start + i) * n + start..][..=i].copy_from_slice(&square[i * width..i * width + i + 1]);
        }
        let below = start + width;
        if below == n {
            break;
        }
        let lower = &square[..width * width];
        let (rows, panel) = (n - below, &mut a[below * n..]);
        // `solved` is a copy of the columns of the panel. The update below reads these columns of all rows while it
        // writes the rows.
        let mut solved = vec![0.0; rows * width];
        by_panels(backend, &mut solved, width, &|first, out| {
            for (i, x) in out.chunks_exact_mut(width).enumerate() {
                x.copy_from_slice(&panel[(first + i) * n + start..][..width]);
                solve_lower(lower, width, x);
            }
        });
        by_panels(backend, panel, n, &|first, out| {
            let count = out.len() / n;
            for (i, row) in out.chunks_exact_mut(n).enumerate() {
                row[start..below].copy_from_slice(&solved[(first + i) * width..][..width]);
            }
            let left = View::new(&solved[first * width..], count, width, width);
            let right = View::new(&solved, first + count, width, width).transposed();
            product(&mut out[below..], n, 1.0, -1.0, left, right);
        });
    }
    true
}

/// Computes the factorization of [`cholesky`] for a small `n` × `n` matrix, element by element.
fn factor_square(a: &mut [f64], n: usize) -> bool {
    for j in 0..n {
        for i in j..n {
            let sum = (0..j).fold(a[i * n + j], |sum, k| sum - a[i * n + k] * a[j * n + k]);
            if i > j {
                a[i * n + j] = sum / a[j * n + j];
            } else if sum > 0.0 && sum.is_finite() {
                a[i * n + j] = sum.sqrt();
            } else {
                return false;
            }
        }
    }
    true
}

/// Solves x Lᵀ = b for one row x of `n` elements. L is the lower triangle of `lower` (`n` × `n`). On input, `x` has the
/// values of b; on output, it has the solution.
fn solve_lower(lower: &[f64], n: usize, x: &mut [f64]) {
    for j in 0..n {
        let sum = (0..j).fold(x[j], |sum, k| sum - x[k] * lower[j * n + k]);
        x[j] = sum / lower[j * n + j];
    }
}

/// Solves X (L Lᵀ) = B in place. L is the lower triangle of `lower` (`n` × `n`), as [`cholesky`] computes it. On input,
/// `b` has the values of B, with `n` elements per row; on output, it has the solution X.
pub fn solve(backend: &Backend, lower: &[f64], n: usize, b: &mut [f64]) {
    assert!(is_whole_matrix(lower.len(), n, n) && b.len().is_multiple_of(n), "rows of {n} numbers");
    by_panels(backend, b, n, &|_, rows| {
        let count = rows.len() / n;
        let starts: Vec<usize> = (0..n).step_by(PANEL).collect();
        let mut part = vec![0.0; count * PANEL];
        // The first loop solves Y Lᵀ = B for the intermediate result Y = X L, from the first column to the last column.
        // The second loop solves X L = Y, from the last column to the first column.
        for &start in &starts {
            let width = PANEL.min(n - start);
            copy_columns_from(rows, n, start, width, &mut part);
            let done = View::new(rows, count, start, n);
            let factors = View::new(&lower[start * n..], width, start, n).transposed();
            product(&mut part, width, 1.0, -1.0, done, factors);
            let columns: Vec<f64> = (0..width * width)
                .map(|at| (at / width, start + at % width))
                .map(|(j, i)| if i < start + j { 0.0 } else { lower[i * n + start + j] })
                .collect();
            for row in part[..count * width].chunks_exact_mut(width) {
                // Subtract the term of each solved unknown from all later unknowns. These updates are independent, so
                // the compiler can vectorize them. A sum per unknown would be a chain of dependent additions.
                for (j, column) in columns.chunks_exact(width).enumerate() {
                    let x = row[j] / column[j];
                    row[j] = x;
                    row[j + 1..].iter_mut().zip(&column[j + 1..]).for_each(|(b, l)| *b -= x * l);
                }
            }
            copy_columns_to(rows, n, start, width, &part);
        }
        for &start in starts.iter().rev() {
            let width = PANEL.min(n - start);
            let end = start + width;
            copy_columns_from(rows, n, start, width, &mut part);
            if end < n {
                let done = View::new(&rows[end..], count, n - end, n);
                let factors = View::new(&lower[end * n + start..], n - end, width, n);
                product(&mut part, width, 1.0, -1.0, done, factors);
            }
            for row in part[..count * width].chunks_exact_mut(width) {
                for j in (0..width).rev() {
                    let l = &lower[(start + j) * n + start..][..=j];
                    let x = row[j] / l[j];
                    row[j] = x;
                    row[..j].iter_mut().zip(l).for_each(|(b, l)| *b -= x * l);
                }
            }
            copy_columns_to(rows, n, start, width, &part);
        }
    });
}

/// Copies columns `start..start + width` of `rows` to `part`. A row of `rows` has `n` elements.
fn copy_columns_from(rows: &[f64], n: usize, start: usize, width: usize, part: &mut [f64]) {
    for (row, part) in rows.chunks_exact(n).zip(part.chunks_exact_mut(width)) {
        part.copy_from_slice(&row[start..start + width]);
    }
}

/// Copies `part` to columns `start..start + width` of `rows`. A row of `rows` has `n` elements.
fn copy_columns_to(rows: &mut [f64], n: usize, start: usize, width: usize, part: &[f64]) {
    for (row, part) in rows.chunks_exact_mut(n).zip(part.chunks_exact(width)) {
        row[start..start + width].copy_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    fn floats(count: usize, seed: u64) -> Vec<f64> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64 - 0.5
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    fn positive_definite(n: usize) -> Vec<f64> {
        let x = floats(n * n, 7);
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                a[i * n + j] = (0..n).map(|k| x[i * n + k] * x[j * n + k]).sum();
            }
            a[i * n + i] += 0.5;
        }
        a
    }

    #[test]
    fn factors_reproduce_the_matrix_and_solve() {
        for n in [1, 3, 64, 65, 150] {
            let a = positive_definite(n);
            let mut results = Vec::new();
            for threads in [1, 3] {
                let backend = Backend::new(Isa::best(), threads);
                let mut lower = a.clone();
                assert!(cholesky(&backend, &mut lower, n));
                for i in 0..n {
                    for j in 0..=i {
                        let sum: f64 = (0..=j).map(|k| lower[i * n + k] * lower[j * n + k]).sum();
                        assert!((sum - a[i * n + j]).abs() < 1e-9, "{n}: {i}, {j}");
                    }
                }
                let right = floats(70 * n, 3);
                let mut x = right.clone();
                solve(&backend, &lower, n, &mut x);
                for (x, b) in x.chunks_exact(n).zip(right.chunks_exact(n)) {
                    for j in 0..n {
                        let sum: f64 = (0..n).map(|k| x[k] * a[k * n + j]).sum();
                        assert!((sum - b[j]).abs() < 1e-7, "{n}: {sum} {}", b[j]);
                    }
                }
                results.push((lower, x));
            }
            assert!(results[0] == results[1], "{n}: threads change the result");
        }
    }

    #[test]
    fn add_few_matches_plain_sums() {
        for (rows, depth, columns, stride) in
            [(1, 1, 1, 1), (8, 32, 96, 100), (7, 70, 45, 45), (3, 33, 16, 20)]
        {
            let narrow =
                |count, seed| floats(count, seed).into_iter().map(|x| x as f32).collect::<Vec<f32>>();
            let (a, b) = (narrow(rows * depth, 1), narrow(depth * stride, 2));
            let before = narrow(rows * stride, 3);
            for isa in Isa::available() {
                let mut out = before.clone();
                let view = View::new(&b, depth, columns, stride);
                add_few(&Backend::new(isa, 1), &mut out, stride, &a, view);
                for (at, (out, before)) in out.iter().zip(&before).enumerate() {
                    let (i, j) = (at / stride, at % stride);
                    let sum = (0..depth).map(|k| f64::from(a[i * depth + k]) * f64::from(b[k * stride + j]));
                    let added = if j < columns { sum.sum() } else { 0.0 };
                    assert!((f64::from(out - before) - added).abs() < 1e-4, "{}: {at}", isa.name());
                }
            }
        }
    }

    #[test]
    fn views_outside_their_slice_are_refused() {
        let data = [0.0f32; 12];
        let refused = |rows, columns, stride| {
            std::panic::catch_unwind(|| View::new(&data, rows, columns, stride).rows()).is_err()
        };
        assert!(!refused(3, 4, 4) && !refused(2, 4, 8) && !refused(0, usize::MAX, usize::MAX));
        let half = usize::MAX / 2 + 1;
        for (rows, columns, stride) in [
            (3, 5, 4),
            (4, 4, 4),
            // The product of rows and stride wraps to 0 or to 2, and its sum with the columns wraps.
            (3, 4, half),
            (half + 1, 4, 4),
            (half + 1, 1, 2),
            (2, usize::MAX, 3),
            (usize::MAX, usize::MAX, usize::MAX),
        ] {
            assert!(refused(rows, columns, stride), "{rows} × {columns}, {stride} apart");
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_is_refused() {
        let mut a = positive_definite(80);
        a[75 * 80 + 75] = -1.0;
        assert!(!cholesky(&Backend::new(Isa::best(), 2), &mut a, 80));
    }

    #[test]
    fn gram_matrices_and_products_equal_plain_sums() {
        let backend = Backend::new(Isa::best(), 2);
        let narrow = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let (x, y) = (narrow(floats(300 * 70, 1)), narrow(floats(300 * 40, 2)));
        let mut sum = vec![1.0; 70 * 40];
        add_products(&backend, &x, 70, &y, 40, &mut sum);
        let mut square = vec![0.0; 70 * 70];
        add_gram(&backend, &x, 70, &mut square);
        let expected: f32 = (0..300).map(|t| x[t * 70 + 69] * x[t * 70 + 3]).sum();
        assert!((square[69 * 70 + 3] - expected).abs() < 1e-4);
        for i in 0..70 {
            for j in 0..40 {
                let expected: f32 = (0..300).map(|t| x[t * 70 + i] * y[t * 40 + j]).sum();
                assert!((sum[i * 40 + j] - 1.0 - expected).abs() < 1e-4);
            }
        }
        let mut out = vec![0.5; 300 * 40];
        multiply(&backend, &x, &sum, 70, 2.0, &mut out);
        let expected: f32 = (0..70).map(|k| x[299 * 70 + k] * sum[k * 40 + 39]).sum();
        assert!((out[299 * 40 + 39] - 1.0 - expected).abs() < 1e-3);
    }
}
