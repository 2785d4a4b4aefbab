//! Benchmark of products of stored weights with few and with many rows of activations, and of the Gram matrices that
//! solvers need, as a share of this machine's limits. Probes and products take turns, so that both see the same load of
//! the machine.
//!
//! Command: `cargo bench -p kvant-kernels`.

mod median;

use kvant_core::{Bytes, Shape, Tensor, format};
use kvant_kernels::{Backend, Isa, Probe, dense};
use median::median;
use std::time::Instant;

/// Rounds per measurement; the result is the median.
const ROUNDS: usize = 5;

fn main() {
    let isa = Isa::best();
    if isa == Isa::Scalar {
        println!("this processor has the scalar path alone: nothing to compare");
        return;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let probe = Probe::new();
    for threads in [1, threads] {
        let backend = Backend::new(isa, threads);
        println!("{threads} threads, {}: share of the f32 multiply-add peak", isa.name());
        println!(
            "{:>8} {:>6} {:>7} {:>11} {:>12} {:>7}",
            "format", "rows", "columns", "activations", "GFMA/s", "share"
        );
        for columns in [576, 1536, 2048, 8192] {
            sums(&probe, &backend, columns);
        }
        for name in ["f32", "f16", "q8_0", "q4_0", "q4_k"] {
            for (rows, columns) in [(768, 768), (1536, 768), (2048, 2048), (8192, 2048)] {
                for activations in [1, 16, 32, 512] {
                    product(&probe, &backend, name, rows, columns, activations);
                }
            }
        }
    }
}

fn product(probe: &Probe, backend: &Backend, name: &str, rows: usize, columns: usize, activations: usize) {
    let format = format::by_name(name).expect("a format of the registry");
    let shape = Shape::new(&[rows, columns]).expect("a shape");
    let values: Vec<f32> = (0..rows * columns).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 5040.0).collect();
    let mut bytes = vec![0; format.tensor_bytes(&shape).expect("whole blocks")];
    let encoder = format.encoder().expect("a format that can be written");
    encoder.encode(&values, None, &mut bytes);
    let tensor = Tensor::new(shape, format, Bytes::from(bytes)).expect("a tensor");
    let matrix = backend.load(&tensor).expect("a matrix");
    let x = vec![0.01; activations * columns];
    let mut y = vec![0.0; activations * rows];
    let multiply_adds = activations * rows * columns;
    measure(
        probe,
        backend,
        &format!("{name:>8} {rows:>6} {columns:>7} {activations:>11}"),
        multiply_adds,
        &mut || {
            matrix.multiply(&x, &mut y);
        },
    );
}

/// Measures the Gram matrix and the sum of products of the activations of one context.
fn sums(probe: &Probe, backend: &Backend, columns: usize) {
    const TOKENS: usize = 512;
    let x = vec![0.01; TOKENS * columns];
    let (mut gram, mut mismatch) = (vec![0.0; columns * columns], vec![0.0; columns * columns]);
    let triangle = TOKENS * columns * (columns + 1) / 2;
    measure(
        probe,
        backend,
        &format!("{:>8} {columns:>6} {columns:>7} {TOKENS:>11}", "gram"),
        triangle,
        &mut || {
            dense::add_gram(backend, &x, columns, &mut gram);
        },
    );
    let square = TOKENS * columns * columns;
    measure(
        probe,
        backend,
        &format!("{:>8} {columns:>6} {columns:>7} {TOKENS:>11}", "sums"),
        square,
        &mut || {
            dense::add_products(backend, &x, columns, &x, columns, &mut mismatch);
        },
    );
}

/// Measures `work`, which performs `multiply_adds` multiply-adds. Prints its rate and its share of the peak; the peak
/// is probed between the runs.
fn measure(probe: &Probe, backend: &Backend, label: &str, multiply_adds: usize, work: &mut dyn FnMut()) {
    let (mut peaks, mut seconds) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        peaks.push(probe.float_peak(backend));
        let begin = Instant::now();
        work();
        seconds.push(begin.elapsed().as_secs_f64());
    }
    let rate = multiply_adds as f64 / median(seconds);
    println!("{label} {:>12.1} {:>6.1} %", rate / 1e9, rate / median(peaks) * 100.0);
}
