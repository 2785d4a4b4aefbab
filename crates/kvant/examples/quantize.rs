//! A model made small: `cargo run --release -p kvant --example quantize -- MODEL OUT.gguf`.

use kvant::quant::{FileType, Recipe, method, quantize};
use kvant::{CalibrationText, calibration, io, kernels, model};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output] = &arguments[..] else { return Err("MODEL OUT.gguf".into()) };
    let weights = model::Weights::new(io::open(Path::new(input), &io::Limits::default())?)?;
    let tokenizer = model::Tokenizer::from_meta(weights.checkpoint().meta())?.ok_or("no tokenizer")?;
    let file_type = FileType::by_name("q4_k_m").ok_or("no such file type")?;
    let mut recipe = Recipe::plain(file_type, method("gptq").ok_or("no such method")?);
    recipe.work = format!("{output}.work").into();
    recipe.calibration =
        Some(calibration(&[CalibrationText::BuiltIn], 4096, Some(0), &weights, &tokenizer)?.calibration);
    let backend = kernels::Backend::new(kernels::Isa::best(), std::thread::available_parallelism()?.get());
    let report = quantize(&weights, &recipe, Path::new(output), true, &backend, &())?;
    println!(
        "{} → {} bytes, {:.2} bits a weight",
        report.file.bytes_in, report.file.bytes_out, report.file.bpw
    );
    Ok(())
}
