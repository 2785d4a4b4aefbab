//! `cargo xtask synth`: writes a model with the shape of a published model and random weights, to measure speed and
//! memory at full size without a download.
//!
//! The file is the same on every machine. The tensors are created one after the other, so that only one tensor is in
//! memory. The answers of the model have no meaning. Not covered here: other families, a separate output head, and
//! rotary factors (they cost no time).

mod numbers;
mod vocabulary;

use clap::Args;
use kvant::core::{FormatRef, Shape, format};
use kvant::io::{Limits, Metadata, Plan, PlannedTensor, Value};
use kvant::model::{Tokenizer, Weights};
use numbers::Values;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Flags of `cargo xtask synth`.
#[derive(Args)]
pub struct Synth {
    /// The shape, for example llama-1b
    shape: String,
    /// The file to write (GGUF, f16)
    #[arg(short, long)]
    output: PathBuf,
    /// Replaces a file that is there
    #[arg(long)]
    force: bool,
}

/// The sizes of a network of the Llama family. The output head is the embedding.
struct NetworkShape {
    name: &'static str,
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_size: usize,
    feed_forward: usize,
    vocabulary: usize,
    context: usize,
    rope_theta: f32,
}

/// All shapes that the command can write.
static SHAPES: &[NetworkShape] = &[
    // The shape of Llama-3.2-1B, except its vocabulary size of 128256.
    NetworkShape {
        name: "llama-1b",
        hidden: 2048,
        layers: 16,
        heads: 32,
        kv_heads: 8,
        head_size: 64,
        feed_forward: 8192,
        vocabulary: 32000,
        context: 8192,
        rope_theta: 500_000.0,
    },
    // A shape for tests: a few megabytes, and each row consists of whole superblocks.
    NetworkShape {
        name: "llama-tiny",
        hidden: 256,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_size: 64,
        feed_forward: 768,
        vocabulary: 2048,
        context: 512,
        rope_theta: 10_000.0,
    },
];

/// Standard deviation of the weights, as at the start of training in this family.
const DEVIATION: f32 = 0.02;

/// Runs the command. Returns the faults as texts.
pub fn run(arguments: &Synth) -> Vec<String> {
    let begin = Instant::now();
    let written = by_name(&arguments.shape)
        .and_then(|shape| write(shape, &arguments.output, arguments.force))
        .map_err(|error| error.to_string());
    match written {
        Ok(tensors) => {
            let (name, seconds) = (arguments.output.display(), begin.elapsed().as_secs_f64());
            println!("{name}: {}, {tensors} tensors, {seconds:.1} s", arguments.shape);
            Vec::new()
        }
        Err(fault) => vec![fault],
    }
}

fn by_name(name: &str) -> Result<&'static NetworkShape, Box<dyn Error>> {
    SHAPES.iter().find(|shape| shape.name == name).ok_or_else(|| {
        let known: Vec<_> = SHAPES.iter().map(|shape| shape.name).collect();
        format!("there is no shape {name:?}; there are {}", known.join(", ")).into()
    })
}

/// Writes the file. Opens it as a model before it gets its final name. Returns the number of tensors.
fn write(shape: &NetworkShape, output: &Path, force: bool) -> Result<usize, Box<dyn Error>> {
    let tensors = tensors(shape)?;
    let planned = tensors.iter().map(|(planned, _)| planned.clone()).collect();
    let plan = Plan { metadata: metadata(shape)?, tensors: planned };
    let mut sink = kvant::io::create(output, &plan, force)?;
    for (index, (planned, values)) in tensors.iter().enumerate() {
        sink.put(&planned.name, &numbers::tensor(planned, index as u32, values)?)?;
    }
    Weights::new(kvant::io::open(sink.seal()?, &Limits::default())?)?;
    sink.finish()?;
    Ok(tensors.len())
}

/// Returns every tensor in file order, with the distribution of its values.
fn tensors(shape: &NetworkShape) -> Result<Vec<(PlannedTensor, Values)>, kvant::core::Error> {
    let &NetworkShape { hidden, feed_forward, vocabulary, .. } = shape;
    let (query, key) = (shape.heads * shape.head_size, shape.kv_heads * shape.head_size);
    // Each block adds to the residual stream two times. With this deviation, the deviation of the sum does not grow
    // with the number of blocks.
    let to_residual = DEVIATION / (2.0 * shape.layers as f32).sqrt();
    let plan = |name: String, dimensions: &[usize], format: FormatRef| {
        Ok(PlannedTensor { name: format!("{name}.weight"), shape: Shape::new(dimensions)?, format })
    };
    let norm = |name: String| Ok((plan(name, &[hidden], &format::F32)?, Values::norm()));
    let map = |name: String, rows: usize, columns: usize, deviation: f32| {
        Ok((plan(name, &[rows, columns], &format::F16)?, Values::map(columns, deviation)))
    };
    let mut tensors = vec![map("token_embd".into(), vocabulary, hidden, DEVIATION)?];
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}");
        tensors.extend([
            norm(name("attn_norm"))?,
            map(name("attn_q"), query, hidden, DEVIATION)?,
            map(name("attn_k"), key, hidden, DEVIATION)?,
            map(name("attn_v"), key, hidden, DEVIATION)?,
            map(name("attn_output"), hidden, query, to_residual)?,
            norm(name("ffn_norm"))?,
            map(name("ffn_gate"), feed_forward, hidden, DEVIATION)?,
            map(name("ffn_up"), feed_forward, hidden, DEVIATION)?,
            map(name("ffn_down"), hidden, feed_forward, to_residual)?,
        ]);
    }
    tensors.push(norm("output_norm".into())?);
    Ok(tensors)
}

/// Returns the metadata, with the keys of llama.cpp (`gguf-py/gguf/constants.py`).
fn metadata(shape: &NetworkShape) -> Result<Metadata, Box<dyn Error>> {
    let mut metadata = Metadata::default();
    let text = |text: &str| Value::String(text.to_owned());
    metadata.set("general.architecture", text("llama"));
    metadata.set("general.type", text("model"));
    metadata.set("general.name", text(&format!("{} (synthetic)", shape.name)));
    metadata.set("general.description", text("random weights, made by kvant's `cargo xtask synth`"));
    metadata.set("general.file_type", Value::U32(1));
    for (key, count) in [
        ("block_count", shape.layers),
        ("context_length", shape.context),
        ("embedding_length", shape.hidden),
        ("feed_forward_length", shape.feed_forward),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("attention.key_length", shape.head_size),
        ("attention.value_length", shape.head_size),
        ("rope.dimension_count", shape.head_size),
        ("vocab_size", shape.vocabulary),
    ] {
        metadata.set(format!("llama.{key}"), Value::U32(u32::try_from(count)?));
    }
    metadata.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    metadata.set("llama.rope.freq_base", Value::F32(shape.rope_theta));
    let tokenizer = Tokenizer::new(vocabulary::vocabulary(shape.vocabulary))?;
    for (key, value) in tokenizer.to_gguf(shape.vocabulary)? {
        metadata.set(key, value);
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvant::kernels::{Backend, Isa};
    use kvant::model::{Special, Transformer};

    fn tiny(folder: &Path, name: &str, threads: usize) -> PathBuf {
        let path = folder.join(name);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let tensors = pool.install(|| {
            write(by_name("llama-tiny").expect("a shape"), &path, false).map_err(|e| e.to_string())
        });
        assert_eq!(tensors, Ok(20));
        path
    }

    #[test]
    fn made_twice_it_is_the_same_and_runs() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, second) = (tiny(folder.path(), "first.gguf", 1), tiny(folder.path(), "second.gguf", 3));
        let bytes = std::fs::read(&first).expect("the first file");
        assert!(bytes == std::fs::read(&second).expect("the second file"), "the files differ");
        assert!(bytes.len() > 3_000_000 && bytes.len() < 8_000_000, "{} bytes", bytes.len());

        let file = kvant::io::open(&first, &Limits::default()).expect("a file");
        let weights = Weights::new(file).expect("a model");
        let tokenizer =
            Tokenizer::from_meta(weights.checkpoint().meta()).expect("sound").expect("a tokenizer");
        let tokens = tokenizer
            .encode("Hello, 안녕", Special { add: true, parse: true })
            .expect("every text tokenizes");
        assert_eq!(tokenizer.decode(&tokens), "Hello, 안녕");
        let network = Transformer::load(&weights, Backend::new(Isa::best(), 1)).expect("a network");
        let mut sequence = network.sequence(tokens.len());
        let logits = network.next_logits(&mut sequence, &tokens).expect("a forward pass");
        assert_eq!(logits.len(), 2048);
        assert!(logits.iter().all(|x| x.is_finite()));
        assert!(logits.iter().any(|x| x.abs() > 0.1), "logits are all but zero");
    }

    #[test]
    fn faults_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let synth =
            |shape: &str| run(&Synth { shape: shape.into(), output: folder.path().join("m"), force: false });
        assert_eq!(synth("llama-9b"), ["there is no shape \"llama-9b\"; there are llama-1b, llama-tiny"]);
        assert_eq!(synth("llama-tiny"), [""; 0]);
        let again = synth("llama-tiny");
        assert!(again.len() == 1 && again[0].contains("exists"), "{again:?}");
    }
}
