//! The error of one tensor in each format, measured on some of its rows.

use crate::Error;
use crate::gather::Importance;
use crate::plan::Assignment;
use crate::solve::{ImportanceWeighted, Layer, Solver, first_not_finite};
use kvant_core::{Bytes, FormatRef, Shape, Tensor, format::FORMATS};
use kvant_kernels::Backend;
use kvant_model::Weights;

/// Rows of the sample, at equal distances.
const SAMPLE_ROWS: usize = 64;

/// A format with its size and error for one tensor.
#[derive(Clone, Copy)]
pub struct Point {
    /// The format.
    pub format: FormatRef,
    /// Bytes of the whole tensor.
    pub bytes: u64,
    /// Squared error of the whole tensor, with columns weighted by the mean squares of their inputs.
    pub error: f64,
}

/// The formats of one tensor on the lower convex hull of (bytes, error). More bytes give less error, and each further
/// byte lowers the error less than the one before.
pub struct Curve {
    /// The hull, in the order of bytes.
    pub points: Vec<Point>,
    /// All formats that were measured.
    measured: Vec<Point>,
}

impl Curve {
    /// Measures every format that the tensor's rows allow. If the format is `fixed`, measures only the assigned one.
    ///
    /// # Errors
    /// Values that are not finite, or that overflow all measured formats; errors of reading and of the shape.
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
        let sampled = SAMPLE_ROWS.min(rows);
        let mut bytes = Vec::with_capacity(sampled * weight.row_bytes());
        (0..sampled).for_each(|i| bytes.extend_from_slice(weight.rows(i * rows / sampled, 1)));
        let shape_error = |source| Error::Shape { tensor: entry.name.clone(), source };
        let shape = Shape::new(&[sampled, columns]).map_err(shape_error)?;
        let sample = Tensor::new(shape, entry.format, Bytes::from(bytes)).map_err(shape_error)?;
        let importance = importance.mean_square(&entry.name, columns, 1)?;
        let original = sample.decode();
        // The index in the tensor of an element of the sample.
        let tensor_index = |at: usize| at / columns * rows / sampled * columns + at % columns;
        if let Some(at) = first_not_finite(&original) {
            return Err(Error::NotFinite {
                path: weights.path().to_owned(),
                tensor: entry.name.clone(),
                element: tensor_index(at),
                value: original[at],
            });
        }
        let (mut points, mut overflow) = (Vec::new(), None);
        let formats = FORMATS
            .iter()
            .copied()
            .filter(|f| if fixed { *f == assignment.format } else { is_candidate(*f, entry.format) });
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
            let error = error * rows as f64 / sampled as f64;
            // A format that overflows is not a candidate.
            if !overflows && error.is_finite() {
                points.push(Point { format, bytes: bytes as u64, error });
            }
        }
        if points.is_empty() {
            let (format, (element, value)) = overflow.unwrap_or((assignment.format, (0, original[0])));
            let (path, tensor) = (weights.path().to_owned(), entry.name.clone());
            let (element, format) = (tensor_index(element), format.name());
            return Err(Error::Overflow { path, tensor, element, value, format });
        }
        points.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.error.total_cmp(&b.error)));
        Ok(Self { points: hull(&points), measured: points })
    }

    /// The error in a format; `None` if it was not measured.
    pub fn error(&self, format: FormatRef) -> Option<f64> {
        self.measured.iter().find(|p| p.format == format).map(|p| p.error)
    }

    /// The format on the hull whose size is nearest to `bits` bits per weight.
    pub fn nearest(&self, bits: f64) -> FormatRef {
        let distance = |p: &&Point| (p.format.bits_per_weight() - bits).abs();
        let best = self.points.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        best.map_or(self.points[0].format, |p| p.format)
    }
}

/// Returns true if a tensor of format `from` may get `format`: any quantized format, or its own format.
fn is_candidate(format: FormatRef, from: FormatRef) -> bool {
    format.grid().is_some() || format == from
}

/// The lower convex hull of points that are sorted by bytes.
fn hull(points: &[Point]) -> Vec<Point> {
    let mut hull: Vec<Point> = Vec::new();
    for &point in points {
        if hull.last().is_some_and(|last| point.error >= last.error || point.bytes == last.bytes) {
            continue;
        }
        // Removes the middle of three points if the step to the last point lowers the error more per byte than the step
        // to the middle one.
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
