//! Compares the products of every instruction set with those of the scalar code, for every format and for shapes that
//! are not a multiple of the tile sizes.

use kvant_core::{Bytes, FormatRef, Shape, Tensor, format};
use kvant_kernels::{Arithmetic, Backend, Isa, Precision};

fn floats(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 506.0 - 1.0).collect()
}

/// Returns rows of a format, with values of usual size. A read-only format gets bytes of which any two are an `f16` of
/// usual size, in place of encoded floats.
fn weights(format: FormatRef, shape: Shape) -> Tensor {
    let mut bytes = vec![0; format.tensor_bytes(&shape).unwrap()];
    match format.encoder() {
        Some(encoder) => encoder.encode(&floats(shape.elements(), 1), None, &mut bytes),
        None => {
            let mixed = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 16;
            bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = mixed(i) as u8 & 0x8f | 0x20);
        }
    }
    Tensor::new(shape, format, Bytes::from(bytes)).unwrap()
}

/// Float products, with weights decoded during the product or repacked before it. The code of all vector instruction
/// sets gives the same bits, and a row's result does not depend on the other rows. The scalar code gives only close
/// results, because it rounds two times where FMA rounds one time.
#[test]
fn float_products_match_the_scalar_path() {
    for format in format::FORMATS {
        let unit = format.block().elements;
        for (rows, blocks) in [(1, 1), (5, 3), (33, 13), (67, 2), (130, 1)] {
            // Formats without blocks allow rows that are not a multiple of the vector length.
            let columns = if unit == 1 { 37 * blocks } else { unit * blocks };
            let tensor = weights(*format, Shape::new(&[rows, columns]).unwrap());
            let largest = tensor.decode().iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            assert!(largest > 1e-3 && largest < 1e3, "{}: {largest}", format.name());
            let repacked = format.grid().is_none().then_some(Arithmetic::Integer(Precision::Int8));
            for n in [1, 2, 3, 4, 5, 13, 16, 63, 64, 65] {
                let x = floats(n * columns, 2);
                let run = |isa: Isa, threads: usize, arithmetic: Arithmetic, x: &[f32]| {
                    let mut y = vec![f32::NAN; x.len() / columns * rows];
                    let backend = Backend::new(isa, threads).with(arithmetic);
                    backend.load(&tensor).unwrap().multiply(x, &mut y);
                    y
                };
                let oracle = run(Isa::Scalar, 1, Arithmetic::Float, &x);
                let bound = 1e-6 * columns as f32 * largest.max(1.0);
                let mut vectors: Option<Vec<f32>> = None;
                for isa in Isa::available() {
                    for arithmetic in [Some(Arithmetic::Float), repacked].into_iter().flatten() {
                        let place =
                            format!("{} {rows} × {columns}, {n} {isa:?} {arithmetic:?}", format.name());
                        let found = run(isa, 3, arithmetic, &x);
                        let worst = oracle.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                        assert!(worst < bound && found.iter().all(|y| y.is_finite()), "{place}: {worst}");
                        let alone = run(isa, 1, arithmetic, &x[(n - 1) * columns..]);
                        assert!(found[(n - 1) * rows..] == alone, "{place}: not alone");
                        if isa != Isa::Scalar {
                            assert!(
                                vectors.get_or_insert_with(|| found.clone()) == &found,
                                "{place}: other bits"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Integer products, for each precision of the activations. All instruction sets give the same bits, a row's result
/// does not depend on the other rows, and the error relative to the float product is within the bound of the precision.
#[test]
fn integer_products_are_the_same_on_every_path_and_in_any_batch() {
    for format in format::FORMATS.iter().filter(|f| f.grid().is_some()) {
        let unit = format.block().elements;
        for (rows, blocks) in [(1, 1), (5, 3), (67, 2), (130, 1)] {
            let columns = unit * blocks;
            let tensor = weights(*format, Shape::new(&[rows, columns]).unwrap());
            for n in [1, 2, 3, 4, 5, 7, 8, 16, 17, 23, 24, 63, 65, 130] {
                let mut x = floats(n * columns, 2);
                // Outliers. Their number differs from row to row, and the second-to-last row has no outlier.
                x[0] = 9.0;
                x.iter_mut().step_by(37).for_each(|x| *x *= 30.0);
                if n > 1 {
                    x[(n - 2) * columns..(n - 1) * columns].fill(-0.25);
                }
                let run = |isa: Isa, threads: usize, arithmetic: Arithmetic, x: &[f32]| {
                    let mut y = vec![f32::NAN; x.len() / columns * rows];
                    let backend = Backend::new(isa, threads).with(arithmetic);
                    backend.load(&tensor).unwrap().multiply(x, &mut y);
                    y
                };
                let exact = run(Isa::Scalar, 1, Arithmetic::Float, &x);
                for (precision, bound) in Precision::ALL.into_iter().zip([0.1, 0.004, 1e-4]) {
                    let arithmetic = Arithmetic::Integer(precision);
                    let place = format!("{} {rows} × {columns}, {n}, {precision:?}", format.name());
                    let oracle = run(Isa::Scalar, 1, arithmetic, &x);
                    for isa in Isa::available() {
                        let found = run(isa, 3, arithmetic, &x);
                        assert!(found == oracle, "{place} {isa:?}");
                        let alone = run(isa, 1, arithmetic, &x[(n - 1) * columns..]);
                        assert!(found[(n - 1) * rows..] == alone, "{place} {isa:?}: not alone");
                    }
                    let square = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
                    let error = square(&mut oracle.iter().zip(&exact).map(|(a, b)| f64::from(a - b)));
                    let all = square(&mut exact.iter().map(|x| f64::from(*x)));
                    // With few results, all of them can be small by chance, and the relative error is then large.
                    let few = rows * n < 50;
                    assert!(few || (error / all).sqrt() < bound, "{place}: {}", (error / all).sqrt());
                }
            }
        }
    }
}

/// Subnormal weights count as zero with every instruction set, with and without repacking, and do not change other
/// weights.
#[test]
fn subnormal_weights_count_as_zero() {
    let (rows, columns) = (37, 300);
    let mut weights = floats(rows * columns, 1);
    for name in ["f32", "bf16"] {
        let make = |weights: &[f32]| {
            let format = format::by_name(name).unwrap();
            let shape = Shape::new(&[rows, columns]).unwrap();
            let mut bytes = vec![0; format.tensor_bytes(&shape).unwrap()];
            format.encoder().unwrap().encode(weights, None, &mut bytes);
            Tensor::new(shape, format, Bytes::from(bytes)).unwrap()
        };
        weights.iter_mut().step_by(3).for_each(|w| *w = -1e-39);
        let tiny = make(&weights);
        assert!(tiny.decode().iter().any(|x| x.is_subnormal()), "the test says nothing");
        weights.iter_mut().step_by(3).for_each(|w| *w = 0.0);
        let zero = make(&weights);
        // Activations so large that a product with a subnormal weight would change the result.
        let x: Vec<f32> = floats(5 * columns, 2).iter().map(|x| x * 1e36).collect();
        for isa in Isa::available() {
            for arithmetic in [Arithmetic::Float, Arithmetic::Integer(Precision::Int8)] {
                let run = |tensor: &Tensor| {
                    let mut y = vec![f32::NAN; 5 * rows];
                    let backend = Backend::new(isa, 1).with(arithmetic);
                    backend.load(tensor).unwrap().multiply(&x, &mut y);
                    y
                };
                assert_eq!(run(&tiny), run(&zero), "{name} {isa:?} {arithmetic:?}");
            }
        }
    }
}
