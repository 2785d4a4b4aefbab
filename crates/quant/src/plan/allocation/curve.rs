//! What one tensor loses in each format, on some of its rows.

use crate::Error;
use crate::gather::Importance;
use crate::plan::Assignment;
use crate::solve::{ImportanceWeighted, Layer, Solver, first_not_finite};
use kvant_core::{Bytes, FormatRef, Shape, Tensor, format::FORMATS};
use kvant_kernels::Backend;
use kvant_model::Weights;

/// Rows that are tried, spread evenly.
const ROWS: usize = 64;

/// A format, its bytes and its error.
#[derive(Clone, Copy)]
pub struct Point {
    /// The format.
    pub format: FormatRef,
    /// Bytes of the whole tensor.
    pub bytes: u64,
    /// Squared error of the whole tensor, columns weighted by their mean squares.
    pub error: f64,
}

/// The formats that are worth their bytes: more bytes, less error, and each byte buys less than the one before.
pub struct Curve {
    /// From the fewest bytes on.
    pub points: Vec<Point>,
    /// All that were tried.
    tried: Vec<Point>,
}

impl Curve {
    /// Tries every format that the tensor's rows allow; where the format is `fixed`, that alone.
    ///
    /// # Errors
    /// Numbers that are not finite, or that no format of those holds.
    pub fn new(
        weights: &Weights,
        assignment: &Assignment,
        fixed: bool,
        importance: &Importance,
        backend: &Backend,
    ) -> Result<Self, Error> {
        let entry = &assignment.entry;
        let weight = weights.tensor(&entry.name)?;
        let (columns, rows) = (entry.shape.columns(), entry.shape.elements() / entry.shape.columns());
        let tried = ROWS.min(rows);
        let mut bytes = Vec::with_capacity(tried * weight.row_bytes());
        (0..tried).for_each(|i| bytes.extend_from_slice(weight.rows(i * rows / tried, 1)));
        let shape_error = |source| Error::Shape { tensor: entry.name.clone(), source };
        let shape = Shape::new(&[tried, columns]).map_err(shape_error)?;
        let sample = Tensor::new(shape, entry.format, Bytes::from(bytes)).map_err(shape_error)?;
        let importance = importance.mean_square(&entry.name, columns, 1)?;
        let original = sample.decode();
        // Where an element of the sample stands in the tensor.
        let place = |at: usize| at / columns * rows / tried * columns + at % columns;
        if let Some(at) = first_not_finite(&original) {
            return Err(Error::NotFinite {
                path: weights.path().to_owned(),
                tensor: entry.name.clone(),
                element: place(at),
                value: original[at],
            });
        }
        let (mut points, mut overflow) = (Vec::new(), None);
        let formats = FORMATS
            .iter()
            .copied()
            .filter(|f| if fixed { *f == assignment.format } else { able(*f, entry.format) });
        for format in formats {
            let Ok(bytes) = format.tensor_bytes(&entry.shape) else { continue };
            let layer = Layer {
                importance: importance.as_deref(),
                ..Layer::uncalibrated(&entry.name, &sample, backend)
            };
            let solved = ImportanceWeighted.solve(&layer, format)?;
            overflow = overflow.or(solved.overflow.map(|found| (format, found)));
            let overflows = solved.overflow.is_some();
            let solved = solved.tensor.decode();
            let mut error = 0.0f64;
            for (x, y) in original.chunks_exact(columns).zip(solved.chunks_exact(columns)) {
                for (j, (x, y)) in x.iter().zip(y).enumerate() {
                    let weight = importance.as_ref().map_or(1.0, |w| f64::from(w[j]));
                    error += weight * f64::from(x - y) * f64::from(x - y);
                }
            }
            let error = error * rows as f64 / tried as f64;
            // What overflows a format is no choice.
            if !overflows && error.is_finite() {
                points.push(Point { format, bytes: bytes as u64, error });
            }
        }
        if points.is_empty() {
            let (format, (element, value)) = overflow.unwrap_or((assignment.format, (0, original[0])));
            let (path, tensor) = (weights.path().to_owned(), entry.name.clone());
            let (element, format) = (place(element), format.name());
            return Err(Error::Overflow { path, tensor, element, value, format });
        }
        points.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.error.total_cmp(&b.error)));
        Ok(Self { points: hull(&points), tried: points })
    }

    /// The error in a format, where it was tried.
    pub fn error(&self, format: FormatRef) -> Option<f64> {
        self.tried.iter().find(|p| p.format == format).map(|p| p.error)
    }

    /// The format whose size comes nearest to so many bits a weight.
    pub fn nearest(&self, bits: f64) -> FormatRef {
        let distance = |p: &&Point| (p.format.bits_per_weight() - bits).abs();
        let best = self.points.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        best.map_or(self.points[0].format, |p| p.format)
    }
}

/// Whether a tensor of format `from` may become `format`: any format of codes, or the 16 bits that it has.
fn able(format: FormatRef, from: FormatRef) -> bool {
    format.grid().is_some() || format == from
}

/// The lower convex hull.
fn hull(points: &[Point]) -> Vec<Point> {
    let mut hull: Vec<Point> = Vec::new();
    for &point in points {
        if hull.last().is_some_and(|last| point.error >= last.error || point.bytes == last.bytes) {
            continue;
        }
        // The middle one of three goes where the last one's bytes buy more than its own.
        while let [.., a, b] = hull[..]
            && (a.error - b.error) * (point.bytes - b.bytes) as f64
                <= (b.error - point.error) * (b.bytes - a.bytes) as f64
        {
            hull.pop();
        }
        hull.push(point);
    }
    hull
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hull_keeps_what_is_worth_its_bytes() {
        let point = |bytes, error| Point { format: FORMATS[0], bytes, error };
        let points = [
            point(1, 10.0),
            point(1, 11.0),
            point(2, 9.0),
            point(3, 4.0),
            point(4, 4.5),
            point(6, 1.0),
            point(7, 1.0),
        ];
        let kept: Vec<(u64, f64)> = hull(&points).iter().map(|p| (p.bytes, p.error)).collect();
        assert_eq!(kept, [(1, 10.0), (3, 4.0), (6, 1.0)]);
    }
}
