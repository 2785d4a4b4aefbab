//! Compares hidden states and vectors of texts with `transformers` on tiny random models and on their GGUF versions.

use kvant_io::Limits;
use kvant_kernels::{Backend, Isa};
use kvant_model::{Error, Transformer, Want, Weights};
use std::path::{Path, PathBuf};

/// Maximum difference of two hidden states.
const TOLERANCE: f32 = 1e-3;

fn folders() -> Vec<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/encoders");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 9, "golden encoders are missing");
    folders
}

/// Returns the tokens, the hidden states and the vector of a golden model.
fn expected(folder: &Path) -> (Vec<u32>, Vec<f32>, Vec<f32>) {
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let tokens = golden["prompt"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
    let bytes = std::fs::read(folder.join("golden_states.f32")).unwrap();
    let vector = golden["vector"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
    (tokens, bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(), vector)
}

fn load(path: &Path, isa: Isa, threads: usize) -> Transformer {
    let weights = Weights::new(kvant_io::open(path, &Limits::default()).unwrap()).unwrap();
    Transformer::load(&weights, Backend::new(isa, threads)).unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn hidden_states_and_vectors_are_those_of_transformers() {
    for folder in folders() {
        let (tokens, expected, vector) = expected(&folder);
        let twin = folder.join("model.gguf");
        let (mut largest, mut dense) = (0.0f32, 0);
        for path in [Some(folder.clone()), twin.exists().then_some(twin)].into_iter().flatten() {
            let is_gguf = path.extension().is_some();
            for isa in Isa::available() {
                let model = load(&path, isa, 2);
                let found = largest_difference(&model.encode(&[&tokens]).unwrap(), &expected);
                largest = largest.max(found);
                assert!(found < TOLERANCE, "{} {isa:?}: {found}", path.display());
                let mut settings = model.spec().text_vector.clone().unwrap();
                if is_gguf && settings.length(model.spec().hidden) * settings.dense.len() < dense {
                    // llama.cpp's converter leaves out the linear maps after the pooling.
                    continue;
                }
                dense = settings.length(model.spec().hidden) * settings.dense.len();
                // A GGUF does not say that vectors are not normalized.
                let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
                if is_gguf {
                    settings.normalized = (length - 1.0).abs() < 1e-4;
                }
                let found = model.text_vectors(&[&tokens], &settings).unwrap();
                let found = largest_difference(&found, &vector);
                assert!(found < TOLERANCE, "{} {isa:?}: vector {found}", path.display());
            }
        }
        // Shown by `--nocapture`: the table of differences.
        println!("{:24} {largest:.6}", folder.file_name().unwrap_or_default().to_string_lossy());
    }
}

#[test]
fn a_text_has_the_same_bits_alone_and_in_any_batch_and_for_any_threads() {
    for folder in folders() {
        let model = load(&folder, Isa::best(), 1);
        let (context, vocabulary) = (model.spec().context, model.spec().vocabulary);
        let tokens: Vec<u32> = (0..context).map(|i| (i * 7919 % vocabulary) as u32).collect();
        let texts: Vec<&[u32]> = [1, context, 17, 33, 2].iter().map(|&n| &tokens[context - n..]).collect();
        let alone: Vec<f32> = texts.iter().flat_map(|text| model.encode(&[text]).unwrap()).collect();
        assert!(same_bits(&model.encode(&texts).unwrap(), &alone), "{}", folder.display());
        let others = load(&folder, Isa::best(), 3);
        assert!(same_bits(&others.encode(&texts).unwrap(), &alone), "{}", folder.display());
        let mut sequence = model.sequence(context);
        let states = model.prefill(&mut sequence, texts[1], Want::All).unwrap();
        assert!(same_bits(&states, &model.encode(&[texts[1]]).unwrap()), "{}", folder.display());
    }
}

#[test]
fn a_text_of_an_encoder_cannot_grow_and_gives_no_logits() {
    let model = load(&folders()[0], Isa::best(), 1);
    let mut sequence = model.sequence(8);
    assert!(matches!(model.next_logits(&mut sequence, &[1, 2]), Err(Error::NoLogits { .. })));
    assert!(sequence.is_empty());
    model.prefill(&mut sequence, &[1, 2], Want::All).unwrap();
    assert!(matches!(model.prefill(&mut sequence, &[3], Want::All), Err(Error::NotCausal { .. })));
    assert_eq!(sequence.len(), 2);
    let long = vec![1; model.spec().context + 1];
    assert!(matches!(model.encode(&[&long]), Err(Error::Context { .. })));
    assert!(matches!(model.encode(&[&[u32::MAX]]), Err(Error::Token { .. })));
    let settings = model.spec().text_vector.clone().unwrap();
    assert!(model.text_vectors(&[&[]], &settings).is_err());
}
