//! The speed of a model, in tokens per second and as a share of the machine's limits.
//!
//! The limits of the machine change over time. So each round of a test first measures the limits ([`Probe`]) and
//! computes its shares from these limits. The results are medians over the rounds.
//!
//! Tests have the names of llama-bench: `pp512` is the prefill of 512 tokens, `tg128` is the decode of 128 tokens,
//! `tg128@d2048` is the same decode after a context of 2048 tokens, and `tg128×8` is the decode of eight sequences in
//! one batch.

use crate::energy::Meter;
use crate::{Error, Progress};
use kvant_kernels::Probe;
use kvant_model::{OpCount, Part, Sequence, Transformer, Want};
use schemars::JsonSchema;
use serde::Serialize;
use std::time::Instant;

/// A speed test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Prefill of a prompt.
    Prompt {
        /// Number of tokens of the prompt.
        tokens: usize,
    },
    /// Decode: generation of tokens, one token per sequence and step.
    Answer {
        /// Number of tokens to decode per sequence.
        tokens: usize,
        /// Number of tokens in the KV cache before the test.
        depth: usize,
        /// Number of sequences in the batch.
        sequences: usize,
    },
}

impl Test {
    /// Returns the name of the test, as in llama-bench.
    pub fn name(&self) -> String {
        match *self {
            Self::Prompt { tokens } => format!("pp{tokens}"),
            Self::Answer { tokens, depth, sequences } => {
                let depth = if depth > 0 { format!("@d{depth}") } else { String::new() };
                let sequences = if sequences > 1 { format!("×{sequences}") } else { String::new() };
                format!("tg{tokens}{depth}{sequences}")
            }
        }
    }

    /// Returns the number of positions that a sequence needs.
    pub fn positions(&self) -> usize {
        match *self {
            Self::Prompt { tokens } => tokens,
            Self::Answer { tokens, depth, .. } => tokens.saturating_add(depth),
        }
    }
}

/// The result of a test.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BenchRow {
    /// Name of the test.
    pub test: String,
    /// Tokens per second of all sequences together; the median of the rounds.
    pub tps_median: f64,
    /// Tokens per second of the slowest round.
    pub tps_min: f64,
    /// Tokens per second of the fastest round.
    pub tps_max: f64,
    /// Bytes of weights that are read per token. One pass over several tokens reads the weights one time.
    pub weight_bytes_per_token: f64,
    /// Bytes of weights and of the KV cache read per second, as a share of the probed bandwidth.
    pub bandwidth_fraction: f64,
    /// Multiply-adds per second of matrix products, as a share of the probed peak of the instructions that they use.
    pub ops_fraction: f64,
    /// Energy of the processor per token, in joules, if the system reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joules_per_token: Option<f64>,
}

/// The result of one round of a test.
struct Round {
    /// Tokens per second of all sequences together.
    tps: f64,
    bandwidth_fraction: f64,
    ops_fraction: f64,
    joules_per_token: Option<f64>,
}

/// A test, its sequences in their state before each round, and the results of its rounds.
struct Prepared {
    test: Test,
    sequences: Vec<Sequence>,
    rounds: Vec<Round>,
}

/// Runs each test `rounds` times. A round of the first test is followed by a round of the second test, and so on.
/// Reports each finished round to `progress`.
///
/// # Errors
/// Returns the errors of the model, and [`Error::Interrupted`] if the user stops the benchmark.
pub fn bench(
    model: &Transformer,
    tests: &[Test],
    rounds: usize,
    progress: &dyn Progress,
) -> Result<Vec<BenchRow>, Error> {
    let probe = Probe::new();
    let mut prepared = tests.iter().map(|&test| prepare(model, test)).collect::<Result<Vec<_>, _>>()?;
    let all = tests.len() * rounds;
    for done in 0..all {
        if progress.stop() {
            return Err(Error::Interrupted);
        }
        progress.at(done as u64, all as u64, "");
        run_round(model, &probe, &mut prepared[done % tests.len()])?;
    }
    progress.at(all as u64, all as u64, "");
    Ok(prepared.iter().map(|prepared| result_row(model, prepared)).collect())
}

/// Returns `count` arbitrary tokens. Their values do not influence the speed.
fn tokens(model: &Transformer, count: usize) -> Vec<u32> {
    let vocabulary = model.spec().vocabulary as u64;
    (0..count as u64).map(|i| (i * 7919 % vocabulary) as u32).collect()
}

/// Creates the sequences of a test and fills their KV caches up to the depth of the test.
fn prepare(model: &Transformer, test: Test) -> Result<Prepared, Error> {
    let mut first = model.sequence(test.positions());
    let (sequences, depth) = match test {
        Test::Prompt { .. } => (1, 0),
        Test::Answer { depth, sequences, .. } => (sequences, depth),
    };
    if depth > 0 {
        model.prefill(&mut first, &tokens(model, depth), Want::Nothing)?;
    } else {
        // Run the model one time before the measurement, because the first run allocates buffers that later runs reuse.
        model.prefill(&mut first, &tokens(model, test.positions().min(Transformer::PIECE)), Want::Nothing)?;
        first.truncate(0);
    }
    let sequences = (0..sequences).map(|_| first.fork().unshared()?.reserved()).collect::<Result<_, _>>()?;
    Ok(Prepared { test, sequences, rounds: Vec::new() })
}

/// Measures the limits of the machine, runs one round of a test, and restores the sequences.
fn run_round(model: &Transformer, probe: &Probe, prepared: &mut Prepared) -> Result<(), Error> {
    let backend = model.backend();
    let (bandwidth, integers, floats) =
        (probe.bandwidth(backend), probe.integer_peak(backend), probe.float_peak(backend));
    let sequences = &mut prepared.sequences;
    let before = sequences[0].len();
    sequences.iter_mut().for_each(Sequence::checkpoint);
    let (meter, begin) = (Meter::start(), Instant::now());
    let (count, steps) = match prepared.test {
        Test::Prompt { tokens: count } => {
            model.next_logits(&mut sequences[0], &tokens(model, count))?;
            (count, count.div_ceil(Transformer::PIECE))
        }
        Test::Answer { tokens: count, .. } => {
            for token in tokens(model, count) {
                let token = [token];
                let part = |sequence| Part { sequence, tokens: &token, want: Want::Last };
                let mut parts: Vec<Part> = sequences.iter_mut().map(part).collect();
                model.logits(&model.step(&mut parts)?);
            }
            (count * sequences.len(), count)
        }
    };
    let seconds = begin.elapsed().as_secs_f64();
    let joules = meter.joules();
    let work = ops_of_round(model, prepared.test);
    // Each decode step reads the KV cache at its current length. The estimate uses the average length of the round for
    // all steps. For a prompt, reads of the KV cache are not counted, because the prompt itself has just written the
    // keys and values.
    let read = match prepared.test {
        Test::Prompt { .. } => 0,
        Test::Answer { .. } => sequences.iter().map(|s| steps * s.read_bytes((before + s.len()) / 2)).sum(),
    };
    for sequence in sequences {
        sequence.truncate(before);
        let held = sequence.len();
        model.prefill(sequence, &tokens(model, before)[held..], Want::Nothing)?;
    }
    prepared.rounds.push(Round {
        tps: count as f64 / seconds,
        bandwidth_fraction: (work.weight_bytes + read) as f64 / seconds / bandwidth,
        ops_fraction: (work.integer_multiply_adds as f64 / integers
            + work.float_multiply_adds as f64 / floats)
            / seconds,
        joules_per_token: joules.map(|joules| joules / count as f64),
    });
    Ok(())
}

/// Returns the multiply-adds and the bytes of weights of one round.
fn ops_of_round(model: &Transformer, test: Test) -> OpCount {
    let (blocks, head) = (model.op_count_of_blocks(), model.op_count_of_head());
    match test {
        Test::Prompt { tokens } => {
            let pieces = tokens.div_ceil(Transformer::PIECE);
            blocks.times(tokens, pieces).plus(head)
        }
        Test::Answer { tokens, sequences, .. } => blocks.plus(head).times(tokens * sequences, tokens),
    }
}

/// Returns the median; NaN if there is no value.
fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Computes the medians over the rounds of a test.
fn result_row(model: &Transformer, prepared: &Prepared) -> BenchRow {
    let of = |value: fn(&Round) -> f64| prepared.rounds.iter().map(value).collect::<Vec<f64>>();
    let joules: Option<Vec<f64>> = prepared.rounds.iter().map(|round| round.joules_per_token).collect();
    let tokens = match prepared.test {
        Test::Prompt { tokens } => tokens,
        Test::Answer { tokens, sequences, .. } => tokens * sequences,
    };
    BenchRow {
        test: prepared.test.name(),
        tps_median: median(of(|round| round.tps)),
        tps_min: of(|round| round.tps).into_iter().fold(f64::INFINITY, f64::min),
        tps_max: of(|round| round.tps).into_iter().fold(0.0, f64::max),
        weight_bytes_per_token: ops_of_round(model, prepared.test).weight_bytes as f64 / tokens as f64,
        bandwidth_fraction: median(of(|round| round.bandwidth_fraction)),
        ops_fraction: median(of(|round| round.ops_fraction)),
        joules_per_token: joules.map(median),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_llama_bench() {
        let answer = |depth, sequences| Test::Answer { tokens: 128, depth, sequences }.name();
        assert_eq!(Test::Prompt { tokens: 512 }.name(), "pp512");
        assert_eq!(
            [answer(0, 1), answer(2048, 1), answer(0, 8), answer(64, 2)],
            ["tg128", "tg128@d2048", "tg128×8", "tg128@d64×2"]
        );
    }
}
