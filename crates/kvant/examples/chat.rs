//! Generates two answers to the same prompt and computes the prefill only once:
//! `cargo run --release -p kvant --example chat -- MODEL PROMPT`.

use kvant::kernels::{Backend, Isa};
use kvant::model::{Sampler, Sampling, Special, Want, generate};
use kvant::{Model, RunSettings};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, prompt] = &arguments[..] else { return Err("MODEL PROMPT".into()) };
    let model = Model::open(Path::new(model))?;
    let backend = Backend::new(Isa::best(), std::thread::available_parallelism()?.get());
    let (network, tokenizer) = model.load_speaker(backend, RunSettings::default())?;
    let tokens = tokenizer.encode(prompt, Special { add: true, parse: true })?;
    let (_, before) = tokens.split_last().ok_or("an empty prompt")?;
    // Both answers share the KV cache of all tokens before the last one.
    let mut shared = network.sequence(network.spec().context.min(512));
    network.prefill(&mut shared, before, Want::Nothing)?;
    for seed in 0..2 {
        let mut sampler = Sampler::with_tokenizer(Sampling { seed, ..model.sampling() }, &tokenizer)?;
        let mut sequence = shared.fork();
        let mut show = |text: &str| {
            print!("{text}");
            true
        };
        generate(&network, &tokenizer, &mut sequence, &mut sampler, &tokens, 32, &[], &mut show)?;
        println!("\n---");
    }
    Ok(())
}
