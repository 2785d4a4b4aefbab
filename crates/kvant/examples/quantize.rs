//! Quantizes a model: `cargo run --release -p kvant --example quantize -- MODEL OUT.gguf`.

use kvant::kernels::{Backend, Isa};
use kvant::{Model, Quantize};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output] = &arguments[..] else { return Err("MODEL OUT.gguf".into()) };
    let backend = Backend::new(Isa::best(), std::thread::available_parallelism()?.get());
    let model = Model::open(Path::new(input))?;
    let job = Quantize {
        method: Some("gptq".to_owned()),
        calibration_tokens: Some(4096),
        self_generated_tokens: Some(0),
        force: true,
        ..Quantize::new(&model, Path::new(output))
    };
    let report = job.run(&backend, &())?;
    println!("{} → {} bytes, {:.2} bits a weight", report.bytes_in, report.bytes_out, report.bpw);
    Ok(())
}
