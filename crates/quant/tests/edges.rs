//! Weights at the edge of what formats can store: each is stored, or refused by its own place and value.

mod random;

use kvant_core::{Bytes, FormatRef, Shape, Tensor, format};
use kvant_kernels::{Backend, Isa};
use kvant_quant::{Inputs, Layer, METHODS, Missing, Solved, Statistics, method};
use random::normal;

const ROWS: usize = 4;
/// One block of the widest formats: methods with a Gram matrix take eight times as long for twice as many.
const COLUMNS: usize = 256;
/// Row 2, neither the first nor the last small block of it, nor the first element of its block.
const PLACE: usize = 2 * COLUMNS + 140;

/// Weights as they usually are, and one that is not.
fn weight(odd: f32) -> Tensor {
    let mut values: Vec<f32> = normal(ROWS * COLUMNS, 3).into_iter().map(|x| x * 0.02).collect();
    values[PLACE] = odd;
    tensor(&values)
}

fn tensor(values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Tensor::new(Shape::new(&[ROWS, COLUMNS]).unwrap(), &format::F32, Bytes::from(bytes)).unwrap()
}

struct Bench {
    backend: Backend,
    sums: Statistics,
    importance: Vec<f32>,
}

impl Bench {
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
        let layer = Layer {
            importance: Some(&self.importance),
            statistics: Some(&self.sums),
            ..Layer::uncalibrated("map.weight", weight, &self.backend)
        };
        method(name).unwrap().solve(&layer, format).unwrap()
    }
}

/// The stored value, or `None` where the weight was refused by its own place.
fn stored(bench: &Bench, method: &str, format: FormatRef, odd: f32) -> Option<f32> {
    let solved = bench.solve(method, &weight(odd), format);
    match solved.overflow {
        None => {
            let values = solved.tensor.decode();
            assert!(values.iter().all(|x| x.is_finite()), "{method} {}: {odd:e}", format.name());
            Some(values[PLACE])
        }
        Some(found) => {
            assert_eq!(found, (PLACE, odd), "{method} {}: {odd:e}", format.name());
            None
        }
    }
}

#[test]
fn a_large_weight_is_stored_or_refused_by_its_place() {
    let bench = Bench::new();
    for method in METHODS.iter().map(|m| m.name()) {
        // The walk's methods are slow and share their path.
        let quick = ["rtn", "imatrix"].contains(&method);
        let step = if quick { 1.7f32 } else { 3e8 };
        let odds: &[f32] = if quick { &[1e6, 3e38, -3e38, f32::MAX, f32::MIN] } else { &[3e38] };
        for &format in format::FORMATS {
            let mut magnitude = 1e3f32;
            let mut refused = None;
            while magnitude.is_finite() {
                for odd in [magnitude, -magnitude] {
                    let context = || format!("{method} {} {odd:e}", format.name());
                    match stored(&bench, method, format, odd) {
                        Some(value) => {
                            assert!((value / odd - 1.0).abs() < 0.35, "{} became {value:e}", context());
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
            for &odd in odds {
                let value = stored(&bench, method, format, odd);
                let wide = ["f32", "bf16", "mxfp4"].contains(&format.name());
                // The largest numbers of all round to infinity even there.
                let decided = odd == 1e6 || wide && odd.abs() == f32::MAX;
                assert!(decided || value.is_some() == wide, "{method} {} {odd:e}", format.name());
            }
        }
    }
}

/// The last number that is taken is stored, the next one is refused: nothing between is stored as something else.
#[test]
fn the_largest_weights_that_fit_are_stored() {
    let bench = Bench::new();
    for &format in format::FORMATS {
        for sign in [1.0f32, -1.0] {
            let taken = |bits: u32| stored(&bench, "rtn", format, sign * f32::from_bits(bits));
            let (mut low, mut high) = (1f32.to_bits(), f32::MAX.to_bits() + 1);
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if taken(middle).is_some() { low = middle } else { high = middle }
            }
            let largest = f32::from_bits(low);
            let value = taken(low).unwrap().abs();
            assert!((value / largest - 1.0).abs() < 0.35, "{}: {largest:e} is {value:e}", format.name());
            // Every format here holds what f16 holds.
            assert!(largest >= 65_504.0, "{}: {largest:e}", format.name());
            if let Some(grid) = format.grid() {
                assert!(largest <= grid.reach(), "{}: {largest:e}", format.name());
            }
        }
    }
}

/// Of several that overflow, those of the first row count, and the largest of them is named.
#[test]
fn the_first_row_that_overflows_is_named() {
    let bench = Bench::new();
    let mut values: Vec<f32> = normal(ROWS * COLUMNS, 3).into_iter().map(|x| x * 0.02).collect();
    let places = [(COLUMNS + 7, 1e37), (COLUMNS + 400, -2e37), (3 * COLUMNS, 3e38)];
    places.iter().for_each(|&(at, x)| values[at] = x);
    let weight = tensor(&values);
    for format in format::FORMATS.iter().copied().filter(|f| !["f32", "bf16", "mxfp4"].contains(&f.name())) {
        for method in ["rtn", "imatrix", "gptq"] {
            let (at, value) = bench.solve(method, &weight, format).overflow.expect("an overflow");
            assert!(places[..2].contains(&(at, value)), "{method} {}: {at} {value:e}", format.name());
        }
    }
}

#[test]
fn what_is_not_finite_before_is_told_as_that() {
    let bench = Bench::new();
    for &format in format::FORMATS {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let solved = bench.solve("rtn", &weight(odd), format);
            assert_eq!(solved.not_finite.map(|(at, _)| at), Some(PLACE), "{}", format.name());
            assert!(solved.overflow.is_none());
        }
    }
}

#[test]
fn a_tensor_that_is_lost_is_flagged() {
    let bench = Bench::new();
    for &format in format::FORMATS {
        let flag = |scale: f32| {
            let values: Vec<f32> = normal(ROWS * COLUMNS, 3).into_iter().map(|x| x * scale).collect();
            METHODS
                .iter()
                .map(|m| bench.solve(m.name(), &tensor(&values), format).loss_flag())
                .collect::<Vec<_>>()
        };
        assert!(flag(0.02).iter().all(Option::is_none), "{}", format.name());
        assert!(flag(0.0).iter().all(Option::is_none), "{}: zeros stay zeros", format.name());
        let wide = ["f32", "bf16", "mxfp4"].contains(&format.name());
        let lost = flag(1e-14);
        assert!(
            lost.iter().all(|f| *f == if wide { None } else { Some("all-zero") }),
            "{}: {lost:?}",
            format.name()
        );
    }
    let solved = |error: f64, sum: f64| Solved {
        squared_error: error,
        squared_sum: sum,
        ..bench.solve("rtn", &weight(0.0), &format::F16)
    };
    assert_eq!(solved(0.24, 1.0).loss_flag(), None);
    assert_eq!(solved(0.25, 1.0).loss_flag(), Some("large-error"));
    assert_eq!(solved(1.0, 1.0).loss_flag(), Some("large-error"));
    assert_eq!(solved(9.0, 1.0).loss_flag(), Some("large-error"));
    assert_eq!(solved(f64::NAN, 1.0).loss_flag(), Some("large-error"));
    assert_eq!(solved(0.0, 0.0).loss_flag(), None);
}
