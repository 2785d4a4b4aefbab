//! Creates tiny model folders for tests of single faults, and runs the program on them.
//!
//! A model has one block, the width 256, and a byte-level vocabulary of 256 bytes, eight merges and three control
//! tokens. Its family is Llama or another one.
#![allow(dead_code)] // Each test file uses its own part.

use serde_json::{Map, Value as Json, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A template that writes every message between `<|im_start|>` and `<|im_end|>`.
pub const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Number of columns and of rows of every square matrix.
pub const WIDTH: usize = 256;

/// The contents of a model folder. Tests can change them before they are written.
pub struct Tiny {
    pub config: Map<String, Json>,
    pub tokenizer: Json,
    pub tokenizer_config: Map<String, Json>,
    /// Name, data type, shape and bytes of each tensor.
    pub tensors: Vec<(String, &'static str, Vec<usize>, Vec<u8>)>,
}

impl Tiny {
    /// Creates a model with `blocks` blocks and a tokenizer with these control tokens.
    pub fn with(blocks: usize, specials: &[&str]) -> Self {
        let tokenizer = tokenizer(specials);
        let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap().len() + specials.len();
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
            "intermediate_size": WIDTH, "num_hidden_layers": blocks, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": vocabulary, "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true,
            "torch_dtype": "bfloat16",
        });
        let tokenizer_config = json!({ "eos_token": "<|im_end|>", "chat_template": CHATML });
        let mut random = Random(7);
        let mut matrix = |name: String, rows: usize| {
            let bytes = (0..rows * WIDTH).flat_map(|_| bf16(0.05 * random.normal())).collect();
            (name, "BF16", vec![rows, WIDTH], bytes)
        };
        let norm = |name: String| (name, "BF16", vec![WIDTH], bf16(1.0).repeat(WIDTH));
        let mut tensors = vec![matrix("model.embed_tokens.weight".into(), vocabulary)];
        for block in 0..blocks {
            let name = |part: &str| format!("model.layers.{block}.{part}.weight");
            tensors.push(norm(name("input_layernorm")));
            tensors.push(norm(name("post_attention_layernorm")));
            for (part, rows) in [
                ("self_attn.q_proj", WIDTH),
                ("self_attn.k_proj", WIDTH / 2),
                ("self_attn.v_proj", WIDTH / 2),
                ("self_attn.o_proj", WIDTH),
                ("mlp.gate_proj", WIDTH),
                ("mlp.up_proj", WIDTH),
                ("mlp.down_proj", WIDTH),
            ] {
                tensors.push(matrix(name(part), rows));
            }
        }
        tensors.push(norm("model.norm.weight".into()));
        let object = |value: Json| value.as_object().unwrap().clone();
        Self { config: object(config), tokenizer, tokenizer_config: object(tokenizer_config), tensors }
    }

    /// Creates a model with two blocks in the format of Qwen3: heads of size 64 with norms.
    pub fn qwen3() -> Self {
        let mut tiny = Self::with(2, &["<|endoftext|>", "<|im_start|>", "<|im_end|>"]);
        tiny.config.insert("model_type".into(), json!("qwen3"));
        tiny.config.insert("architectures".into(), json!(["Qwen3ForCausalLM"]));
        tiny.config.insert("head_dim".into(), json!(WIDTH / 4));
        for (block, name) in (0..2).flat_map(|block| ["q_norm", "k_norm"].map(|name| (block, name))) {
            let name = format!("model.layers.{block}.self_attn.{name}.weight");
            tiny.tensors.push((name, "BF16", vec![WIDTH / 4], bf16(1.5).repeat(WIDTH / 4)));
        }
        tiny
    }

    /// Creates a model with two blocks in the format of Qwen3-MoE, with four experts, of which a token uses two.
    pub fn qwen3_moe() -> Self {
        let mut tiny = Self::qwen3();
        for (key, value) in [
            ("model_type", json!("qwen3_moe")),
            ("architectures", json!(["Qwen3MoeForCausalLM"])),
            ("num_experts", json!(4)),
            ("num_experts_per_tok", json!(2)),
            ("moe_intermediate_size", json!(WIDTH)),
            ("norm_topk_prob", json!(true)),
        ] {
            tiny.config.insert(key.into(), value);
        }
        tiny.tensors.retain(|(name, ..)| !name.contains(".mlp."));
        let mut random = Random(13);
        let mut numbers = |name: String, shape: Vec<usize>, deviation: f32| {
            let count = shape.iter().product();
            let bytes = (0..count).flat_map(|_| bf16(deviation * random.normal())).collect();
            (name, "BF16", shape, bytes)
        };
        for block in 0..2 {
            let name = |part: &str| format!("model.layers.{block}.mlp.{part}.weight");
            tiny.tensors.push(numbers(name("gate"), vec![4, WIDTH], 0.2));
            for (expert, map) in
                (0..4).flat_map(|e| ["gate_proj", "up_proj", "down_proj"].map(|map| (e, map)))
            {
                tiny.tensors.push(numbers(
                    name(&format!("experts.{expert}.{map}")),
                    vec![WIDTH, WIDTH],
                    0.05,
                ));
            }
        }
        tiny
    }

    /// Creates a model with two blocks in the format of Qwen3.5: a gated delta net with two value heads for each key head,
    /// and an attention with a gate.
    pub fn qwen35() -> Self {
        let mut tiny = Self::qwen3();
        for (key, value) in [
            ("model_type", json!("qwen3_5_text")),
            ("architectures", json!(["Qwen3_5ForCausalLM"])),
            ("layer_types", json!(["linear_attention", "full_attention"])),
            ("linear_num_key_heads", json!(2)),
            ("linear_num_value_heads", json!(4)),
            ("linear_key_head_dim", json!(WIDTH / 4)),
            ("linear_value_head_dim", json!(WIDTH / 4)),
            ("linear_conv_kernel_dim", json!(4)),
        ] {
            tiny.config.insert(key.into(), value);
        }
        let changed = |name: &str| name.contains("layers.0.self_attn") || name.ends_with("q_proj.weight");
        tiny.tensors.retain(|(name, ..)| !changed(name));
        let mut random = Random(17);
        let mut numbers = |name: &str, shape: Vec<usize>, mean: f32, deviation: f32| {
            let count = shape.iter().product();
            let bytes = (0..count).flat_map(|_| bf16(mean + deviation * random.normal())).collect();
            (format!("model.layers.{name}"), "BF16", shape, bytes)
        };
        tiny.tensors.extend([
            numbers("0.linear_attn.in_proj_qkv.weight", vec![2 * WIDTH, WIDTH], 0.0, 0.05),
            numbers("0.linear_attn.in_proj_z.weight", vec![WIDTH, WIDTH], 0.0, 0.05),
            numbers("0.linear_attn.in_proj_b.weight", vec![4, WIDTH], 0.0, 0.05),
            numbers("0.linear_attn.in_proj_a.weight", vec![4, WIDTH], 0.0, 0.05),
            numbers("0.linear_attn.conv1d.weight", vec![2 * WIDTH, 1, 4], 0.0, 0.5),
            numbers("0.linear_attn.A_log", vec![4], 0.0, 1.0),
            numbers("0.linear_attn.dt_bias", vec![4], 0.0, 1.0),
            numbers("0.linear_attn.norm.weight", vec![WIDTH / 4], 1.0, 0.1),
            numbers("0.linear_attn.out_proj.weight", vec![WIDTH, WIDTH], 0.0, 0.05),
            numbers("1.self_attn.q_proj.weight", vec![2 * WIDTH, WIDTH], 0.0, 0.05),
        ]);
        tiny
    }

    /// Creates a model with two blocks in the format of gpt-oss: four experts with biases, of which a token uses two, in
    /// stacked and transposed tensors, and sinks.
    pub fn gpt_oss() -> Self {
        let mut tiny = Self::with(2, &["<|endoftext|>", "<|im_start|>", "<|im_end|>"]);
        for (key, value) in [
            ("model_type", json!("gpt_oss")),
            ("architectures", json!(["GptOssForCausalLM"])),
            ("head_dim", json!(WIDTH / 4)),
            ("num_local_experts", json!(4)),
            ("num_experts_per_tok", json!(2)),
            ("sliding_window", json!(20)),
            ("rope_scaling", json!({ "rope_type": "default" })),
        ] {
            tiny.config.insert(key.into(), value);
        }
        tiny.tensors.retain(|(name, ..)| !name.contains(".mlp."));
        let mut random = Random(17);
        let mut numbers = |name: String, shape: &[usize], deviation: f32| {
            let count = shape.iter().product();
            let bytes = (0..count).flat_map(|_| bf16(deviation * random.normal())).collect();
            (name, "BF16", shape.to_vec(), bytes)
        };
        for (block, (part, shape, deviation)) in (0..2).flat_map(|block| {
            let parts: [(&str, &[usize], f32); 11] = [
                ("self_attn.q_proj.bias", &[WIDTH], 0.1),
                ("self_attn.k_proj.bias", &[WIDTH / 2], 0.1),
                ("self_attn.v_proj.bias", &[WIDTH / 2], 0.1),
                ("self_attn.o_proj.bias", &[WIDTH], 0.1),
                ("self_attn.sinks", &[4], 1.0),
                ("mlp.router.weight", &[4, WIDTH], 0.2),
                ("mlp.router.bias", &[4], 0.5),
                ("mlp.experts.gate_up_proj", &[4, WIDTH, 2 * WIDTH], 0.1),
                ("mlp.experts.gate_up_proj_bias", &[4, 2 * WIDTH], 0.3),
                ("mlp.experts.down_proj", &[4, WIDTH, WIDTH], 0.1),
                ("mlp.experts.down_proj_bias", &[4, WIDTH], 0.1),
            ];
            parts.map(|part| (block, part))
        }) {
            tiny.tensors.push(numbers(format!("model.layers.{block}.{part}"), shape, deviation));
        }
        tiny
    }

    /// Creates a model with four blocks in the format of Gemma 4: windows in every second block, values that are the keys
    /// in the others, layer embeddings, four small experts beside each dense network. The last two blocks share keys and
    /// values.
    pub fn gemma4() -> Self {
        let mut tiny = Self::with(4, &["<|endoftext|>", "<|im_start|>", "<|im_end|>"]);
        let vocabulary = tiny.config["vocab_size"].as_u64().unwrap() as usize;
        let (blocks, width, experts) = (4, WIDTH / 4, 4);
        for (key, value) in [
            ("model_type", json!("gemma4_text")),
            ("architectures", json!(["Gemma4ForCausalLM"])),
            ("hidden_activation", json!("gelu_pytorch_tanh")),
            ("head_dim", json!(WIDTH / 4)),
            ("global_head_dim", json!(WIDTH / 2)),
            ("num_global_key_value_heads", json!(1)),
            ("attention_k_eq_v", json!(true)),
            ("num_kv_shared_layers", json!(2)),
            ("hidden_size_per_layer_input", json!(width)),
            ("final_logit_softcapping", json!(30.0)),
            ("sliding_window", json!(16)),
            ("enable_moe_block", json!(true)),
            ("num_experts", json!(experts)),
            ("top_k_experts", json!(2)),
            ("moe_intermediate_size", json!(width)),
            ("layer_types", json!(["sliding_attention", "full_attention"].repeat(2))),
            (
                "rope_parameters",
                json!({
                    "full_attention":
                        { "rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6 },
                    "sliding_attention": { "rope_type": "default", "rope_theta": 1e4 },
                }),
            ),
        ] {
            tiny.config.insert(key.into(), value);
        }
        let mut random = Random(17);
        let mut numbers = |name: String, shape: Vec<usize>| {
            let count = shape.iter().product();
            let bytes = (0..count).flat_map(|_| bf16(0.05 * random.normal())).collect();
            (name, "BF16", shape, bytes)
        };
        let constant = |name: String, length: usize, value: f32| {
            (name, "BF16", vec![length], bf16(value).repeat(length))
        };
        tiny.tensors.retain(|(name, ..)| !name.contains("self_attn."));
        for block in 0..blocks {
            let name = |part: &str| format!("model.layers.{block}.{part}.weight");
            let (full, shares) = (block % 2 == 1, block >= 2);
            let head = if full { WIDTH / 2 } else { WIDTH / 4 };
            let keys = if full { head } else { 2 * head };
            tiny.tensors.push(numbers(name("self_attn.q_proj"), vec![4 * head, WIDTH]));
            tiny.tensors.push(numbers(name("self_attn.o_proj"), vec![WIDTH, 4 * head]));
            tiny.tensors.push(constant(name("self_attn.q_norm"), head, 0.5));
            if !shares {
                tiny.tensors.push(numbers(name("self_attn.k_proj"), vec![keys, WIDTH]));
                tiny.tensors.push(constant(name("self_attn.k_norm"), head, 0.5));
            }
            if !shares && !full {
                tiny.tensors.push(numbers(name("self_attn.v_proj"), vec![keys, WIDTH]));
            }
            tiny.tensors.push(numbers(name("per_layer_input_gate"), vec![width, WIDTH]));
            tiny.tensors.push(numbers(name("per_layer_projection"), vec![WIDTH, width]));
            let bare = |part: &str| format!("model.layers.{block}.{part}");
            tiny.tensors.push(numbers(name("router.proj"), vec![experts, WIDTH]));
            tiny.tensors.push(constant(bare("router.scale"), WIDTH, 16.0));
            tiny.tensors.push(constant(bare("router.per_expert_scale"), experts, 0.75));
            tiny.tensors.push(numbers(bare("experts.gate_up_proj"), vec![experts, 2 * width, WIDTH]));
            tiny.tensors.push(numbers(bare("experts.down_proj"), vec![experts, WIDTH, width]));
            for norm in [
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
                "pre_feedforward_layernorm_2",
                "post_feedforward_layernorm_1",
                "post_feedforward_layernorm_2",
                "post_per_layer_input_norm",
            ] {
                tiny.tensors.push(constant(name(norm), WIDTH, 0.5));
            }
            tiny.tensors.push(constant(format!("model.layers.{block}.layer_scalar"), 1, 0.75));
        }
        let name = |part: &str| format!("model.{part}.weight");
        tiny.tensors.push(numbers(name("embed_tokens_per_layer"), vec![vocabulary, blocks * width]));
        tiny.tensors.push(numbers(name("per_layer_model_projection"), vec![blocks * width, WIDTH]));
        tiny.tensors.push(constant(name("per_layer_projection_norm"), width, 1.0));
        tiny
    }

    /// Creates a model with two blocks in the format of GPT-2: learned positions, layer norms, linear layers (maps)
    /// stored as `in × out`.
    pub fn gpt2() -> Self {
        let llama = Self::with(2, &["<|endoftext|>", "<|im_start|>", "<|im_end|>"]);
        let vocabulary = llama.config["vocab_size"].clone();
        let config = json!({
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": WIDTH, "n_layer": 2, "n_head": 4,
            "n_positions": 512, "n_inner": WIDTH, "vocab_size": vocabulary, "activation_function": "gelu_new",
        });
        let mut random = Random(11);
        let mut numbers = |name: String, shape: Vec<usize>, deviation: f32| {
            let count = shape.iter().product();
            let bytes = (0..count).flat_map(|_| bf16(deviation * random.normal())).collect();
            (name, "BF16", shape, bytes)
        };
        let rows = vocabulary.as_u64().unwrap() as usize;
        let mut tensors = vec![
            numbers("transformer.wte.weight".into(), vec![rows, WIDTH], 0.05),
            numbers("transformer.wpe.weight".into(), vec![512, WIDTH], 0.02),
        ];
        let norms = |name: String| {
            let one = (format!("{name}.weight"), "BF16", vec![WIDTH], bf16(1.0).repeat(WIDTH));
            [one, (format!("{name}.bias"), "BF16", vec![WIDTH], bf16(0.125).repeat(WIDTH))]
        };
        for block in 0..2 {
            let name = |part: &str| format!("transformer.h.{block}.{part}");
            tensors.extend(norms(name("ln_1")).into_iter().chain(norms(name("ln_2"))));
            for (part, rows) in [
                ("attn.c_attn", 3 * WIDTH),
                ("attn.c_proj", WIDTH),
                ("mlp.c_fc", WIDTH),
                ("mlp.c_proj", WIDTH),
            ] {
                tensors.push(numbers(name(part) + ".weight", vec![WIDTH, rows], 0.05));
                tensors.push(numbers(name(part) + ".bias", vec![rows], 0.1));
            }
        }
        tensors.extend(norms("transformer.ln_f".into()));
        Self { config: config.as_object().unwrap().clone(), tensors, ..llama }
    }

    /// Creates a model with one block and the control tokens `<|endoftext|>` (263), `<|im_start|>` (264) and
    /// `<|im_end|>` (265).
    pub fn new() -> Self {
        Self::with(1, &["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    }

    /// Returns the tensor with this name, so that a test can change it.
    pub fn tensor(&mut self, name: &str) -> &mut (String, &'static str, Vec<usize>, Vec<u8>) {
        self.tensors.iter_mut().find(|t| t.0 == name).expect("a tensor of that name")
    }

    /// Writes the folder. Replaces files that exist.
    pub fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        let put = |name: &str, json: &dyn Fn() -> String| std::fs::write(folder.join(name), json()).unwrap();
        put("config.json", &|| Json::Object(self.config.clone()).to_string());
        put("tokenizer.json", &|| self.tokenizer.to_string());
        put("tokenizer_config.json", &|| Json::Object(self.tokenizer_config.clone()).to_string());
        std::fs::write(folder.join("model.safetensors"), safetensors(&self.tensors)).unwrap();
    }
}

/// Returns the bytes of a safetensors file.
pub fn safetensors(tensors: &[(String, &'static str, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, data_type, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        header.insert(
            name.clone(),
            json!({ "dtype": data_type, "shape": shape, "data_offsets": [start, data.len()] }),
        );
    }
    let mut header = Json::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

fn tokenizer(specials: &[&str]) -> Json {
    // GPT-2 spells each byte as a printable character.
    let printable = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    let mut letters: Vec<String> = (0..256)
        .map(|b| {
            let code = if printable(b) { b } else { next };
            next += u32::from(!printable(b));
            char::from_u32(code).unwrap().to_string()
        })
        .collect();
    letters.sort();
    let merges = [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"], ["Ġ", "w"], ["o", "r"], ["Ġw", "or"]];
    letters.extend(merges.iter().map(|pair| pair.concat()));
    let vocabulary: Map<String, Json> =
        letters.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let first = vocabulary.len();
    let added: Vec<Json> = specials
        .iter()
        .enumerate()
        .map(|(i, content)| {
            json!({ "id": first + i, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true })
        })
        .collect();
    json!({
        "version": "1.0", "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocabulary, "merges": merges },
    })
}

/// Returns the upper two bytes of an f32 value, in little-endian order.
pub fn bf16(x: f32) -> [u8; 2] {
    ((x.to_bits() >> 16) as u16).to_le_bytes()
}

/// The random generator SplitMix64. Sums of its values have a nearly normal distribution.
struct Random(u64);

impl Random {
    fn normal(&mut self) -> f32 {
        let mut uniform = || {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
        };
        (0..12).map(|_| uniform()).sum::<f32>() - 6.0
    }
}

/// Runs the program in `folder` with this text on stdin.
pub fn kvant(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kvant"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // Ignore the error: a program that does not read all of stdin closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().expect("the program ends")
}

/// Runs a command that must succeed. Returns the JSON object that it prints.
pub fn json_of(folder: &Path, arguments: &[&str]) -> Json {
    let output = kvant(folder, &[&["--json"], arguments].concat(), "");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

/// Runs a command that must fail with status 1. Its error must contain each of `words`. Returns the error.
pub fn fault(folder: &Path, arguments: &[&str], words: &[&str]) -> String {
    let output = kvant(folder, arguments, "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
    for word in words {
        assert!(error.contains(word), "{arguments:?}: no {word:?} in: {error}");
    }
    error
}
