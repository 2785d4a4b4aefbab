//! Compares sequences that run together in one pool, in random schedules, with sequences that run alone.

use kvant_io::Limits;
use kvant_kernels::{Arithmetic, Backend, Isa, KvFormat, Precision};
use kvant_model::{Part, Sequence, Snapshot, Transformer, Want, Weights};
use std::path::PathBuf;

/// Maximum number of positions of a sequence.
const CONTEXT: usize = 190;
/// Number of sequences in the pool.
const SEQUENCES: usize = 12;
/// Number of steps of a schedule.
const STEPS: usize = 24;

/// The random generator SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

fn load(name: &str, isa: Isa, arithmetic: Arithmetic, format: KvFormat) -> Transformer {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/models").join(name);
    let weights = Weights::new(kvant_io::open(&path, &Limits::default()).unwrap()).unwrap();
    let backend = Backend::new(isa, 2).with(arithmetic);
    Transformer::load(&weights, backend).unwrap().with_kv_format(format)
}

/// A sequence and the tokens that it holds. `saved` is a snapshot of the sequence with its tokens.
struct Conversation {
    sequence: Sequence,
    tokens: Vec<u32>,
    saved: Option<(Snapshot, Vec<u32>)>,
}

/// Returns the hidden states of every token. The sequence runs alone and gets one token per step.
fn alone(model: &Transformer, tokens: &[u32]) -> Vec<f32> {
    let mut sequence = model.sequence(CONTEXT);
    let mut states = Vec::new();
    for token in tokens.chunks(1) {
        states.extend(model.prefill(&mut sequence, token, Want::All).unwrap());
    }
    states
}

fn schedule(model: &Transformer, seed: u64, place: &str) {
    let (hidden, vocabulary) = (model.spec().hidden, model.spec().vocabulary);
    let mut random = Random(seed);
    let pool = model.pool(usize::MAX);
    let new = || Conversation { sequence: pool.sequence(CONTEXT), tokens: Vec::new(), saved: None };
    let mut all: Vec<Conversation> = (0..SEQUENCES).map(|_| new()).collect();
    for step in 0..STEPS {
        // Between two steps, replace one sequence by a fork or a new sequence, take or restore a snapshot, truncate
        // it, or remember its states.
        let at = random.below(SEQUENCES);
        match random.below(7) {
            0 => {
                let from = random.below(SEQUENCES);
                let (sequence, tokens) = (all[from].sequence.fork(), all[from].tokens.clone());
                all[at] = Conversation { sequence, tokens, saved: None };
            }
            1 => all[at] = new(),
            2 => all[at].saved = Some((all[at].sequence.snapshot(), all[at].tokens.clone())),
            3 => {
                if let Some((snapshot, tokens)) = all[at].saved.take() {
                    all[at].sequence.restore(&snapshot);
                    all[at].tokens = tokens;
                }
            }
            4 => {
                let to = random.below(all[at].tokens.len() + 1);
                all[at].sequence.truncate(to);
                let left = all[at].sequence.len();
                all[at].tokens.truncate(left);
            }
            5 => all[at].sequence.checkpoint(),
            _ => {}
        }
        // Some sequences get a piece of random length, the others get one token or no token.
        let pieces: Vec<Vec<u32>> = (all.iter())
            .map(|conversation| {
                let count = match random.below(4) {
                    0 => 0,
                    1 => random.below(70),
                    _ => 1,
                };
                let count = count.min(CONTEXT - conversation.tokens.len());
                (0..count).map(|_| random.below(vocabulary) as u32).collect()
            })
            .collect();
        let wants: Vec<Want> = (pieces.iter())
            .map(|piece| match random.below(4) {
                0 => Want::Nothing,
                1 => Want::All,
                2 => Want::Rows(piece.len() / 2..piece.len()),
                _ => Want::Last,
            })
            .collect();
        let parts = all.iter_mut().zip(&pieces).zip(&wants);
        let mut parts: Vec<Part> = parts
            .map(|((conversation, tokens), want)| Part {
                sequence: &mut conversation.sequence,
                tokens,
                want: want.clone(),
            })
            .collect();
        let states = model.step(&mut parts).unwrap();
        drop(parts);
        let mut found = &states[..];
        for (index, ((conversation, piece), want)) in all.iter_mut().zip(&pieces).zip(&wants).enumerate() {
            conversation.tokens.extend(piece);
            let count = match want {
                Want::Nothing => 0,
                Want::Last => piece.len().min(1),
                Want::All => piece.len(),
                Want::Rows(rows) => rows.len(),
            };
            let (own, rest) = found.split_at(count * hidden);
            found = rest;
            if count > 0 && (step + index) % 7 == 0 {
                let expected = alone(model, &conversation.tokens);
                let expected = &expected[expected.len() - count * hidden..];
                let same = own.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{place}, step {step}, sequence {index}");
            }
        }
        assert!(found.is_empty());
    }
    assert!(pool.held() > 0);
    drop(all);
    assert_eq!(pool.held(), 0, "{place}: all memory is given back");
}

#[test]
fn every_sequence_gets_the_bits_that_it_gets_alone() {
    // Every case of the first families, and every fifth case of the others. An emulator is much slower, so it runs only
    // every fifth case of the first families, and every eleventh of the others. These cases include each model, format and
    // arithmetic.
    let every = if std::env::var_os("KVANT_EMULATED").is_some() { [5, 11] } else { [1, 5] };
    let first = ["llama3-f16", "qwen3-tied-bf16", "gpt2-f16"].map(|name| (name, every[0]));
    let others = [
        "gemma2-bf16",
        "phi3-long-f32",
        "qwen3moe-f32",
        "gpt-oss-bf16",
        "qwen35-f32",
        "gemma4-shared-f32",
        "lfm2-f32",
    ];
    let others = others.map(|name| (name, every[1]));
    let (mut tried, mut case) = (0, 0);
    for (name, every) in first.into_iter().chain(others) {
        for isa in Isa::available() {
            for &format in KvFormat::ALL {
                for arithmetic in [Arithmetic::Float, Arithmetic::Integer(Precision::default())] {
                    case += 1;
                    if case % every != 0 {
                        continue;
                    }
                    let model = load(name, isa, arithmetic, format);
                    schedule(&model, tried, &format!("{name} {isa:?} {format:?} {arithmetic:?}"));
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 0, "a model at least");
}

/// Attentions with a window keep the pages that a later position reads, and checkpoints lead back to earlier positions.
#[test]
fn windows_drop_pages() {
    for name in ["gemma2-bf16", "gpt-oss-bf16", "gemma4-shared-f32", "mistral-window-bf16"] {
        for &format in KvFormat::ALL {
            let model = load(name, Isa::best(), Arithmetic::Float, format);
            let count = 700;
            let vocabulary = model.spec().vocabulary as u32;
            let tokens: Vec<u32> = (0..count as u32).map(|i| i * 37 % vocabulary).collect();
            let pool = model.pool(usize::MAX);
            let mut sequence = pool.sequence(count + 1);
            assert!(sequence.bytes(2 * count) < 2 * sequence.bytes(count), "{name}: some pages are dropped");
            let at_once = model.prefill(&mut sequence, &tokens, Want::Last).unwrap();
            assert!(pool.held() <= sequence.bytes(count), "{name} {format:?}");
            // The memory for all positions suffices, wherever pieces begin.
            let exact = model.pool(sequence.bytes(2 * count));
            let mut reserved = exact.sequence(2 * count).reserved().unwrap();
            assert_eq!(exact.held(), exact.limit());
            for piece in [&tokens[..62], &tokens[62..574], &tokens[574..]] {
                model.prefill(&mut reserved, piece, Want::Nothing).unwrap();
            }
            // The end can move back by 64 positions without a checkpoint, but `q4_0` may lose the rest of a page.
            reserved.truncate(count - 64);
            let end = reserved.len();
            let most_lost = if format == KvFormat::Q4_0 { 63 } else { 0 };
            assert!((count - 64 - most_lost..=count - 64).contains(&end), "{name} {format:?}: {end}");
            let again = model.prefill(&mut reserved, &tokens[end..], Want::Last).unwrap();
            assert!(again == at_once, "{name} {format:?}");
            let mut other = pool.sequence(count + 1);
            model.prefill(&mut other, &tokens[..300], Want::Last).unwrap();
            other.checkpoint();
            let mut in_pieces = Vec::new();
            for piece in tokens[300..].chunks(9) {
                in_pieces = model.prefill(&mut other, piece, Want::Last).unwrap();
            }
            assert!(in_pieces == at_once, "{name} {format:?}");
            // Position 400 has no pages any more.
            other.truncate(400);
            assert_eq!(other.len(), 300, "{name} {format:?}");
            let again = model.prefill(&mut other, &tokens[300..], Want::Last).unwrap();
            assert!(again == at_once, "{name} {format:?}");
            // The next position drops pages. There is no checkpoint.
            model.prefill(&mut sequence, &tokens[..1], Want::Nothing).unwrap();
            sequence.truncate(400);
            assert_eq!(sequence.len(), 0, "{name} {format:?}");
            drop((sequence, other));
            assert_eq!(pool.held(), 0, "{name} {format:?}");
        }
    }
}

/// Blocks that share keys and values take no memory for their own.
#[test]
fn shared_states_count_once() {
    let model = load("gemma4-shared-f32", Isa::best(), Arithmetic::Float, KvFormat::F32);
    let own = model.spec().attentions().filter(|attention| attention.states_of().is_none());
    let floats: usize = own.map(|attention| 2 * attention.kv_heads * attention.head_size).sum();
    let sequence = model.sequence(64);
    assert_eq!(sequence.bytes(64), 4 * 64 * floats);
    assert!(sequence.read_bytes(64) > sequence.bytes(64));
    let pool = model.pool(usize::MAX);
    let mut sequence = pool.sequence(64);
    model.prefill(&mut sequence, &[1, 2, 3], Want::Last).unwrap();
    assert_eq!(pool.held(), 4 * 64 * floats);
}

#[test]
fn a_full_pool_is_an_error_that_changes_nothing() {
    for &format in KvFormat::ALL {
        let model = load("qwen3-tied-bf16", Isa::best(), Arithmetic::Float, format);
        let tokens: Vec<u32> = (0..100).map(|i| i * 7 % 90).collect();
        let bytes = model.sequence(CONTEXT).bytes(tokens.len());
        let pool = model.pool(bytes + bytes / 2);
        let mut first = pool.sequence(CONTEXT);
        model.prefill(&mut first, &tokens, Want::Nothing).unwrap();
        let held = pool.held();
        assert_eq!(held, bytes, "{format:?}");
        // The pool has room for one of these two parts, but not for both.
        let (mut second, mut third) = (pool.sequence(CONTEXT), pool.sequence(CONTEXT));
        let part = |sequence, tokens| Part { sequence, tokens, want: Want::Last };
        let refused = model.step(&mut [part(&mut second, &tokens[..1]), part(&mut third, &tokens)]);
        let error = refused.expect_err("the pool is full").to_string();
        assert!(error.contains("more bytes") && error.contains("are free"), "{error}");
        assert_eq!((pool.held(), second.len(), third.len()), (held, 0, 0), "{format:?}");
        // The failed step did not change the sequence that is in the pool.
        let next = model.next_logits(&mut first, &tokens[..1]).unwrap();
        let mut other = model.sequence(CONTEXT);
        model.prefill(&mut other, &tokens, Want::Nothing).unwrap();
        assert!(next == model.next_logits(&mut other, &tokens[..1]).unwrap(), "{format:?}");
        // A fork needs no memory before it gets its own tokens.
        let held = pool.held();
        let mut fork = first.fork();
        assert_eq!(pool.held(), held);
        fork.release();
        first.release();
        let mut reserved = pool.sequence(64).reserved().unwrap();
        assert!(pool.held() > 0, "{format:?}");
        reserved.release();
        assert_eq!(pool.held(), 0, "{format:?}");
    }
}
