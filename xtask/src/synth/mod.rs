//! `cargo xtask synth`: writes a model with the shape of a published model and random weights, to measure speed and
//! memory at full size without a download.
//!
//! The file is the same on every machine. The tensors are created one after the other, so that only one tensor is in
//! memory. The answers of the model have no meaning. Not covered here: other families, a separate output head, and
//! rotary factors (they cost no time).
//!
//! `shapes.rs` has the shapes.

mod numbers;
mod shapes;
mod vocabulary;

use clap::Args;
use kvant::core::{FormatRef, Shape, format};
use kvant::io::{Array, Limits, Metadata, Plan, PlannedTensor, Value};
use kvant::model::{Tokenizer, Weights};
use numbers::Values;
use shapes::{FeedForwardShape, NetworkShape, SHAPES};
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
    let &NetworkShape { hidden, vocabulary, head_size, .. } = shape;
    let (query, key) = (shape.heads * head_size, shape.kv_heads * head_size);
    // Each block adds to the residual stream two times. With this deviation, the deviation of the sum does not grow
    // with the number of blocks.
    let to_residual = DEVIATION / (2.0 * shape.layers as f32).sqrt();
    let plan = |name: String, dimensions: &[usize], format: FormatRef| {
        Ok(PlannedTensor { name, shape: Shape::new(dimensions)?, format })
    };
    let vector = |name: String, length: usize| Ok((plan(name, &[length], &format::F32)?, Values::norm()));
    let maps = |name: String, dimensions: &[usize], deviation: f32| {
        let columns = dimensions[dimensions.len() - 1];
        Ok((plan(format!("{name}.weight"), dimensions, &format::F16)?, Values::map(columns, deviation)))
    };
    let mut tensors = vec![maps("token_embd".into(), &[vocabulary, hidden], DEVIATION)?];
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let norm = |part: &str, length: usize| vector(name(&format!("{part}.weight")), length);
        let map = |part: &str, rows, columns| maps(name(part), &[rows, columns], DEVIATION);
        tensors.push(norm("attn_norm", hidden)?);
        match shape.delta_net.filter(|net| !(layer + 1).is_multiple_of(net.attention_each)) {
            None => {
                let gates = if shape.delta_net.is_some() { query } else { 0 };
                tensors.extend([
                    map("attn_q", query + gates, hidden)?,
                    map("attn_k", key, hidden)?,
                    map("attn_v", key, hidden)?,
                    maps(name("attn_output"), &[hidden, query], to_residual)?,
                ]);
                if shape.head_norms {
                    tensors.extend([norm("attn_q_norm", head_size)?, norm("attn_k_norm", head_size)?]);
                }
            }
            Some(net) => {
                let (keys, values) = (net.key_heads * net.head_size, net.value_heads * net.head_size);
                let convolution = [2 * keys + values, net.kernel];
                let convolution = plan(name("ssm_conv1d.weight"), &convolution, &format::F32)?;
                tensors.extend([
                    map("attn_qkv", 2 * keys + values, hidden)?,
                    map("attn_gate", values, hidden)?,
                    map("ssm_beta", net.value_heads, hidden)?,
                    map("ssm_alpha", net.value_heads, hidden)?,
                    (convolution, Values::around(0.0, 0.5)),
                    // A negative factor, so that the state decays.
                    (plan(name("ssm_a"), &[net.value_heads], &format::F32)?, Values::around(-1.0, 0.1)),
                    vector(name("ssm_dt.bias"), net.value_heads)?,
                    norm("ssm_norm", net.head_size)?,
                    maps(name("ssm_out"), &[hidden, values], to_residual)?,
                ]);
            }
        }
        let before = if shape.delta_net.is_some() { "post_attention_norm" } else { "ffn_norm" };
        tensors.push(norm(before, hidden)?);
        match shape.feed_forward {
            FeedForwardShape::Dense(length) => tensors.extend([
                map("ffn_gate", length, hidden)?,
                map("ffn_up", length, hidden)?,
                maps(name("ffn_down"), &[hidden, length], to_residual)?,
            ]),
            FeedForwardShape::Experts { count, length, .. } => tensors.extend([
                (
                    plan(name("ffn_gate_inp.weight"), &[count, hidden], &format::F32)?,
                    Values::map(hidden, 0.1),
                ),
                maps(name("ffn_gate_exps"), &[count, length, hidden], DEVIATION)?,
                maps(name("ffn_up_exps"), &[count, length, hidden], DEVIATION)?,
                maps(name("ffn_down_exps"), &[count, hidden, length], to_residual)?,
            ]),
        }
    }
    tensors.push(vector("output_norm.weight".into(), hidden)?);
    Ok(tensors)
}

/// Returns the metadata, with the keys of llama.cpp (`gguf-py/gguf/constants.py`).
fn metadata(shape: &NetworkShape) -> Result<Metadata, Box<dyn Error>> {
    let mut metadata = Metadata::default();
    let text = |text: &str| Value::String(text.to_owned());
    metadata.set("general.architecture", text(shape.family));
    metadata.set("general.type", text("model"));
    metadata.set("general.name", text(&format!("{} (synthetic)", shape.name)));
    metadata.set("general.description", text("random weights, made by kvant's `cargo xtask synth`"));
    metadata.set("general.file_type", Value::U32(1));
    let mut counts = vec![
        ("block_count", shape.layers),
        ("context_length", shape.context),
        ("embedding_length", shape.hidden),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("attention.key_length", shape.head_size),
        ("attention.value_length", shape.head_size),
        ("rope.dimension_count", shape.rotated),
        ("vocab_size", shape.vocabulary),
    ];
    match shape.feed_forward {
        FeedForwardShape::Dense(length) => counts.push(("feed_forward_length", length)),
        FeedForwardShape::Experts { count, used, length } => counts.extend([
            ("expert_count", count),
            ("expert_used_count", used),
            ("expert_feed_forward_length", length),
        ]),
    }
    if let Some(net) = shape.delta_net {
        counts.extend([
            ("ssm.conv_kernel", net.kernel),
            ("ssm.state_size", net.head_size),
            ("ssm.group_count", net.key_heads),
            ("ssm.time_step_rank", net.value_heads),
            ("ssm.inner_size", net.value_heads * net.head_size),
            ("full_attention_interval", net.attention_each),
        ]);
        let pairs = shape.rotated / 2;
        let sections = [pairs.div_ceil(3), (pairs + 1) / 3, pairs / 3, 0].map(|pairs| pairs as i32).to_vec();
        metadata.set(format!("{}.rope.dimension_sections", shape.family), Value::Array(Array::I32(sections)));
    }
    for (key, count) in counts {
        metadata.set(format!("{}.{key}", shape.family), Value::U32(u32::try_from(count)?));
    }
    let epsilon = Value::F32(1e-5);
    metadata.set(format!("{}.attention.layer_norm_rms_epsilon", shape.family), epsilon);
    metadata.set(format!("{}.rope.freq_base", shape.family), Value::F32(shape.rope_theta));
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

    fn tiny(shape: &str, tensors: usize, path: PathBuf, threads: usize) -> PathBuf {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let written =
            pool.install(|| write(by_name(shape).expect("a shape"), &path, false).map_err(|e| e.to_string()));
        assert_eq!(written, Ok(tensors));
        path
    }

    #[test]
    fn made_twice_it_is_the_same_and_runs() {
        let folder = tempfile::tempdir().expect("a folder");
        for (shape, tensors, limits) in [
            ("llama-tiny", 20, [3_000_000, 8_000_000]),
            ("qwen3moe-tiny", 26, [3_000_000, 8_000_000]),
            ("qwen35-tiny", 27, [3_000_000, 8_000_000]),
        ] {
            let path = |threads| folder.path().join(format!("{shape}-{threads}.gguf"));
            same_and_runs([1, 3].map(|threads| tiny(shape, tensors, path(threads), threads)), limits);
        }
    }

    fn same_and_runs([first, second]: [PathBuf; 2], [least, most]: [usize; 2]) {
        let bytes = std::fs::read(&first).expect("the first file");
        assert!(bytes == std::fs::read(&second).expect("the second file"), "the files differ");
        assert!(bytes.len() > least && bytes.len() < most, "{} bytes", bytes.len());

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
        let known: Vec<_> = SHAPES.iter().map(|shape| shape.name).collect();
        let known = known.join(", ");
        let synth =
            |shape: &str| run(&Synth { shape: shape.into(), output: folder.path().join("m"), force: false });
        assert_eq!(synth("llama-9b"), [format!("there is no shape \"llama-9b\"; there are {known}")]);
        assert_eq!(synth("llama-tiny"), [""; 0]);
        let again = synth("llama-tiny");
        assert!(again.len() == 1 && again[0].contains("exists"), "{again:?}");
    }
}
