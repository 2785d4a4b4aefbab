//! Dimensions of a tensor, outermost first: a weight is `(out, in)`, also if the file lists `(in, out)`.

use crate::Error;
use std::fmt;

/// One to five dimensions, outermost first. Their product fits `usize`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dimensions: [usize; Shape::MAX_DIMENSIONS],
    count: u8,
}

impl Shape {
    /// One more than the maximum of GGUF: enough for a convolution over space and time.
    pub const MAX_DIMENSIONS: usize = 5;

    /// Creates a shape. Checks the number of dimensions and the size of their product.
    ///
    /// # Errors
    /// [`Error::Dimensions`] or [`Error::TooLarge`].
    pub fn new(dimensions: &[usize]) -> Result<Self, Error> {
        if dimensions.is_empty() || dimensions.len() > Self::MAX_DIMENSIONS {
            return Err(Error::Dimensions { found: dimensions.len(), max: Self::MAX_DIMENSIONS });
        }
        let product = dimensions.iter().try_fold(1usize, |p, &d| p.checked_mul(d));
        // With this bound, the byte length fits `isize` in each format (at most 4 bytes per element).
        if product.is_none_or(|p| p > isize::MAX as usize / 8) {
            return Err(Error::TooLarge { dimensions: dimensions.to_vec() });
        }
        let mut all = [1; Self::MAX_DIMENSIONS];
        all[..dimensions.len()].copy_from_slice(dimensions);
        Ok(Self { dimensions: all, count: dimensions.len() as u8 })
    }

    /// The dimensions, outermost first.
    pub fn dimensions(&self) -> &[usize] {
        &self.dimensions[..self.count as usize]
    }

    /// The length of the innermost dimension, which is the row length.
    pub fn columns(&self) -> usize {
        self.dimensions[self.count as usize - 1]
    }

    /// The number of rows: the product of all outer dimensions.
    pub fn rows(&self) -> usize {
        self.dimensions[..self.count as usize - 1].iter().product()
    }

    /// The product of all dimensions.
    pub fn elements(&self) -> usize {
        self.dimensions().iter().product()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, d) in self.dimensions().iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
