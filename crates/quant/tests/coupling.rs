//! Compares row feedback with simple linear algebra.

mod random;

use kvant_core::{Bytes, FormatRef, Shape, Tensor, format};
use kvant_kernels::{Backend, Isa};
use kvant_quant::{Inputs, Layer, Missing, Sensitivity, Settings, Statistics, method};
use random::normal;

const ROWS: usize = 80;
const COLUMNS: usize = 256;
const TOKENS: usize = 400;
/// As in the solver: the maximum number of rows that are solved together.
const PANEL: usize = 32;
/// As in the solver: the value that is added to the diagonal, as a share of the diagonal's mean.
const DAMPING: f64 = 0.5;

/// Returns rows with correlated columns: every column is a mix of six hidden values plus noise.
fn correlated(count: usize, columns: usize, seed: u64) -> Vec<f32> {
    let (hidden, mix, own) =
        (normal(count * 6, seed), normal(6 * columns, seed + 1), normal(count * columns, seed + 2));
    let at = |i: usize| {
        let (row, column) = (i / columns, i % columns);
        let sum: f32 = (0..6).map(|k| hidden[row * 6 + k] * mix[k * columns + column]).sum();
        sum + 0.5 * own[i]
    };
    (0..count * columns).map(at).collect()
}

/// Returns the full matrix Σ x xᵀ of rows x.
fn gram(x: &[f32], columns: usize) -> Vec<f64> {
    let mut sum = vec![0.0; columns * columns];
    for row in x.chunks_exact(columns) {
        for i in 0..columns {
            for j in 0..columns {
                sum[i * columns + j] += f64::from(row[i]) * f64::from(row[j]);
            }
        }
    }
    sum
}

struct Case {
    weight: Vec<f32>,
    sums: Statistics,
    /// The sensitivity matrix S, rows × rows.
    sensitivity: Vec<f64>,
}

impl Case {
    fn new() -> Self {
        let x = correlated(TOKENS, COLUMNS, 3);
        let mut sums = Statistics::new(COLUMNS, Missing::Nothing);
        let inputs = Inputs { quantized: &x, missed: &[], weights: None };
        sums.add(&Backend::new(Isa::best(), 2), &inputs);
        sums.finish();
        let weight = normal(ROWS * COLUMNS, 11).into_iter().map(|x| x * 0.02).collect();
        Self { weight, sums, sensitivity: gram(&correlated(TOKENS, ROWS, 8), ROWS) }
    }

    /// Solves `rows`, which are rows of the weight or other values.
    fn solve(&self, name: &str, format: FormatRef, rows: &[f32], coupled: bool, threads: usize) -> Tensor {
        let backend = Backend::new(Isa::best(), threads);
        let bytes: Vec<u8> = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
        let shape = Shape::new(&[rows.len() / COLUMNS, COLUMNS]).unwrap();
        let weight = Tensor::new(shape, &format::F32, Bytes::from(bytes)).unwrap();
        let triangle =
            (0..ROWS).flat_map(|i| (0..=i).map(move |j| i * ROWS + j)).map(|at| self.sensitivity[at] as f32);
        let sensitivity = Sensitivity { pieces: vec![triangle.collect()] };
        let layer = Layer {
            statistics: Some(&self.sums),
            sensitivity: coupled.then_some(&sensitivity),
            settings: Settings { damping: 0.02, correction_damping: Some(0.02), sweeps: 4 },
            ..Layer::uncalibrated("map.weight", &weight, &backend)
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| method(name).unwrap().solve(&layer, format)).unwrap().tensor
    }

    /// Returns tr(S E G Eᵀ), where E is the error of `solved`, S is the sensitivity matrix, and G is the Gram matrix of
    /// the inputs.
    fn loss(&self, solved: &Tensor) -> f64 {
        let values = solved.decode();
        let error: Vec<f64> = values.iter().zip(&self.weight).map(|(v, w)| f64::from(v - w)).collect();
        let mut by_gram = vec![0.0; ROWS * COLUMNS];
        for (out, error) in by_gram.chunks_exact_mut(COLUMNS).zip(error.chunks_exact(COLUMNS)) {
            for (error, gram) in error.iter().zip(self.sums.gram.chunks_exact(COLUMNS)) {
                out.iter_mut().zip(gram).for_each(|(out, g)| *out += error * f64::from(*g));
            }
        }
        let product = |i: usize, j: usize| -> f64 {
            let (error, by_gram) = (&error[i * COLUMNS..][..COLUMNS], &by_gram[j * COLUMNS..][..COLUMNS]);
            error.iter().zip(by_gram).map(|(a, b)| a * b).sum()
        };
        (0..ROWS * ROWS).map(|at| self.sensitivity[at] * product(at / ROWS, at % ROWS)).sum()
    }
}

fn coded() -> impl Iterator<Item = FormatRef> {
    format::FORMATS.iter().copied().filter(|f| f.grid().is_some())
}

#[test]
fn row_feedback_decreases_the_loss_of_the_output() {
    let case = Case::new();
    for format in coded() {
        let loss = |coupled| case.loss(&case.solve("coupled", format, &case.weight, coupled, 2));
        let (alone, coupled) = (loss(false), loss(true));
        assert!(coupled < 0.9 * alone, "{}: {coupled} of {alone}", format.name());
    }
}

#[test]
fn uncorrelated_rows_are_solved_independently() {
    let mut case = Case::new();
    case.sensitivity = (0..ROWS * ROWS).map(|at| f64::from(u8::from(at / ROWS == at % ROWS))).collect();
    for format in coded() {
        let values = |coupled| case.solve("coupled", format, &case.weight, coupled, 2).decode();
        let differing = values(false).iter().zip(values(true)).filter(|(a, b)| **a != *b).count();
        // Products of few and of many rows round differently. This may change a code, and then others of its group.
        assert!(differing < ROWS * COLUMNS / 100, "{}: {differing} values differ", format.name());
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let case = Case::new();
    for format in coded() {
        let bytes = |threads| case.solve("coupled", format, &case.weight, true, threads);
        assert!(bytes(1).bytes()[..] == bytes(3).bytes()[..], "{}", format.name());
    }
}

/// Computes the targets of every panel (the rows that are solved together) again by elimination, with all later rows
/// free. The formula is a = −M_rr⁻¹ M_re e. M is the damped sensitivity matrix, e are the errors of the earlier rows, a
/// are the offsets of the remaining rows, and the indices e and r select the earlier and the remaining rows.
#[test]
fn targets_compensate_best_for_earlier_errors() {
    let case = Case::new();
    let mean = (0..ROWS).map(|i| case.sensitivity[i * ROWS + i]).sum::<f64>() / ROWS as f64;
    let m = |i: usize, j: usize| case.sensitivity[i * ROWS + j] + if i == j { DAMPING * mean } else { 0.0 };
    let count = ROWS.div_ceil(PANEL);
    let panels: Vec<Vec<usize>> = (0..count).map(|p| (p..ROWS).step_by(count).collect()).collect();
    for format in coded() {
        let found = case.solve("coupled", format, &case.weight, true, 2).decode();
        let error = |i: usize, c: usize| f64::from(found[i * COLUMNS + c] - case.weight[i * COLUMNS + c]);
        let mut differing = 0;
        for p in 0..count {
            let earlier: Vec<usize> = panels[..p].concat();
            let rest: Vec<usize> = panels[p..].concat();
            let right: Vec<Vec<f64>> = rest
                .iter()
                .map(|&i| {
                    let at = |c: usize| -earlier.iter().map(|&j| m(i, j) * error(j, c)).sum::<f64>();
                    (0..COLUMNS).map(at).collect()
                })
                .collect();
            let offsets =
                eliminate(rest.iter().map(|&i| rest.iter().map(|&j| m(i, j)).collect()).collect(), right);
            let targets = panels[p].iter().zip(&offsets).flat_map(|(&row, offset)| {
                let weight = &case.weight[row * COLUMNS..][..COLUMNS];
                weight.iter().zip(offset).map(|(w, a)| (f64::from(*w) + a) as f32)
            });
            let alone = case.solve("coupled", format, &targets.collect::<Vec<f32>>(), false, 2).decode();
            let own = panels[p].iter().flat_map(|row| &found[row * COLUMNS..][..COLUMNS]);
            differing += alone.iter().zip(own).filter(|(a, b)| a != b).count();
        }
        // Targets that differ in their last bits may change a code. This may change other codes of the same group.
        assert!(differing < ROWS * COLUMNS / 50, "{}: {differing} values differ", format.name());
    }
}

/// Returns X with A X = B, by Gauss-Jordan elimination without pivoting.
fn eliminate(mut a: Vec<Vec<f64>>, mut b: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = a.len();
    for k in 0..n {
        let (pivot, own) = (a[k].clone(), b[k].clone());
        for i in (0..n).filter(|i| *i != k) {
            let factor = a[i][k] / pivot[k];
            a[i].iter_mut().zip(&pivot).for_each(|(x, p)| *x -= factor * p);
            b[i].iter_mut().zip(&own).for_each(|(x, p)| *x -= factor * p);
        }
    }
    for (row, a) in b.iter_mut().zip(&a).enumerate().map(|(k, (row, a))| (row, a[k])) {
        row.iter_mut().for_each(|x| *x /= a);
    }
    b
}
