//! Compares the forward pass with `transformers` on tiny random models and on their GGUF versions, for whole prompts
//! and token by token.

use kvant_io::Limits;
use kvant_kernels::{Backend, Isa, KvFormat};
use kvant_model::{Part, Sequence, Transformer, Want, Weights, continue_together};
use std::path::{Path, PathBuf};

/// Maximum difference of two logits. In `transformers` itself, the logits of f32 and f64 differ by 1.4e-5.
const TOLERANCE: f32 = 1e-3;

fn folders() -> Vec<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/models");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 38, "golden models are missing");
    // An emulator takes minutes for what takes seconds.
    let every = if std::env::var_os("KVANT_EMULATED").is_some() { 4 } else { 1 };
    folders.into_iter().step_by(every).collect()
}

fn expected(folder: &Path) -> (Vec<u32>, Vec<f32>) {
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let tokens = golden["prompt"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
    let bytes = std::fs::read(folder.join("golden_logits.f32")).unwrap();
    (tokens, bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

fn load(path: &Path, isa: Isa, threads: usize) -> Transformer {
    let weights = Weights::new(kvant_io::open(path, &Limits::default()).unwrap()).unwrap();
    Transformer::load(&weights, Backend::new(isa, threads)).unwrap()
}

fn all_logits(model: &Transformer, tokens: &[u32]) -> Vec<f32> {
    model.logits(&states(model, &mut model.sequence(tokens.len()), tokens))
}

fn states(model: &Transformer, sequence: &mut Sequence, tokens: &[u32]) -> Vec<f32> {
    model.prefill(sequence, tokens, Want::All).unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn prompt_and_cache_give_the_logits_of_transformers() {
    for folder in folders() {
        let (tokens, expected) = expected(&folder);
        let twin = folder.join("model.gguf");
        let mut largest = 0.0f32;
        for path in [Some(folder.clone()), twin.exists().then_some(twin)].into_iter().flatten() {
            for isa in Isa::available() {
                let model = load(&path, isa, 2);
                let prompt = all_logits(&model, &tokens);
                let found = largest_difference(&prompt, &expected);
                largest = largest.max(found);
                assert!(found < TOLERANCE, "{} {isa:?} prompt: {found}", path.display());
                let mut sequence = model.sequence(tokens.len());
                let stepwise: Vec<f32> =
                    tokens.iter().flat_map(|&t| model.next_logits(&mut sequence, &[t]).unwrap()).collect();
                let found = largest_difference(&stepwise, &expected);
                largest = largest.max(found);
                assert!(found < TOLERANCE, "{} {isa:?} token by token: {found}", path.display());
            }
        }
        // Shown by `--nocapture`: the table of differences.
        println!("{:24} {largest:.6}", folder.file_name().unwrap_or_default().to_string_lossy());
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for folder in folders() {
        let (tokens, _) = expected(&folder);
        let run = |threads| {
            let model = load(&folder, Isa::best(), threads);
            all_logits(&model, &tokens)
        };
        let one = run(1);
        for threads in [2, 3] {
            let same = run(threads).iter().zip(&one).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{} with {threads} threads", folder.display());
        }
    }
}

#[test]
fn a_token_outside_the_vocabulary_and_a_full_sequence_are_errors_that_change_nothing() {
    let model = load(&folders()[0], Isa::best(), 1);
    let mut sequence = model.sequence(4);
    assert!(model.prefill(&mut sequence, &[u32::MAX], Want::All).is_err());
    assert!(model.prefill(&mut sequence, &[1, 2, 3, 4, 5], Want::All).is_err());
    assert!(sequence.is_empty());
    assert!(model.prefill(&mut sequence, &[1, 2, 3], Want::All).is_ok());
    assert_eq!(sequence.len(), 3);
    let mut other = model.sequence(4);
    let part = |sequence, tokens| Part { sequence, tokens, want: Want::Last };
    assert!(model.step(&mut [part(&mut other, &[1, 2]), part(&mut sequence, &[1, 2])]).is_err());
    assert_eq!((other.len(), sequence.len()), (0, 3));
}

#[test]
fn what_a_network_writes_depends_on_its_seed_alone_and_can_be_stopped() {
    let folder = &folders()[0];
    let run = |threads, seeds: &[u64]| {
        let starts = vec![vec![1, 2, 3]; seeds.len()];
        continue_together(&load(folder, Isa::best(), threads), &starts, seeds, 12, &mut |_| true)
            .unwrap()
            .unwrap()
    };
    let found = run(1, &[4, 5, 6, 7]);
    assert!(found.iter().all(|sequence| sequence.len() == 12 && sequence[..3] == [1, 2, 3]));
    assert_ne!(found[0], found[1]);
    assert_eq!(found, run(3, &[4, 5, 6, 7]));
    assert_eq!(found[1..], run(2, &[5, 6, 7]));
    let mut asked = 0;
    let mut go_on = |_| {
        asked += 1;
        asked < 3
    };
    let stopped = continue_together(&load(folder, Isa::best(), 1), &[vec![1]], &[0], 12, &mut go_on);
    assert!(stopped.unwrap().is_none() && asked == 3);
}

#[test]
fn a_sequence_that_goes_back_goes_on_as_if_it_had_not_been_further() {
    let mut tried = 0;
    for folder in folders() {
        for &format in KvFormat::ALL {
            let model = load(&folder, Isa::best(), 2).with_kv_format(format);
            let tokens: Vec<u32> = (0..200).map(|i| i * 7919 % model.spec().vocabulary as u32).collect();
            let whole = states(&model, &mut model.sequence(tokens.len()), &tokens);
            for (held, to) in [(200, 150), (200, 20), (130, 128), (129, 100), (64, 63)] {
                let mut sequence = model.sequence(tokens.len());
                let checkpoint = to - 7;
                states(&model, &mut sequence, &tokens[..checkpoint]);
                sequence.checkpoint();
                states(&model, &mut sequence, &tokens[checkpoint..held]);
                sequence.truncate(to);
                let left = sequence.len();
                if model.spec().delta_nets().next().is_some() {
                    assert_eq!(left, checkpoint, "{held} to {to}");
                } else {
                    assert!(left <= to && left + 64 > to, "{held} to {to}: {left}");
                }
                let again = states(&model, &mut sequence, &tokens[left..]);
                let expected = &whole[left * model.spec().hidden..];
                let same = again.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{} {format:?}, {held} to {to}", folder.display());
                tried += 1;
            }
        }
    }
    assert!(tried > 0, "a model at least");
}
