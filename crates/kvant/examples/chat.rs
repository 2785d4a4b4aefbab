//! An answer, and a second one to the same beginning: `cargo run --release -p kvant --example chat -- MODEL PROMPT`.

use kvant::model::{Sampler, Sampling, Special, Tokenizer, Transformer, Want, Weights, generate};
use kvant::{io, kernels};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, prompt] = &arguments[..] else { return Err("MODEL PROMPT".into()) };
    let weights = Weights::new(io::open(Path::new(model), &io::Limits::default())?)?;
    let tokenizer = Tokenizer::from_meta(weights.checkpoint().meta())?.ok_or("no tokenizer")?;
    let threads = std::thread::available_parallelism()?.get();
    let backend = kernels::Backend::new(kernels::Isa::best(), threads)
        .with(kernels::Arithmetic::Integer(kernels::Precision::default()));
    let network = Transformer::load(&weights, backend)?;
    let tokens = tokenizer.encode(prompt, Special { add: true, parse: false })?;
    let (last, before) = tokens.split_last().ok_or("an empty prompt")?;
    // Both answers share what was read before the last token.
    let mut shared = network.sequence(network.spec().context.min(512));
    network.prefill(&mut shared, before, Want::Nothing)?;
    for seed in 0..2 {
        let sampling =
            Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.0, repeat_penalty: 1.0, seed };
        let (mut sampler, mut sequence) = (Sampler::new(sampling)?, shared.fork());
        let mut show = |text: &str| {
            print!("{text}");
            true
        };
        generate(&network, &tokenizer, &mut sequence, &mut sampler, &[*last], 32, &[], &mut show)?;
        println!("\n---");
    }
    Ok(())
}
