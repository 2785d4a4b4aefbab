//! Attention over keys and values of each format, on each instruction set, beside this machine's own limits:
//! `cargo bench -p kvant-kernels --bench attention`. Probes take turns with what they are compared to.
//!
//! One query reads keys and values that no cache holds: a share of the bandwidth. A prompt of 512 multiplies: a share of the
//! `f32` peak, of the products that causal attention needs.

mod median;

use kvant_kernels::{AttentionShape, Backend, Isa, KeyValues, KvFormat, Probe, Qkv, Ragged, attention};
use median::median;
use std::time::Instant;

/// Rounds of each measurement; the median counts.
const ROUNDS: usize = 7;
/// Positions that a query looks at.
const DEPTH: usize = 2048;
/// Sequences that take turns, so that each has left the caches when it comes again.
const SEQUENCES: usize = 16;
/// Tokens of a prompt.
const PROMPT: usize = 512;
/// Heads of keys and values.
const KV_HEADS: usize = 8;

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let probe = Probe::new();
    println!("{threads} threads, {KV_HEADS} heads of keys and values");
    println!(
        "{:>8} {:>6} {:>9} {:>6} {:>22} {:>22}",
        "isa", "format", "head size", "group", "after 2048, bandwidth", "512 at once, f32 peak"
    );
    for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Scalar) {
        let backend = Backend::new(isa, threads);
        for (head_size, group) in [(64, 1), (64, 3), (64, 4), (128, 4), (128, 8)] {
            let heads = KV_HEADS * group;
            let shape = AttentionShape { heads, kv_heads: KV_HEADS, head_size, scale: 0.125 };
            for &format in KvFormat::ALL {
                let one = one(&probe, &backend, &shape, format);
                let prompt = prompt(&probe, &backend, &shape, format);
                println!(
                    "{:>8} {:>6} {head_size:>9} {group:>6} {one:>20.1} % {prompt:>20.1} %",
                    isa.name(),
                    format.name()
                );
            }
        }
    }
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 7919 % 1009) as f32 / 504.0 - 1.0).collect()
}

fn positions(shape: &AttentionShape, count: usize) -> Qkv {
    let [wide, narrow] = [shape.heads, shape.kv_heads].map(|heads| count * heads * shape.head_size);
    Qkv { query: numbers(wide), key: numbers(narrow), value: numbers(narrow) }
}

fn sequence(shape: &AttentionShape, format: KvFormat) -> KeyValues {
    KeyValues::new(format, shape.kv_heads, shape.head_size).expect("blocks divide a head")
}

/// One query after [`DEPTH`] positions: bytes read a second, per cent of the bandwidth.
fn one(probe: &Probe, backend: &Backend, shape: &AttentionShape, format: KvFormat) -> f64 {
    let past = positions(shape, DEPTH);
    let mut out = vec![0.0; past.query.len()];
    let mut first = sequence(shape, format);
    attention(backend, shape, &past, &mut [Ragged { states: &mut first, tokens: DEPTH }], &mut out);
    let mut sequences = vec![first; SEQUENCES];
    for sequence in &mut sequences {
        // Each has pages of its own, which no cache holds.
        sequence.unshare().and_then(|()| sequence.prepare(1)).expect("memory");
    }
    let read = positions(shape, 1);
    let out = &mut out[..read.query.len()];
    let shares = (0..ROUNDS).map(|_| {
        let bandwidth = probe.bandwidth(backend);
        let begin = Instant::now();
        for sequence in &mut sequences {
            attention(backend, shape, &read, &mut [Ragged { states: sequence, tokens: 1 }], out);
        }
        let seconds = begin.elapsed().as_secs_f64();
        sequences.iter_mut().for_each(|sequence| sequence.truncate(DEPTH));
        (SEQUENCES * sequences[0].read_bytes(DEPTH)) as f64 / seconds / bandwidth * 100.0
    });
    median(shares.collect())
}

/// [`PROMPT`] queries of a sequence that begins: multiply-adds a second, per cent of the `f32` peak.
fn prompt(probe: &Probe, backend: &Backend, shape: &AttentionShape, format: KvFormat) -> f64 {
    let read = positions(shape, PROMPT);
    let mut out = vec![0.0; read.query.len()];
    let multiply_adds = PROMPT * (PROMPT + 1) * shape.heads * shape.head_size;
    let shares = (0..ROUNDS).map(|_| {
        let peak = probe.float_peak(backend);
        let mut sequence = sequence(shape, format);
        let begin = Instant::now();
        attention(backend, shape, &read, &mut [Ragged { states: &mut sequence, tokens: PROMPT }], &mut out);
        multiply_adds as f64 / begin.elapsed().as_secs_f64() / peak * 100.0
    });
    median(shares.collect())
}
