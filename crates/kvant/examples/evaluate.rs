//! Measures the loss of a quantized file: `cargo run --release -p kvant --example evaluate -- FILE REFERENCE TEXT`.

use kvant::kernels::{Backend, Isa};
use kvant::{Evaluate, Model, read_text};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, reference, text] = &arguments[..] else { return Err("FILE REFERENCE TEXT".into()) };
    let backend = Backend::new(Isa::best(), std::thread::available_parallelism()?.get());
    let (file, reference) = (Model::open(Path::new(file))?, Model::open(Path::new(reference))?);
    let text = read_text(Path::new(text))?;
    let job = Evaluate {
        reference: Some(&reference),
        context: 256,
        contexts: Some(4),
        ..Evaluate::new(&file, &text)
    };
    let quality = job.run(&backend, &())?;
    println!("perplexity {:.3}, KL divergence {:.5}", quality.ppl, quality.kld_mean.ok_or("no reference")?);
    Ok(())
}
