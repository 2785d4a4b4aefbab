//! A strided view of a matrix in a slice.

/// A matrix in a slice. Element (i, j) has the index `i · row_stride + j · column_stride` in the slice.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a, T> View<'a, T> {
    /// Creates a row-major view whose rows are `stride` elements apart.
    ///
    /// Panics if the matrix is not inside `data`, or if a product of the sizes overflows.
    pub fn new(data: &'a [T], rows: usize, columns: usize, stride: usize) -> Self {
        assert_inside(data.len(), rows, columns, stride, 1);
        Self { data, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns row `index`. Panics unless the elements of a row are contiguous.
    pub fn row(&self, index: usize) -> &'a [T] {
        assert!(self.column_stride == 1 && index < self.rows, "a row of numbers that stand together");
        &self.data[index * self.row_stride..][..self.columns]
    }

    /// Returns the transposed view.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// Panics unless a matrix with these sizes and strides is inside a slice of `length` elements.
pub(crate) fn assert_inside(
    length: usize,
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
) {
    // If the index of the last element overflows, the matrix is outside every slice.
    let last_offset = |count: usize, stride: usize| count.saturating_sub(1).checked_mul(stride);
    let last = last_offset(rows, row_stride)
        .zip(last_offset(columns, column_stride))
        .and_then(|(a, b)| a.checked_add(b));
    assert!(
        rows == 0 || columns == 0 || last.is_some_and(|last| last < length),
        "a {rows} × {columns} matrix lies inside its slice"
    );
}
