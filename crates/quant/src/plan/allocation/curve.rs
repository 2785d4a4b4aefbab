//! The error of one tensor in each format, measured on some of its rows.

use crate::Error;
use crate::gather::Importance;
use crate::plan::Assignment;
use crate::solve::{ImportanceWeighted, Layer, Solver, first_not_finite};
use kvant_core::{Bytes, FormatRef, Shape, Tensor, format::FORMATS};
use kvant_kernels::Backend;
use kvant_model::Weights;

/// Maximum number of rows in the sample. The rows have equal distances in the tensor.
const SAMPLE_ROWS: usize = 64;

/// A format with its size and error for one tensor.
#[derive(Clone, Copy)]
pub struct Point {
    /// The format.
    pub format: FormatRef,
    /// Bytes of the whole tensor.
    pub bytes: u64,
    /// Squared error of the whole tensor, extrapolated from the sample. Each column is weighted by the mean square of
    /// its input.
    pub error: f64,
}

/// The formats of one tensor on the lower convex hull of (bytes, error). Each step along the hull takes more bytes and
/// lowers the error. Each step lowers the error per byte less than the previous step.
pub struct Curve {
    /// The points of the hull, sorted by bytes.
    pub points: Vec<Point>,
    /// The points of all measured formats.
    measured: Vec<Point>,
}

impl Curve {
    /// Measures every format that the tensor's rows allow. If `fixed` is true, measures only the assigned format. A
    /// tensor that keeps its format is copied, so its own format has no error.
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
        let importance = importance.mean_square(&entry.name, columns, entry.experts())?;
        // The sample has rows of all experts: it uses the mean of their importance.
        let importance = importance.map(|all| mean_of_experts(&all, columns));
        let original = sample.decode();
        // Converts the index of an element in the sample to its index in the tensor.
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
            if format == entry.format {
                points.push(Point { format, bytes: bytes as u64, error: 0.0 });
                continue;
            }
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

    /// Returns the error in a format; `None` if this format was not measured.
    pub fn error(&self, format: FormatRef) -> Option<f64> {
        self.measured.iter().find(|p| p.format == format).map(|p| p.error)
    }

    /// Returns the format on the hull whose size is nearest to `bits` bits per weight.
    pub fn nearest(&self, bits: f64) -> FormatRef {
        let distance = |p: &&Point| (p.format.bits_per_weight() - bits).abs();
        let best = self.points.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        best.map_or(self.points[0].format, |p| p.format)
    }
}

/// Returns true if a tensor of format `from` may get `format`: any format with codes, or its own format.
fn is_candidate(format: FormatRef, from: FormatRef) -> bool {
    format.grid().is_some() || format == from
}

/// Returns the lower convex hull of points that are sorted by bytes.
fn hull(points: &[Point]) -> Vec<Point> {
    let mut hull: Vec<Point> = Vec::new();
    for &point in points {
        if hull.last().is_some_and(|last| point.error >= last.error || point.bytes == last.bytes) {
            continue;
        }
        // Removes the middle point b of the three points a, b and `point` if the step from b to `point` lowers the
        // error per byte at least as much as the step from a to b.
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

/// Returns the mean of the experts' lists of `columns` values.
fn mean_of_experts(importance: &[f32], columns: usize) -> Vec<f32> {
    let experts = (importance.len() / columns) as f32;
    let mean = |column| importance.iter().skip(column).step_by(columns).sum::<f32>() / experts;
    (0..columns).map(mean).collect()
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
