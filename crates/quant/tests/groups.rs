//! A format outside the registry, with large groups of four-bit codes. Every method and product handles it.

mod random;

use kvant_core::{
    Block, Bytes, Codes, Encoder, Format, FormatRef, Grid, Levels, Part, Scaling, Shape, Tensor, format,
};
use kvant_kernels::{Arithmetic, Backend, Isa, Precision};
use kvant_quant::{Inputs, Layer, METHODS, Missing, Statistics};
use random::normal;

const ROWS: usize = 8;
const COLUMNS: usize = 512;

/// A format with blocks of `N` four-bit codes and one `f16` scale d. A value is `d · (code − 8)`. The scale is stored
/// first, then two codes in each byte.
struct Wide<const N: usize>;

impl<const N: usize> Wide<N> {
    const BLOCK: Block = Block { elements: N, group: N, bytes: 2 + N / 2 };
}

impl<const N: usize> Format for Wide<N> {
    fn name(&self) -> &'static str {
        match N {
            32 => "wide_32",
            64 => "wide_64",
            _ => "wide_128",
        }
    }

    fn block(&self) -> Block {
        Self::BLOCK
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) {
        let mut codes = Codes::new(Self::BLOCK);
        for (block, dst) in src.chunks_exact(Self::BLOCK.bytes).zip(dst.chunks_exact_mut(N)) {
            self.unpack(block, &mut codes);
            dst.iter_mut().enumerate().for_each(|(i, x)| *x = codes.value(&self.levels(), i));
        }
    }

    fn grid(&self) -> Option<&dyn Grid> {
        Some(self)
    }
}

impl<const N: usize> Encoder for Wide<N> {
    fn encode(&self, rows: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
        let mut codes = Codes::new(Self::BLOCK);
        for (x, block) in rows.chunks_exact(N).zip(dst.chunks_exact_mut(Self::BLOCK.bytes)) {
            self.fit(x, importance, Part::Block, &mut codes);
            for (at, x) in x.iter().enumerate() {
                self.round(&mut codes, at, *x);
            }
            self.pack(&codes, block);
        }
    }
}

impl<const N: usize> Grid for Wide<N> {
    fn levels(&self) -> Levels {
        Levels::Linear { count: 16, offset: 8 }
    }

    fn scaling(&self) -> Scaling {
        Scaling::Block
    }

    fn unpack(&self, block: &[u8], codes: &mut Codes) {
        let mut d = [0.0];
        format::F16.decode(&block[..2], &mut d);
        [codes.d] = d;
        codes.scales.fill(1);
        codes.mins.fill(0);
        for (i, code) in codes.codes.iter_mut().enumerate() {
            *code = block[2 + i / 2] >> (4 * (i % 2)) & 15;
        }
    }

    fn pack(&self, codes: &Codes, block: &mut [u8]) {
        format::F16.encode(&[codes.d], None, &mut block[..2]);
        for (byte, codes) in block[2..].iter_mut().zip(codes.codes.as_chunks::<2>().0) {
            *byte = codes[0] | codes[1] << 4;
        }
    }

    fn fit(&self, x: &[f32], _: Option<&[f32]>, _: Part, codes: &mut Codes) {
        let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        codes.d = self.stored(most / 7.0);
        codes.scales.fill(1);
        codes.mins.fill(0);
    }
}

static FORMATS: [FormatRef; 3] = [&Wide::<64>, &Wide::<128>, &Wide::<32>];

/// Returns weights with a few outliers.
fn weight() -> Tensor {
    let mut values: Vec<f32> = normal(ROWS * COLUMNS, 3).into_iter().map(|x| x * 0.02).collect();
    values.iter_mut().step_by(97).for_each(|x| *x *= 4.0);
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Tensor::new(Shape::new(&[ROWS, COLUMNS]).unwrap(), &format::F32, Bytes::from(bytes)).unwrap()
}

/// Returns inputs with correlated columns.
fn inputs() -> Vec<f32> {
    let mut x = normal(600 * COLUMNS, 5);
    for row in x.chunks_exact_mut(COLUMNS) {
        for i in 1..COLUMNS {
            row[i] += 0.7 * row[i - 1];
        }
    }
    x
}

#[test]
fn every_method_solves_it_with_no_larger_loss_than_rounding() {
    let backend = Backend::new(Isa::best(), 2);
    let (weight, x) = (weight(), inputs());
    let mut sums = Statistics::new(COLUMNS, Missing::Nothing);
    sums.add(&backend, &Inputs { quantized: &x, missed: &[], weights: None });
    sums.finish();
    let importance = sums.mean_squares();
    let exact = weight.decode();
    for format in FORMATS {
        // The sum of squared errors of the results for the first rows of `x`.
        let loss = |tensor: &Tensor| -> f64 {
            let error: Vec<f32> = tensor.decode().iter().zip(&exact).map(|(a, b)| a - b).collect();
            let pairs = x
                .chunks_exact(COLUMNS)
                .take(200)
                .flat_map(|x| error.chunks_exact(COLUMNS).map(move |e| (x, e)));
            pairs.map(|(x, e)| x.iter().zip(e).map(|(x, e)| f64::from(x * e)).sum::<f64>().powi(2)).sum()
        };
        let mut losses = Vec::new();
        for method in METHODS {
            let layer = Layer {
                importance: Some(&importance),
                statistics: Some(&sums),
                ..Layer::uncalibrated("map.weight", &weight, &backend)
            };
            let solved = method.solve(&layer, format).unwrap();
            assert_eq!(solved.tensor.format(), format);
            assert!(solved.tensor.decode().iter().all(|x| x.is_finite()), "{} {format:?}", method.name());
            losses.push((method.name(), loss(&solved.tensor)));
        }
        let rounding = losses[0].1;
        assert!(losses.iter().all(|(_, loss)| *loss <= 1.02 * rounding), "{format:?}: {losses:?}");
        let descent = losses.iter().find(|(name, _)| *name == "descent").unwrap().1;
        assert!(descent < 0.5 * rounding, "{format:?}: {losses:?}");
    }
}

#[test]
fn products_equal_those_of_the_decoded_values() {
    let weight = weight();
    for format in FORMATS {
        let mut bytes = vec![0; format.tensor_bytes(weight.shape()).unwrap()];
        format.encoder().unwrap().encode(&weight.decode(), None, &mut bytes);
        let tensor = Tensor::new(*weight.shape(), format, Bytes::from(bytes)).unwrap();
        let decoded = tensor.decode();
        let x = normal(3 * COLUMNS, 9);
        for isa in Isa::available() {
            for arithmetic in [Arithmetic::Float, Arithmetic::Integer(Precision::default())] {
                let matrix = Backend::new(isa, 2).with(arithmetic).load(&tensor).unwrap();
                for n in [1, 3] {
                    let mut y = vec![0.0; n * ROWS];
                    matrix.multiply(&x[..n * COLUMNS], &mut y);
                    for (i, found) in y.iter().enumerate() {
                        let (x, w) = (&x[i / ROWS * COLUMNS..], &decoded[i % ROWS * COLUMNS..][..COLUMNS]);
                        let exact: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                        assert!(
                            (f64::from(*found) - exact).abs() < 0.01,
                            "{format:?} {isa:?} {found} {exact}"
                        );
                    }
                }
            }
        }
    }
}
