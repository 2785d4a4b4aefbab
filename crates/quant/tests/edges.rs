//! Weights at the limits of the formats. Each weight is stored, or it is rejected and its position and value are
//! reported.

mod random;

use kvant_core::{Bytes, FormatRef, Shape, Tensor, format};
use kvant_kernels::{Backend, Isa};
use kvant_quant::{Error, Flag, Inputs, Layer, METHODS, Missing, Solved, Statistics, method};
use random::normal;

const ROWS: usize = 4;
/// One block of the formats with the largest blocks. The time of methods with a Gram matrix grows with the third power
/// of this number.
const COLUMNS: usize = 256;
/// The position of the outlier: in row 2, in a small block that is neither the first nor the last one of the row, and
/// not at the start of the block.
const POSITION: usize = 2 * COLUMNS + 140;

/// Returns all formats that have an encoder.
fn written() -> impl Iterator<Item = FormatRef> {
    format::FORMATS.iter().copied().filter(|f| f.encoder().is_some())
}

/// Returns weights of usual size, and one outlier.
fn weight(outlier: f32) -> Tensor {
    let mut values: Vec<f32> = normal(ROWS * COLUMNS, 3).into_iter().map(|x| x * 0.02).collect();
    values[POSITION] = outlier;
    tensor(&values)
}

fn tensor(values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Tensor::new(Shape::new(&[ROWS, COLUMNS]).unwrap(), &format::F32, Bytes::from(bytes)).unwrap()
}

struct Fixture {
    backend: Backend,
    sums: Statistics,
    importance: Vec<f32>,
}

impl Fixture {
    fn new() -> Self {
        let backend = Backend::new(Isa::best(), 1);
        let x = normal(600 * COLUMNS, 5);
        let mut sums = Statistics::new(COLUMNS, Missing::Nothing);
        sums.add(&backend, &Inputs { quantized: &x, missed: &[], weights: None });
        sums.finish();
        let importance = sums.mean_squares();
        Self { backend, sums, importance }
    }

    fn solve(&self, name: &str, weight: &Tensor, format: FormatRef) -> Solved {
        self.try_solve(name, weight, format).unwrap()
    }

    fn try_solve(&self, name: &str, weight: &Tensor, format: FormatRef) -> Result<Solved, Error> {
        let layer = Layer {
            importance: Some(&self.importance),
            statistics: Some(&self.sums),
            ..Layer::uncalibrated("map.weight", weight, &self.backend)
        };
        method(name).unwrap().solve(&layer, format)
    }
}

/// Returns the stored value of the outlier, or `None` if it was rejected and reported.
fn stored(fixture: &Fixture, method: &str, format: FormatRef, outlier: f32) -> Option<f32> {
    let solved = fixture.solve(method, &weight(outlier), format);
    match solved.overflow {
        None => {
            let values = solved.tensor.decode();
            assert!(values.iter().all(|x| x.is_finite()), "{method} {}: {outlier:e}", format.name());
            Some(values[POSITION])
        }
        Some(found) => {
            assert_eq!(found, (POSITION, outlier), "{method} {}: {outlier:e}", format.name());
            None
        }
    }
}

#[test]
fn a_large_weight_is_stored_or_rejected_at_its_position() {
    let fixture = Fixture::new();
    for method in METHODS.iter().map(|m| m.name()) {
        // The methods with a Gram matrix are slow and use the same code.
        let quick = ["rtn", "imatrix"].contains(&method);
        let step = if quick { 1.7f32 } else { 3e8 };
        let outliers: &[f32] = if quick { &[1e6, 3e38, -3e38, f32::MAX, f32::MIN] } else { &[3e38] };
        for format in written() {
            let mut magnitude = 1e3f32;
            let mut refused = None;
            while magnitude.is_finite() {
                for outlier in [magnitude, -magnitude] {
                    let context = || format!("{method} {} {outlier:e}", format.name());
                    match stored(&fixture, method, format, outlier) {
                        Some(value) => {
                            assert!((value / outlier - 1.0).abs() < 0.35, "{} became {value:e}", context());
                            assert!(
                                refused.is_none_or(|r| magnitude < 40.0 * r),
                                "{} is taken again",
                                context()
                            );
                        }
                        None => refused = refused.or(Some(magnitude)),
                    }
                }
                magnitude *= step;
            }
            for &outlier in outliers {
                let value = stored(&fixture, method, format, outlier);
                let wide = ["f32", "bf16", "mxfp4"].contains(&format.name());
                // Even wide formats round the largest values to infinity.
                let decided = outlier == 1e6 || wide && outlier.abs() == f32::MAX;
                assert!(decided || value.is_some() == wide, "{method} {} {outlier:e}", format.name());
            }
        }
    }
}

/// There is a largest weight that is stored, and the next larger value is rejected. Every smaller weight is stored with
/// about its value.
#[test]
fn the_largest_weights_that_fit_are_stored() {
    let fixture = Fixture::new();
    for format in written() {
        for sign in [1.0f32, -1.0] {
            let taken = |bits: u32| stored(&fixture, "rtn", format, sign * f32::from_bits(bits));
            let (mut low, mut high) = (1f32.to_bits(), f32::MAX.to_bits() + 1);
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if taken(middle).is_some() { low = middle } else { high = middle }
            }
            let largest = f32::from_bits(low);
            let value = taken(low).unwrap().abs();
            assert!((value / largest - 1.0).abs() < 0.35, "{}: {largest:e} is {value:e}", format.name());
            // Every format can hold all finite f16 values.
            assert!(largest >= 65_504.0, "{}: {largest:e}", format.name());
            if let Some(grid) = format.grid() {
                assert!(largest <= grid.reach(), "{}: {largest:e}", format.name());
            }
        }
    }
}

/// If several weights overflow, a weight of the first affected row is reported.
#[test]
fn the_first_row_that_overflows_is_named() {
    let fixture = Fixture::new();
    let mut values: Vec<f32> = normal(ROWS * COLUMNS, 3).into_iter().map(|x| x * 0.02).collect();
    let places = [(COLUMNS + 7, 1e37), (COLUMNS + 400, -2e37), (3 * COLUMNS, 3e38)];
    places.iter().for_each(|&(at, x)| values[at] = x);
    let weight = tensor(&values);
    for format in written().filter(|f| !["f32", "bf16", "mxfp4"].contains(&f.name())) {
        for method in ["rtn", "imatrix", "gptq"] {
            let (at, value) = fixture.solve(method, &weight, format).overflow.expect("an overflow");
            assert!(places[..2].contains(&(at, value)), "{method} {}: {at} {value:e}", format.name());
        }
    }
}

/// A read-only format is refused by name, but its tensors can be quantized to another format.
#[test]
fn a_read_only_format_is_a_source_and_no_target() {
    let fixture = Fixture::new();
    let read_only = || format::FORMATS.iter().copied().filter(|f| f.encoder().is_none());
    assert!(read_only().count() > 0);
    for format in read_only() {
        let shape = Shape::new(&[ROWS, COLUMNS]).unwrap();
        let bytes = vec![0x21; format.tensor_bytes(&shape).unwrap()];
        let weight = Tensor::new(shape, format, Bytes::from(bytes)).unwrap();
        for method in METHODS.iter().map(|m| m.name()) {
            match fixture.try_solve(method, &weight, format) {
                Err(Error::ReadOnly { tensor, format: refused }) => {
                    assert_eq!((tensor.as_str(), refused), ("map.weight", format.name()), "{method}");
                }
                other => panic!("{method} {}: {other:?}", format.name()),
            }
            let solved = fixture.solve(method, &weight, &format::Q8_0);
            assert!(solved.squared_sum > 0.0, "{}: the test says nothing", format.name());
            assert!(solved.squared_error < 1e-3 * solved.squared_sum, "{method} {}", format.name());
        }
    }
}

#[test]
fn weights_that_are_not_finite_are_reported() {
    let fixture = Fixture::new();
    for format in written() {
        for outlier in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let solved = fixture.solve("rtn", &weight(outlier), format);
            assert_eq!(solved.not_finite.map(|(at, _)| at), Some(POSITION), "{}", format.name());
            assert!(solved.overflow.is_none());
        }
    }
}

#[test]
fn a_tensor_with_a_large_error_is_flagged() {
    let fixture = Fixture::new();
    for format in written() {
        let flag = |scale: f32| {
            let values: Vec<f32> = normal(ROWS * COLUMNS, 3).into_iter().map(|x| x * scale).collect();
            METHODS
                .iter()
                .map(|m| fixture.solve(m.name(), &tensor(&values), format).loss_flag())
                .collect::<Vec<_>>()
        };
        assert!(flag(0.02).iter().all(Option::is_none), "{}", format.name());
        assert!(flag(0.0).iter().all(Option::is_none), "{}: zeros stay zeros", format.name());
        let wide = ["f32", "bf16", "mxfp4"].contains(&format.name());
        let flags = flag(1e-14);
        assert!(
            flags.iter().all(|f| *f == if wide { None } else { Some(Flag::AllZero) }),
            "{}: {flags:?}",
            format.name()
        );
    }
    let solved = |error: f64, sum: f64| Solved {
        squared_error: error,
        squared_sum: sum,
        ..fixture.solve("rtn", &weight(0.0), &format::F16)
    };
    assert_eq!(solved(0.24, 1.0).loss_flag(), None);
    assert_eq!(solved(0.25, 1.0).loss_flag(), Some(Flag::LargeError));
    assert_eq!(solved(1.0, 1.0).loss_flag(), Some(Flag::LargeError));
    assert_eq!(solved(9.0, 1.0).loss_flag(), Some(Flag::LargeError));
    assert_eq!(solved(f64::NAN, 1.0).loss_flag(), Some(Flag::LargeError));
    assert_eq!(solved(0.0, 0.0).loss_flag(), None);
}
