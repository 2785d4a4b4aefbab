//! A matrix inside a slice.

/// A matrix inside a slice: element (i, j) at `i · row_stride + j · column_stride`.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a, T> View<'a, T> {
    /// Rows of `columns` numbers, `stride` apart. Panics unless they lie inside `data`, also where a product of sizes
    /// wraps.
    pub fn new(data: &'a [T], rows: usize, columns: usize, stride: usize) -> Self {
        inside(data.len(), rows, columns, stride, 1);
        Self { data, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Row `index`, where its numbers stand together. Panics unless they do.
    pub fn row(&self, index: usize) -> &'a [T] {
        assert!(self.column_stride == 1 && index < self.rows, "a row of numbers that stand together");
        &self.data[index * self.row_stride..][..self.columns]
    }

    /// Rows and columns exchanged.
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

/// Panics unless a matrix of these sizes lies inside a slice of this length.
pub(crate) fn inside(length: usize, rows: usize, columns: usize, row_stride: usize, column_stride: usize) {
    // Sizes whose products wrap lie outside every slice.
    let far = |count: usize, stride: usize| count.saturating_sub(1).checked_mul(stride);
    let last = far(rows, row_stride).zip(far(columns, column_stride)).and_then(|(a, b)| a.checked_add(b));
    assert!(
        rows == 0 || columns == 0 || last.is_some_and(|last| last < length),
        "a {rows} × {columns} matrix lies inside its slice"
    );
}
