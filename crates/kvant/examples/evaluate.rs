//! Measures the loss of a file: `cargo run --release -p kvant --example evaluate -- FILE REFERENCE TEXT`.

use kvant::eval::{Contexts, Judged, evaluate};
use kvant::model::{Special, Tokenizer, Transformer, Weights};
use kvant::{io, kernels};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, reference, text] = &arguments[..] else { return Err("FILE REFERENCE TEXT".into()) };
    let threads = std::thread::available_parallelism()?.get();
    let load = |path: &str| -> Result<_, Box<dyn std::error::Error>> {
        let weights = Weights::new(io::open(Path::new(path), &io::Limits::default())?)?;
        let network = Transformer::load(&weights, kernels::Backend::new(kernels::Isa::best(), threads))?;
        Ok((weights, network))
    };
    let ((_, model), (weights, reference)) = (load(file)?, load(reference)?);
    let tokenizer = Tokenizer::from_meta(weights.checkpoint().meta())?.ok_or("no tokenizer")?;
    let tokens = tokenizer.encode(&std::fs::read_to_string(text)?, Special { add: true, parse: false })?;
    let contexts =
        Contexts::new(&tokens, 256, Some(4), tokenizer.adds_bos().then(|| tokenizer.bos()).flatten())?;
    let judged = Judged { model: &model, reference: Some(&reference), as_run: None };
    let quality = evaluate(judged, &contexts, &mut |_, _| true)?;
    println!("perplexity {:.3}, KL divergence {:.5}", quality.ppl, quality.kld_mean.ok_or("no reference")?);
    Ok(())
}
