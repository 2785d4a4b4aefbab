//! Dimensions of a tensor, outermost first: a weight is `(out, in)`, also where the file says `(in, out)`.

use crate::Error;
use std::fmt;

/// One to five dimensions, outermost first, whose product is known to fit `usize`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dimensions: [usize; Shape::MAX_DIMENSIONS],
    count: u8,
}

impl Shape {
    /// One more than GGUF stores: enough for a convolution over space and time.
    pub const MAX_DIMENSIONS: usize = 5;

    /// Checks the count of dimensions and that their product fits.
    ///
    /// # Errors
    /// [`Error::Dimensions`] or [`Error::TooLarge`].
    pub fn new(dimensions: &[usize]) -> Result<Self, Error> {
        if dimensions.is_empty() || dimensions.len() > Self::MAX_DIMENSIONS {
            return Err(Error::Dimensions { found: dimensions.len(), max: Self::MAX_DIMENSIONS });
        }
        let product = dimensions.iter().try_fold(1usize, |p, &d| p.checked_mul(d));
        // The bound keeps byte lengths of any format (at most 4 bytes an element) inside `isize`.
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

    /// Length of the innermost dimension: a row.
    pub fn columns(&self) -> usize {
        self.dimensions[self.count as usize - 1]
    }

    /// How many rows all outer dimensions make together.
    pub fn rows(&self) -> usize {
        self.dimensions[..self.count as usize - 1].iter().product()
    }

    /// Product of all dimensions.
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
