//! Compares solvers with simple reference implementations, for every format with codes.

mod random;

use kvant_core::{Bytes, FormatRef, Shape, Tensor, format};
use kvant_kernels::{Backend, Isa};
use kvant_quant::{Inputs, Layer, Missing, Settings, Statistics, method};
use random::normal;

const ROWS: usize = 24;
const COLUMNS: usize = 512;
const TOKENS: usize = 700;

const SETTINGS: Settings = Settings { damping: 0.02, correction_damping: Some(0.02), sweeps: 4 };

/// Returns inputs with correlated columns; some columns are large.
fn activations(seed: u64) -> Vec<f32> {
    let (hidden, mix, noise) =
        (normal(TOKENS * 40, seed), normal(40 * COLUMNS, 5), normal(TOKENS * COLUMNS, seed + 1));
    let mut x = vec![0.0; TOKENS * COLUMNS];
    for t in 0..TOKENS {
        for c in 0..COLUMNS {
            let sum: f32 = (0..40).map(|k| hidden[t * 40 + k] * mix[k * COLUMNS + c]).sum();
            let factor = if c % 97 == 3 { 8.0 } else { 1.0 };
            x[t * COLUMNS + c] = factor * (0.3 * sum + 0.5 * noise[t * COLUMNS + c]);
        }
    }
    x
}

fn weight() -> Tensor {
    let values = normal(ROWS * COLUMNS, 11).into_iter().map(|x| x * 0.02);
    let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    Tensor::new(Shape::new(&[ROWS, COLUMNS]).unwrap(), &format::F32, Bytes::from(bytes)).unwrap()
}

fn statistics(backend: &Backend, quantized: &[f32], float: &[f32]) -> Statistics {
    let mut sums = Statistics::new(COLUMNS, Missing::Input);
    let missed: Vec<f32> = float.iter().zip(quantized).map(|(f, q)| f - q).collect();
    sums.add(backend, &Inputs { quantized, missed: &missed, weights: None });
    sums.finish();
    sums
}

fn coded() -> impl Iterator<Item = FormatRef> {
    format::FORMATS.iter().copied().filter(|f| f.grid().is_some())
}

fn solve(name: &str, format: FormatRef, sums: &Statistics, threads: usize) -> Tensor {
    let backend = Backend::new(Isa::best(), threads);
    let weight = weight();
    let importance = sums.mean_squares();
    let layer = Layer {
        name: "map.weight",
        weight: &weight,
        importance: Some(&importance),
        statistics: Some(sums),
        sensitivity: None,
        settings: SETTINGS,
        backend: &backend,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| method(name).unwrap().solve(&layer, format)).unwrap().tensor
}

/// Returns Σ ‖W xf − Q xq‖² over the tokens, in f64. W is the weight, Q is the quantized weight `q`, and xf and xq are
/// the inputs of a token in `float` and `quantized`.
fn loss(q: &Tensor, quantized: &[f32], float: &[f32]) -> f64 {
    let (w, q) = (weight().decode(), q.decode());
    let mut total = 0.0;
    for t in 0..TOKENS {
        let (xf, xq) = (&float[t * COLUMNS..][..COLUMNS], &quantized[t * COLUMNS..][..COLUMNS]);
        for r in 0..ROWS {
            let row = r * COLUMNS..(r + 1) * COLUMNS;
            let dot = |a: &[f32], b: &[f32]| {
                a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
            };
            let error = dot(&w[row.clone()], xf) - dot(&q[row], xq);
            total += error * error;
        }
    }
    total
}

#[test]
fn each_step_has_a_smaller_loss_than_the_one_before() {
    let backend = Backend::new(Isa::best(), 2);
    let x = activations(1);
    let sums = statistics(&backend, &x, &x);
    for format in coded() {
        let of = |name: &str| loss(&solve(name, format, &sums, 2), &x, &x);
        let (plain, gptq, descent) = (of("imatrix"), of("gptq"), of("descent"));
        assert!(gptq < 0.9 * plain, "{}: gptq {gptq} of {plain}", format.name());
        assert!(descent <= gptq, "{}: descent {descent} of {gptq}", format.name());
    }
}

/// Returns Σ w (v − x)² of every block, in f64. v are the decoded values of `bytes`, and w are the weights of the
/// columns.
fn weighted_errors(format: FormatRef, bytes: &[u8], x: &[f32], weights: &[f32]) -> Vec<f64> {
    let mut values = vec![0.0; x.len()];
    format.decode(bytes, &mut values);
    let term = |i: usize| f64::from(weights[i % weights.len()]) * f64::from(values[i] - x[i]).powi(2);
    let elements = format.block().elements;
    (0..x.len() / elements).map(|b| (b * elements..(b + 1) * elements).map(term).sum()).collect()
}

#[test]
fn no_block_has_a_larger_weighted_error_than_after_upstreams_search() {
    let backend = Backend::new(Isa::best(), 2);
    let mut x = weight().decode();
    // Blocks of zeros, of a single value, of tiny and of huge values.
    x[..512].fill(0.0);
    x[512..1024].fill(0.25);
    x[1024..1536].iter_mut().for_each(|x| *x *= 1e-6);
    x[1536..2048].iter_mut().for_each(|x| *x *= 1e5);
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    let weight =
        Tensor::new(Shape::new(&[ROWS, COLUMNS]).unwrap(), &format::F32, Bytes::from(bytes)).unwrap();
    let mut importance: Vec<f32> = normal(COLUMNS, 3).iter().map(|x| (4.0 * x).exp()).collect();
    importance[64..96].fill(0.0);
    for format in coded() {
        let layer =
            Layer { importance: Some(&importance), ..Layer::uncalibrated("map.weight", &weight, &backend) };
        let solved = method("imatrix").unwrap().solve(&layer, format).unwrap().tensor;
        let mut searched = vec![0; solved.bytes().len()];
        format.encoder().unwrap().encode(&x, Some(&importance), &mut searched);
        let ours = weighted_errors(format, solved.bytes(), &x, &importance);
        let upstream = weighted_errors(format, &searched, &x, &importance);
        for (block, (a, b)) in ours.iter().zip(&upstream).enumerate() {
            assert!(*a <= b * 1.000_01 + 1e-30, "{} block {block}: {a} of {b}", format.name());
        }
        if format.block().group == format.block().elements {
            assert_eq!(ours, upstream, "{}: one scale a block is upstream's", format.name());
            continue;
        }
        let gain = ours.iter().zip(&upstream).filter(|(a, b)| a < b).count() as f64 / ours.len() as f64;
        assert!(gain > 0.3, "{}: only {gain:.2} of the blocks gain", format.name());
    }
}

#[test]
fn the_correction_compensates_for_a_changed_input() {
    let backend = Backend::new(Isa::best(), 2);
    let float = activations(1);
    let noise = normal(float.len(), 9);
    // Simulate earlier quantized linear layers (maps), which shrink the input and add noise.
    let quantized: Vec<f32> = float.iter().zip(&noise).map(|(x, e)| 0.9 * x + 0.1 * e).collect();
    let sums = statistics(&backend, &quantized, &float);
    // A linear layer (map) in a format without codes compensates for earlier errors, too.
    for format in [&format::Q4K as FormatRef, &format::Q4_0, &format::F16] {
        let of = |name: &str| loss(&solve(name, format, &sums, 2), &quantized, &float);
        let (without, with) = (of("descent"), of("corrected"));
        assert!(with < 0.6 * without, "{}: corrected {with} of {without}", format.name());
    }
}

/// The differences of the results give the same correction as the differences of the inputs.
#[test]
fn results_give_the_same_correction_as_inputs() {
    let backend = Backend::new(Isa::best(), 2);
    let float = activations(1);
    let quantized: Vec<f32> =
        float.iter().zip(normal(float.len(), 9)).map(|(x, e)| 0.9 * x + 0.1 * e).collect();
    let w = weight().decode();
    let missed: Vec<f32> = float
        .chunks_exact(COLUMNS)
        .zip(quantized.chunks_exact(COLUMNS))
        .flat_map(|(xf, xq)| {
            let row = |w: &[f32]| w.iter().zip(xf.iter().zip(xq)).map(|(w, (f, q))| w * (f - q)).sum();
            w.chunks_exact(COLUMNS).map(row).collect::<Vec<f32>>()
        })
        .collect();
    let mut sums = Statistics::new(COLUMNS, Missing::Result(ROWS));
    sums.add(&backend, &Inputs { quantized: &quantized, missed: &missed, weights: None });
    sums.finish();
    let at_input = statistics(&backend, &quantized, &float);
    for format in [&format::Q4K as FormatRef, &format::Q4_0] {
        let of = |sums| loss(&solve("corrected", format, sums, 2), &quantized, &float);
        let (result, input) = (of(&sums), of(&at_input));
        assert!((result / input - 1.0).abs() < 0.01, "{}: {result} and {input}", format.name());
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let backend = Backend::new(Isa::best(), 2);
    let x = activations(1);
    let sums = statistics(&backend, &x, &x);
    for format in coded() {
        let of = |threads| solve("corrected", format, &sums, threads);
        assert!(of(1).bytes()[..] == of(3).bytes()[..], "{}", format.name());
    }
}

/// With uncorrelated columns, no error can be compensated for: every value is the nearest one under the block's stored
/// scales.
#[test]
fn uncorrelated_columns_are_rounded_to_nearest() {
    let mut sums = Statistics::new(COLUMNS, Missing::Nothing);
    (0..COLUMNS).for_each(|i| sums.gram[i * COLUMNS + i] = 1.0);
    sums.tokens = 1;
    let w = weight().decode();
    for format in coded() {
        let solved = solve("gptq", format, &sums, 1);
        let (grid, block) = (format.grid().unwrap(), format.block());
        let levels = grid.levels();
        let mut codes = kvant_core::Codes::new(block);
        for (bytes, x) in solved.bytes().chunks_exact(block.bytes).zip(w.chunks_exact(block.elements)) {
            grid.unpack(bytes, &mut codes);
            for (at, &x) in x.iter().enumerate() {
                let stored = codes.value(&levels, at);
                let mut other = codes.clone();
                let nearest = grid.round(&mut other, at, x);
                assert!((x - stored).abs() <= (x - nearest).abs() * 1.000_01, "{}: {x}", format.name());
            }
        }
    }
}

/// The reference for GPTQ by blocks is GPTQ column by column over whole rows, in f64 with an explicit inverse.
#[test]
fn gptq_equals_the_algorithm_column_by_column() {
    let backend = Backend::new(Isa::best(), 1);
    let x = activations(2);
    let sums = statistics(&backend, &x, &x);
    let format: FormatRef = &format::Q4_0;
    let (grid, n) = (format.grid().unwrap(), COLUMNS);
    let mean = (0..n).map(|i| f64::from(sums.gram[i * n + i])).sum::<f64>() / n as f64;
    let h = |i: usize, j: usize| f64::from(sums.gram[i * n + j]) + if i == j { 0.02 * mean } else { 0.0 };
    // Blocks of 32 in descending order of their mean diagonal; columns of a block in descending order of the diagonal.
    let diagonal = |c: usize| sums.gram[c * n + c];
    let block_mean = |b: usize| (b * 32..b * 32 + 32).map(|c| f64::from(diagonal(c))).sum::<f64>();
    let mut order: Vec<usize> = Vec::new();
    let mut blocks: Vec<usize> = (0..n / 32).collect();
    blocks.sort_by(|&a, &b| block_mean(b).total_cmp(&block_mean(a)));
    for b in blocks {
        let mut columns: Vec<usize> = (b * 32..b * 32 + 32).collect();
        columns.sort_by(|&a, &b| diagonal(b).total_cmp(&diagonal(a)));
        order.extend(columns);
    }
    let inverse = inverse(n, |i, j| h(order[i], order[j]));
    // The upper Cholesky factor of the inverse, as in the paper.
    let upper = upper_factor(n, inverse);
    let mut updated = weight().decode().iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let mut stored = vec![0.0f32; ROWS * n];
    let mut codes = kvant_core::Codes::new(format.block());
    for r in 0..ROWS {
        for p in 0..n {
            let column = order[p];
            if p % 32 == 0 {
                let start = column / 32 * 32;
                let x: Vec<f32> = (start..start + 32).map(|c| updated[r * n + c] as f32).collect();
                let position = |c: usize| order.iter().position(|&o| o == c).unwrap();
                let w: Vec<f32> = (start..start + 32)
                    .map(|c| (1.0 / upper[position(c) * n + position(c)].powi(2)) as f32)
                    .collect();
                grid.fit(&x, Some(&w), kvant_core::Part::Block, &mut codes);
            }
            let q = grid.round(&mut codes, column % 32, updated[r * n + column] as f32);
            stored[r * n + column] = q;
            let error = (updated[r * n + column] - f64::from(q)) / upper[p * n + p];
            for k in p + 1..n {
                updated[r * n + order[k]] -= error * upper[p * n + k];
            }
        }
    }
    let solved = solve("gptq", format, &sums, 1);
    let found = solved.decode();
    let same = |columns: &[usize]| {
        let places = (0..ROWS).flat_map(|r| columns.iter().map(move |c| r * n + c));
        places.filter(|&at| found[at] == stored[at]).count()
    };
    assert_eq!(same(&order[..32]), ROWS * 32, "the first block");
    // Sums in another order and precision sometimes round a value to the other level, if it is near the middle of two
    // levels. This changes the rest of the row.
    assert!(same(&order[32..64]) > ROWS * 32 * 7 / 10, "{} of {}", same(&order[32..64]), ROWS * 32);
    let bytes: Vec<u8> = stored.iter().flat_map(|x| x.to_le_bytes()).collect();
    let oracle = Tensor::new(*solved.shape(), &format::F32, Bytes::from(bytes)).unwrap();
    let (ours, expected) = (loss(&solved, &x, &x), loss(&oracle, &x, &x));
    assert!((ours / expected - 1.0).abs() < 0.02, "losses {ours} and {expected}");
}

/// Returns the inverse of the matrix with entries `h(i, j)`, by Gauss-Jordan elimination.
fn inverse(n: usize, h: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let mut a: Vec<f64> = (0..n * n).map(|at| h(at / n, at % n)).collect();
    let mut b = vec![0.0; n * n];
    (0..n).for_each(|i| b[i * n + i] = 1.0);
    for p in 0..n {
        let pivot = a[p * n + p];
        for j in 0..n {
            a[p * n + j] /= pivot;
            b[p * n + j] /= pivot;
        }
        let (row_a, row_b) = (a[p * n..(p + 1) * n].to_vec(), b[p * n..(p + 1) * n].to_vec());
        for i in (0..n).filter(|&i| i != p) {
            let factor = a[i * n + p];
            for j in 0..n {
                a[i * n + j] -= factor * row_a[j];
                b[i * n + j] -= factor * row_b[j];
            }
        }
    }
    b
}

/// Returns the upper triangular matrix U with Uᵀ U = `a`.
fn upper_factor(n: usize, a: Vec<f64>) -> Vec<f64> {
    let mut u = vec![0.0; n * n];
    for i in 0..n {
        for j in i..n {
            let sum = (0..i).fold(a[i * n + j], |sum, k| sum - u[k * n + i] * u[k * n + j]);
            u[i * n + j] = if i == j { sum.sqrt() } else { sum / u[i * n + i] };
        }
    }
    u
}
