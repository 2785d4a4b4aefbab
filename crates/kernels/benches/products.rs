//! Products of stored weights with few and with many rows of activations, and the sums that solvers need, beside this
//! machine's own limits:
//! `cargo bench -p kvant-kernels`. Probes and products take turns, so that a ratio compares the same minute.

#![allow(unsafe_code)]

use kvant_core::{Bytes, Shape, Tensor, format};
use kvant_kernels::{Backend, Isa, dense};
use std::hint::black_box;
use std::time::Instant;

/// Rounds of each measurement; the median counts.
const ROUNDS: usize = 5;

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Multiply-adds of the peak probe: 12 independent vectors of eight.
const CHAINS: usize = 12;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains(steps: usize) -> f32 {
    use std::arch::x86_64::{_mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps};
    let (a, b) = (_mm256_set1_ps(black_box(0.999_9)), _mm256_set1_ps(black_box(1e-4)));
    let mut sums = [b; CHAINS];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, a, b);
        }
    }
    sums.iter().map(|&sum| _mm256_cvtss_f32(sum)).sum()
}

#[cfg(not(target_arch = "x86_64"))]
fn chains(steps: usize) -> f32 {
    let (a, b) = (black_box(0.999_9f32), black_box(1e-4f32));
    let mut sums = [[b; 8]; CHAINS];
    for _ in 0..steps {
        for sum in sums.as_flattened_mut() {
            *sum = *sum * a + b;
        }
    }
    sums.as_flattened().iter().sum()
}

/// Multiply-adds of the integer probe: `vpmaddubsw`, `vpmaddwd`, `vpaddd` on independent sums.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn integer_chains(steps: usize) -> i32 {
    use std::arch::x86_64::*;
    let (a, b, ones) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(-5)), _mm256_set1_epi16(1));
    let mut sums = [_mm256_setzero_si256(); 8];
    for step in 0..steps {
        let a = _mm256_xor_si256(a, _mm256_set1_epi8(step as i8 & 1));
        for sum in &mut sums {
            let a = black_box(a);
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
        }
    }
    sums.iter().map(|&sum| _mm256_extract_epi32::<0>(sum)).fold(0, i32::wrapping_add)
}

/// Multiply-adds of small integers a second of all threads, registers only.
fn integer_peak(backend: &Backend) -> f64 {
    const STEPS: usize = 2_000_000;
    let begin = Instant::now();
    let threads = backend.threads();
    backend.pool().run(threads, &|_| {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as `peak`.
        black_box(unsafe { integer_chains(STEPS) });
    });
    (threads * STEPS * 8 * 32) as f64 / begin.elapsed().as_secs_f64()
}

/// Bytes a second that all threads read.
fn bandwidth(backend: &Backend, memory: &[u64]) -> f64 {
    let begin = Instant::now();
    let parts = 64;
    let part = memory.len() / parts;
    backend.pool().run(parts, &|i| {
        let mut sums = [0u64; 16];
        for line in memory[i * part..][..part].as_chunks::<16>().0 {
            sums.iter_mut().zip(line).for_each(|(sum, x)| *sum ^= x);
        }
        black_box(sums);
    });
    (parts * part * 8) as f64 / begin.elapsed().as_secs_f64()
}

/// Codes against activations of eight bits: one row at the memory's speed, many at the integer units'.
fn integers(backend: &Backend, memory: &[u64]) {
    println!("{:>8} {:>7} {:>10} {:>7} {:>10} {:>7}   2048 columns", "format", "tokens", "GB/s", "share", "GMAC/s", "share");
    for format in format::FORMATS.iter().filter(|f| f.grid().is_some()) {
        let (rows, columns) = (65_536, 2048);
        let shape = Shape::new(&[rows, columns]).expect("a shape");
        let values: Vec<f32> = (0..64 * columns).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 5040.0).collect();
        let mut part = vec![0; values.len() / format.block().elements * format.block().bytes];
        format.encode(&values, None, &mut part);
        let bytes = part.repeat(rows / 64);
        let tensor = Tensor::new(shape, *format, Bytes::from(bytes)).expect("a tensor");
        let matrix = backend.clone().with_integers().load(&tensor).expect("a matrix");
        for tokens in [1, 8, 128] {
            let x = vec![0.01; tokens * columns];
            let mut y = vec![0.0; tokens * rows];
            let (mut seconds, mut peaks, mut widths) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                peaks.push(integer_peak(backend));
                widths.push(bandwidth(backend, memory));
                let begin = Instant::now();
                matrix.multiply(&x, &mut y);
                seconds.push(begin.elapsed().as_secs_f64());
            }
            let (seconds, peak, width) = (median(seconds), median(peaks), median(widths));
            let (bytes, adds) = (tensor.bytes().len() as f64 / seconds, (tokens * rows * columns) as f64 / seconds);
            println!(
                "{:>8} {tokens:>7} {:>10.1} {:>5.0} % {:>10.1} {:>5.0} %",
                format.name(), bytes / 1e9, bytes / width * 100.0, adds / 1e9, adds / peak * 100.0
            );
        }
    }
}

/// Multiply-adds a second of all threads, registers only.
fn peak(backend: &Backend) -> f64 {
    const STEPS: usize = 4_000_000;
    let begin = Instant::now();
    let threads = backend.threads();
    backend.pool().run(threads, &|_| {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the benchmark runs with the backend of an instruction set that has these features; see `main`.
        black_box(unsafe { chains(STEPS) });
        #[cfg(not(target_arch = "x86_64"))]
        black_box(chains(STEPS));
    });
    (threads * STEPS * CHAINS * 8) as f64 / begin.elapsed().as_secs_f64()
}

fn main() {
    let isa = Isa::best();
    if isa == Isa::Scalar {
        println!("this processor has the scalar path alone: nothing to compare");
        return;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = vec![1u64; 1 << 27];
    integers(&Backend::new(isa, threads), &memory);
    drop(memory);
    for threads in [1, threads] {
        let backend = Backend::new(isa, threads);
        println!("{threads} threads, {}: share of the f32 multiply-add peak", isa.name());
        println!(
            "{:>8} {:>6} {:>7} {:>11} {:>12} {:>7}",
            "format", "rows", "columns", "activations", "GFMA/s", "share"
        );
        for columns in [576, 1536, 2048, 8192] {
            sums(&backend, columns);
        }
        for name in ["f32", "f16", "q8_0", "q4_0", "q4_k"] {
            for (rows, columns) in [(768, 768), (1536, 768), (2048, 2048), (8192, 2048)] {
                for activations in [16, 32, 512] {
                    product(&backend, name, rows, columns, activations);
                }
            }
        }
    }
}

fn product(backend: &Backend, name: &str, rows: usize, columns: usize, activations: usize) {
    let format = format::by_name(name).expect("a format of the registry");
    let shape = Shape::new(&[rows, columns]).expect("a shape");
    let values: Vec<f32> = (0..rows * columns).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 5040.0).collect();
    let mut bytes = vec![0; format.tensor_bytes(&shape).expect("whole blocks")];
    format.encode(&values, None, &mut bytes);
    let tensor = Tensor::new(shape, format, Bytes::from(bytes)).expect("a tensor");
    let matrix = backend.load(&tensor).expect("a matrix");
    let x = vec![0.01; activations * columns];
    let mut y = vec![0.0; activations * rows];
    let adds = activations * rows * columns;
    measure(backend, &format!("{name:>8} {rows:>6} {columns:>7} {activations:>11}"), adds, &mut || {
        matrix.multiply(&x, &mut y);
    });
}

/// Gram matrix and mismatch of a context's activations.
fn sums(backend: &Backend, columns: usize) {
    const TOKENS: usize = 512;
    let x = vec![0.01; TOKENS * columns];
    let (mut gram, mut mismatch) = (vec![0.0; columns * columns], vec![0.0; columns * columns]);
    let triangle = TOKENS * columns * (columns + 1) / 2;
    measure(backend, &format!("{:>8} {columns:>6} {columns:>7} {TOKENS:>11}", "gram"), triangle, &mut || {
        dense::add_gram(backend, &x, columns, &mut gram);
    });
    let square = TOKENS * columns * columns;
    measure(backend, &format!("{:>8} {columns:>6} {columns:>7} {TOKENS:>11}", "sums"), square, &mut || {
        dense::add_products(backend, &x, columns, &x, columns, &mut mismatch);
    });
}

/// Prints the rate of `work`, which makes so many multiply-adds, and its share of the peak probed between its runs.
fn measure(backend: &Backend, label: &str, multiply_adds: usize, work: &mut dyn FnMut()) {
    let (mut peaks, mut seconds) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        peaks.push(peak(backend));
        let begin = Instant::now();
        work();
        seconds.push(begin.elapsed().as_secs_f64());
    }
    let rate = multiply_adds as f64 / median(seconds);
    println!("{label} {:>12.1} {:>6.1} %", rate / 1e9, rate / median(peaks) * 100.0);
}
