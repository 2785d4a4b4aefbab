//! Creates normally distributed weights that are the same on every machine.
//!
//! The method is Marsaglia's polar method. Its square root and divisions give the same bits everywhere. The logarithm
//! is our own, because the last bits of the system's logarithm differ between machines. The work is split into pieces,
//! and each piece has its own random stream, so that the number of threads does not change the result.

use kvant::core::{Bytes, Error, Shape, Tensor};
use kvant::io::PlannedTensor;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use std::f64::consts::{LN_2, SQRT_2};

/// The seed of every synthetic model.
const SEED: [u8; 32] = *b"kvant synthetic model, version 1";

/// Number of values that one thread creates in one piece.
const PIECE_ELEMENTS: usize = 1 << 16;

/// Factor between the deviation of an outlier column and that of the other columns.
const OUTLIER: f32 = 8.0;

/// The distribution of a tensor's values.
pub struct Values {
    mean: f32,
    deviation: f32,
    outlier_columns: usize,
}

impl Values {
    /// Returns the distribution of the weights of a norm.
    pub fn norm() -> Self {
        Self::around(1.0, 0.1)
    }

    /// Returns a normal distribution.
    pub fn around(mean: f32, deviation: f32) -> Self {
        Self { mean, deviation, outlier_columns: 0 }
    }

    /// Returns the distribution of the weights of a linear layer (map). A few columns are outliers, as in trained
    /// networks, so that quantizers have a realistic task.
    pub fn map(columns: usize, deviation: f32) -> Self {
        Self { mean: 0.0, deviation, outlier_columns: (columns / 512).max(2) }
    }
}

/// Creates the tensor of a plan. `index` is the position of the tensor in the file and selects its random stream.
/// Panics if the format of the tensor has no encoder.
pub fn tensor(planned: &PlannedTensor, index: u32, values: &Values) -> Result<Tensor, Error> {
    let encoder = planned.format.encoder().expect("a plan has formats that kvant writes");
    let columns = planned.shape.columns();
    let mut deviations = vec![values.deviation; columns];
    let mut random = stream(index, 0);
    for _ in 0..values.outlier_columns {
        deviations[(random.next_u64() % columns as u64) as usize] = values.deviation * OUTLIER;
    }
    let row_bytes = planned.format.tensor_bytes(&Shape::new(&[columns])?)?;
    let piece_rows = (PIECE_ELEMENTS / columns).max(1);
    let mut bytes = vec![0; planned.format.tensor_bytes(&planned.shape)?];
    bytes.par_chunks_mut(piece_rows * row_bytes).enumerate().for_each(|(piece, bytes)| {
        let mut numbers = vec![0.0; bytes.len() / row_bytes * columns];
        fill(&mut stream(index, 1 + piece as u32), &mut numbers);
        for row in numbers.chunks_exact_mut(columns) {
            row.iter_mut().zip(&deviations).for_each(|(x, deviation)| *x = values.mean + *x * deviation);
        }
        encoder.encode(&numbers, None, bytes);
    });
    Tensor::new(planned.shape, planned.format, Bytes::from(bytes))
}

fn stream(index: u32, piece: u32) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::from_seed(SEED);
    random.set_stream(u64::from(index) << 32 | u64::from(piece));
    random
}

/// Fills `numbers` with normally distributed values: mean 0, standard deviation 1.
fn fill(random: &mut ChaCha8Rng, numbers: &mut [f32]) {
    // Returns a value in (−1, 1) that is never 0.
    let unit = |bits: u32| (f64::from(bits as i32) + 0.5) / f64::from(1u32 << 31);
    for pair in numbers.chunks_mut(2) {
        let (x, y, square) = loop {
            let bits = random.next_u64();
            let (x, y) = (unit(bits as u32), unit((bits >> 32) as u32));
            let square = x * x + y * y;
            if square < 1.0 {
                break (x, y, square);
            }
        };
        let scale = (-2.0 * natural_logarithm(square) / square).sqrt();
        pair.iter_mut().zip([x, y]).for_each(|(number, part)| *number = (part * scale) as f32);
    }
}

/// Returns ln x of a normal positive float. The error is about 1e-10, which is much smaller than the precision of f16.
fn natural_logarithm(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1023;
    let mut mantissa = f64::from_bits(bits & MANTISSA | 1.0f64.to_bits());
    if mantissa > SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // For the mantissa m and t = (m − 1) / (m + 1): ln m = 2 artanh t = 2 (t + t³/3 + t⁵/5 + …), |t| < 0.172.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let series = [11.0, 9.0, 7.0, 5.0, 3.0, 1.0].iter().fold(0.0, |sum, odd| sum * square + 1.0 / odd);
    f64::from(exponent) * LN_2 + 2.0 * t * series
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvant::core::format;

    #[test]
    fn logarithm() {
        for x in [1e-300, 1.3e-19, 0.01, 0.5, 0.7, 0.71, 0.99999, 1.0] {
            let (found, expected) = (natural_logarithm(x), x.ln());
            assert!((found - expected).abs() < 1e-9, "ln {x}: {found}, expected {expected}");
        }
    }

    #[test]
    fn numbers_are_normal() {
        let mut numbers = vec![0.0; 1 << 20];
        fill(&mut stream(3, 1), &mut numbers);
        let moment = |power: i32| {
            numbers.iter().map(|&x| f64::from(x).powi(power)).sum::<f64>() / numbers.len() as f64
        };
        // The bound of each moment is four standard errors.
        for (power, expected, bound) in [(1, 0.0, 0.004), (2, 1.0, 0.006), (3, 0.0, 0.016), (4, 3.0, 0.04)] {
            let found = moment(power);
            assert!((found - expected).abs() < bound, "moment {power}: {found}");
        }
        let within = numbers.iter().filter(|x| x.abs() < 1.0).count() as f64 / numbers.len() as f64;
        assert!((within - 0.6827).abs() < 0.002, "{within} within one deviation");
    }

    #[test]
    fn a_few_columns_stand_out() {
        let shape = Shape::new(&[768, 256]).expect("a shape");
        let planned = PlannedTensor { name: "map".into(), shape, format: &format::F16 };
        let decoded = tensor(&planned, 7, &Values::map(256, 0.02)).expect("a tensor").decode();
        let deviation = |column: usize| {
            let squares = decoded.iter().skip(column).step_by(256).map(|x| x * x);
            (squares.sum::<f32>() / 768.0).sqrt()
        };
        let outliers = (0..256).map(deviation).filter(|d| (d / 0.16 - 1.0).abs() < 0.12).count();
        let plain = (0..256).map(deviation).filter(|d| (d / 0.02 - 1.0).abs() < 0.12).count();
        assert_eq!((outliers, plain), (2, 254));
    }
}
