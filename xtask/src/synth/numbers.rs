//! Normally distributed weights, the same on every machine.
//!
//! Marsaglia's polar method: its square root and divisions are exact everywhere, and the logarithm is our own,
//! because the system's differs in its last bits from one machine to the next. Work is cut by shape into pieces,
//! each with a stream of its own, so that the number of threads changes nothing.

use kvant::core::{Bytes, Error, Shape, Tensor};
use kvant::io::PlannedTensor;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use std::f64::consts::{LN_2, SQRT_2};

/// The seed of every synthetic model.
const SEED: [u8; 32] = *b"kvant synthetic model, version 1";

/// Numbers that one thread makes at once.
const PIECE_ELEMENTS: usize = 1 << 16;

/// How much larger the numbers of an outlier column are.
const OUTLIER: f32 = 8.0;

/// What the numbers of a tensor are drawn from.
pub struct Values {
    mean: f32,
    deviation: f32,
    outlier_columns: usize,
}

impl Values {
    /// The weights of a norm.
    pub fn norm() -> Self {
        Self { mean: 1.0, deviation: 0.1, outlier_columns: 0 }
    }

    /// The weights of a linear map: a few columns stand out, as trained networks have them, and give quantizers
    /// something to do.
    pub fn map(columns: usize, deviation: f32) -> Self {
        Self { mean: 0.0, deviation, outlier_columns: (columns / 512).max(2) }
    }
}

/// The tensor of this plan; `index`, its place in the file, picks its numbers.
pub fn tensor(planned: &PlannedTensor, index: u32, values: &Values) -> Result<Tensor, Error> {
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
        planned.format.encode(&numbers, None, bytes);
    });
    Tensor::new(planned.shape, planned.format, Bytes::from(bytes))
}

fn stream(index: u32, piece: u32) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::from_seed(SEED);
    random.set_stream(u64::from(index) << 32 | u64::from(piece));
    random
}

/// Fills `numbers` with mean 0 and deviation 1.
fn fill(random: &mut ChaCha8Rng, numbers: &mut [f32]) {
    // A number of (-1, 1), never 0.
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

/// ln of a normal positive number to about 1e-10, far beyond what f16 keeps, in plain arithmetic.
fn natural_logarithm(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1023;
    let mut mantissa = f64::from_bits(bits & MANTISSA | 1.0f64.to_bits());
    if mantissa > SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln m = 2 artanh t = 2 (t + t³/3 + t⁵/5 + …), |t| < 0.172.
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
        // Four standard errors of each.
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
