//! Benchmark of integer products, as a share of this machine's limits. With one row of activations, the limit is the
//! memory bandwidth. With many rows, it is the peak of the integer units. Probes and products take turns.
//!
//! Command: `cargo bench -p kvant-kernels --bench integers [ISA] [int8|int16] [FORMAT…]`.

mod median;

use kvant_core::{Bytes, Shape, Tensor, format};
use kvant_kernels::{Arithmetic, Backend, Isa, Precision, Probe};
use median::median;
use std::time::Instant;

/// Rounds per measurement; the result is the median.
const ROUNDS: usize = 15;
const COLUMNS: usize = 2048;
/// Size of the matrix for one row of activations: larger than the caches.
const BYTES: usize = 512 << 20;
/// Rows of the matrix for several rows of activations.
const ROWS: usize = 16_384;

/// Returns sums of twelve uniform random values. They are almost normally distributed, so that rows have outliers.
fn nearly_normal(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (0..12).map(|_| uniform()).sum()).collect()
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let precision = match () {
        () if words.iter().any(|word| word == "int8") => Precision::Int8,
        () if words.iter().any(|word| word == "int16") => Precision::Int16,
        () => Precision::default(),
    };
    let isa = words.iter().find_map(|word| Isa::by_name(word).ok()).unwrap_or_else(Isa::best);
    let formats: Vec<_> = format::FORMATS.iter().filter_map(|f| Some((f, f.grid()?))).collect();
    let named = |name: &str| words.iter().any(|word| word == name);
    let any = formats.iter().any(|(f, _)| named(f.name()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let backend = Backend::new(isa, threads).with(Arithmetic::Integer(precision));
    let probe = Probe::new();
    println!("{threads} threads, {}, {COLUMNS} columns", isa.name());
    println!("{:>8} {:>7} {:>10} {:>7} {:>10} {:>7}", "format", "tokens", "GB/s", "share", "GMAC/s", "share");
    for (format, grid) in formats.into_iter().filter(|(f, _)| !any || named(f.name())) {
        let values: Vec<f32> =
            (0..64 * COLUMNS).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 5040.0).collect();
        let mut part = vec![0; values.len() / format.block().elements * format.block().bytes];
        grid.encode(&values, None, &mut part);
        for tokens in [1, 8, 128] {
            let rows = if tokens == 1 { 64 * (BYTES / part.len()) } else { ROWS };
            let shape = Shape::new(&[rows, COLUMNS]).expect("a shape");
            let tensor = Tensor::new(shape, *format, Bytes::from(part.repeat(rows / 64))).expect("a tensor");
            let matrix = backend.load(&tensor).expect("a matrix");
            let x = nearly_normal(tokens * COLUMNS);
            let mut y = vec![0.0; tokens * rows];
            let (mut bytes, mut multiply_adds, mut bandwidth_shares, mut peak_shares) =
                (vec![], vec![], vec![], vec![]);
            for _ in 0..ROUNDS {
                let (bandwidth, peak) = (probe.bandwidth(&backend), probe.integer_peak(&backend));
                let begin = Instant::now();
                matrix.multiply(&x, &mut y);
                let seconds = begin.elapsed().as_secs_f64();
                let bandwidth = (bandwidth + probe.bandwidth(&backend)) / 2.0;
                bytes.push(tensor.bytes().len() as f64 / seconds);
                multiply_adds.push((tokens * rows * COLUMNS) as f64 / seconds);
                bandwidth_shares.push(bytes[bytes.len() - 1] / bandwidth * 100.0);
                peak_shares.push(multiply_adds[multiply_adds.len() - 1] / peak * 100.0);
            }
            println!(
                "{:>8} {tokens:>7} {:>10.1} {:>5.0} % {:>10.1} {:>5.0} %",
                format.name(),
                median(bytes) / 1e9,
                median(bandwidth_shares),
                median(multiply_adds) / 1e9,
                median(peak_shares)
            );
        }
    }
}
