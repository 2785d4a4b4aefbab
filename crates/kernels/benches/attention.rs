//! Benchmark of attention for each KV format and each instruction set, as a share of this machine's limits. Probes and
//! measurements take turns.
//!
//! Decode: one query reads keys and values that are not in a CPU cache; the result is a share of the memory bandwidth.
//! Prefill: a prompt of 512 tokens; the result is a share of the `f32` peak, and counts only the products that causal
//! attention needs.
//!
//! Command: `cargo bench -p kvant-kernels --bench attention`.

mod median;

use kvant_kernels::{AttentionShape, Backend, Isa, KeyValues, KvFormat, Probe, Qkv, Ragged, attention};
use median::median;
use std::time::Instant;

/// Rounds per measurement; the result is the median.
const ROUNDS: usize = 7;
/// Positions that the query of the decode benchmark attends to.
const DEPTH: usize = 2048;
/// Number of sequences that take turns, so that the keys and values of each are no longer in the caches at its next
/// turn.
const SEQUENCES: usize = 16;
/// Tokens of the prompt.
const PROMPT: usize = 512;
/// Number of heads of keys and values.
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
            let shape = AttentionShape {
                heads,
                kv_heads: KV_HEADS,
                head_size,
                scale: 0.125,
                causal: true,
                window: None,
                softcap: None,
                sinks: None,
            };
            for &format in KvFormat::ALL {
                let decode = decode(&probe, &backend, &shape, format);
                let prefill = prefill(&probe, &backend, &shape, format);
                println!(
                    "{:>8} {:>6} {head_size:>9} {group:>6} {decode:>20.1} % {prefill:>20.1} %",
                    isa.name(),
                    format.name()
                );
            }
        }
    }
}

fn floats(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 7919 % 1009) as f32 / 504.0 - 1.0).collect()
}

fn qkv_of_positions(shape: &AttentionShape, count: usize) -> Qkv {
    let [query_floats, kv_floats] =
        [shape.heads, shape.kv_heads].map(|heads| count * heads * shape.head_size);
    Qkv { query: floats(query_floats), key: floats(kv_floats), value: floats(kv_floats) }
}

fn sequence(shape: &AttentionShape, format: KvFormat) -> KeyValues {
    KeyValues::new(format, shape.kv_heads, shape.head_size)
}

/// Measures one query after [`DEPTH`] positions. Returns the bytes read per second in per cent of the memory bandwidth.
fn decode(probe: &Probe, backend: &Backend, shape: &AttentionShape, format: KvFormat) -> f64 {
    let past = qkv_of_positions(shape, DEPTH);
    let mut out = vec![0.0; past.query.len()];
    let mut first = sequence(shape, format);
    attention(backend, shape, &past, &mut [Ragged { states: &mut first, tokens: DEPTH }], &mut out);
    let mut sequences = vec![first; SEQUENCES];
    for sequence in &mut sequences {
        // Each sequence needs its own pages: shared pages would stay in the caches.
        sequence.unshare().and_then(|()| sequence.prepare(1, 1)).expect("memory");
    }
    let qkv = qkv_of_positions(shape, 1);
    let out = &mut out[..qkv.query.len()];
    let shares = (0..ROUNDS).map(|_| {
        let bandwidth = probe.bandwidth(backend);
        let begin = Instant::now();
        for sequence in &mut sequences {
            attention(backend, shape, &qkv, &mut [Ragged { states: sequence, tokens: 1 }], out);
        }
        let seconds = begin.elapsed().as_secs_f64();
        sequences.iter_mut().for_each(|sequence| sequence.truncate(DEPTH));
        (SEQUENCES * sequences[0].read_bytes(DEPTH)) as f64 / seconds / bandwidth * 100.0
    });
    median(shares.collect())
}

/// Measures [`PROMPT`] queries of an empty sequence. Returns the multiply-adds per second in per cent of the `f32`
/// peak.
fn prefill(probe: &Probe, backend: &Backend, shape: &AttentionShape, format: KvFormat) -> f64 {
    let qkv = qkv_of_positions(shape, PROMPT);
    let mut out = vec![0.0; qkv.query.len()];
    let multiply_adds = PROMPT * (PROMPT + 1) * shape.heads * shape.head_size;
    let shares = (0..ROUNDS).map(|_| {
        let peak = probe.float_peak(backend);
        let mut sequence = sequence(shape, format);
        let begin = Instant::now();
        attention(backend, shape, &qkv, &mut [Ragged { states: &mut sequence, tokens: PROMPT }], &mut out);
        multiply_adds as f64 / begin.elapsed().as_secs_f64() / peak * 100.0
    });
    median(shares.collect())
}
