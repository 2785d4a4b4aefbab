//! Runs every family through the whole program: folder, GGUF file, every method, answers.
//! `crates/model/tests/golden.rs` compares the logits with `transformers`.

mod tiny;

use serde_json::json;
use tiny::{Tiny, fault, json_of, kvant};

fn families() -> [(&'static str, Tiny); 6] {
    [
        ("qwen3", Tiny::qwen3()),
        ("gpt2", Tiny::gpt2()),
        ("qwen3moe", Tiny::qwen3_moe()),
        ("qwen35", Tiny::qwen35()),
        ("gpt-oss", Tiny::gpt_oss()),
        ("gemma4", Tiny::gemma4()),
    ]
}

/// Every family of `tests/golden/models` is converted without a change of a logit, and its maps are rounded.
#[test]
fn every_golden_model_is_converted_and_rounded() {
    let folder = tempfile::tempdir().unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/models");
    let (mut converted, mut with_notes) = (0, 0);
    for model in std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|p| p.is_dir()) {
        let path = model.to_str().unwrap();
        let report = json_of(folder.path(), &["convert", path, "-o", "same.gguf", "--force"]);
        // llama.cpp ignores the windows of most families, and a setting of YaRN.
        let ignored = ["-window-", "phi3-short-f16", "-yarn-"].iter().any(|part| path.contains(part));
        assert_eq!(report["warnings"].to_string().contains("llama.cpp ignores"), ignored, "{path}");
        with_notes += usize::from(ignored);
        // One model has a block that predicts further tokens.
        let left_out = report["warnings"].to_string().contains("predict further tokens");
        assert_eq!(left_out, path.ends_with("glm4moe-f32"), "{path}");
        let logits = |model: &str| {
            json_of(folder.path(), &["logits", model, "--activations", "f32", "--tokens", "1,2,3,40,50,60,7"])
                ["top"]
                .clone()
        };
        assert_eq!(logits("same.gguf"), logits(path), "{path}");
        let quantize =
            ["quantize", path, "-o", "less.gguf", "--force", "--format", "q8_0", "--method", "rtn"];
        // Experts that are in MXFP4 stay in it.
        let kept: &[&str] = if path.ends_with("mxfp4") { &["--set", "_exps=mxfp4"] } else { &[] };
        json_of(folder.path(), &[&quantize, kept].concat());
        logits("less.gguf");
        converted += 1;
    }
    assert!(converted >= 47 && with_notes >= 5, "golden models are missing");
}

/// `transformers` 5 saves the number of experts under another name than the published settings.
#[test]
fn both_names_of_the_number_of_experts_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::qwen3_moe();
    tiny.write(&folder.path().join("published"));
    let count = tiny.config.remove("num_experts").expect("a number");
    tiny.config.insert("num_local_experts".into(), count);
    tiny.write(&folder.path().join("saved"));
    let [published, saved] = ["published", "saved"]
        .map(|model| json_of(folder.path(), &["logits", model, "--tokens", "1,2,3"])["top"].clone());
    assert_eq!(published, saved);
}

#[test]
fn a_converted_file_gives_the_folders_logits() {
    let folder = tempfile::tempdir().unwrap();
    for (name, tiny) in families() {
        tiny.write(&folder.path().join(name));
        let file = format!("{name}.gguf");
        json_of(folder.path(), &["convert", name, "-o", &file]);
        let logits = |model: &str| {
            let logits = json_of(folder.path(), &["logits", model, "--tokens", "1,2,3,40,50"]);
            logits["top"].clone()
        };
        assert_eq!(logits(&file), logits(name), "{name}");
        let answer = kvant(folder.path(), &["run", &file, "-n", "8", "-p", "hello"], "");
        assert!(answer.status.success(), "{name}: {}", String::from_utf8_lossy(&answer.stderr));
    }
}

#[test]
fn every_method_solves_it_and_auto_loses_less_than_rounding() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("text"), "hello world, he would tell the world. ".repeat(200)).unwrap();
    for (name, tiny) in families() {
        tiny.write(&folder.path().join(name));
        let mut losses = Vec::new();
        for method in ["rtn", "imatrix", "gptq", "auto"] {
            let file = format!("{name}-{method}.gguf");
            let few: &[&str] = match method {
                "rtn" => &[],
                "imatrix" => &["--calib-tokens", "4096"],
                _ => &["--calib-tokens", "4096", "--own-tokens", "1024"],
            };
            let quantize = ["quantize", name, "-o", &file, "--format", "q4_k_m", "--method", method];
            let quantize = [&quantize[..], few].concat();
            let report = json_of(folder.path(), &quantize);
            assert_eq!(report["method"], json!(method), "{name}");
            let eval = ["eval", &file, "--reference", name, "--text", "text", "--ctx", "64", "--chunks", "8"];
            let found = json_of(folder.path(), &eval);
            losses.push(found["kld_mean"].as_f64().expect("a divergence"));
        }
        assert!(losses[3] < 0.8 * losses[0], "{name}: {losses:?}");
    }
}

/// A folder of Gemma 4 with encoders of images gives the logits of its text part.
#[test]
fn the_text_part_of_gemma4_is_read_from_a_folder_with_encoders() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::gemma4();
    let logits = |tiny: &Tiny| {
        tiny.write(&folder.path().join("model"));
        json_of(folder.path(), &["logits", "model", "--tokens", "1,2,3"])["top"].clone()
    };
    let alone = logits(&tiny);
    let text = serde_json::Value::Object(std::mem::take(&mut tiny.config));
    for (key, value) in [("model_type", json!("gemma4")), ("text_config", text), ("vision_config", json!({}))]
    {
        tiny.config.insert(key.into(), value);
    }
    for (name, ..) in &mut tiny.tensors {
        *name = name.replacen("model.", "model.language_model.", 1);
    }
    // Published checkpoints have keys of blocks that share those of others.
    for name in ["model.vision_tower.patch.weight", "model.language_model.layers.3.self_attn.k_proj.weight"] {
        tiny.tensors.push((name.into(), "BF16", vec![1], vec![0, 0]));
    }
    assert_eq!(logits(&tiny), alone);
    let report = json_of(folder.path(), &["convert", "model", "-o", "model.gguf"]);
    assert!(report["warnings"].to_string().contains("the encoder of images is left out"));
}

/// An output head that differs from the embedding is used, whatever the settings say. A copy of the embedding changes
/// nothing.
#[test]
fn a_head_that_differs_from_the_embedding_counts() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::gpt2();
    let logits = |tiny: &Tiny| {
        tiny.write(&folder.path().join("model"));
        json_of(folder.path(), &["logits", "model", "--tokens", "1,2,3"])["top"].clone()
    };
    let without = logits(&tiny);
    let mut head = tiny.tensor("transformer.wte.weight").clone();
    head.0 = "lm_head.weight".into();
    tiny.tensors.push(head);
    assert_eq!(logits(&tiny), without);
    tiny.tensor("lm_head.weight").3.reverse();
    assert_ne!(logits(&tiny), without);
}

/// A position after the trained context has no row in the table of learned positions, so the program returns an error.
#[test]
fn learned_positions_end_with_the_context() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::gpt2().write(&folder.path().join("gpt2"));
    let tokens = vec!["1"; 513].join(",");
    fault(folder.path(), &["logits", "gpt2", "--tokens", &tokens], &["512"]);
    json_of(folder.path(), &["logits", "gpt2", "--tokens", &tokens[2..]]);
}

/// If a family is not supported, the error has its name and the part of the network that is missing.
#[test]
fn an_unsupported_family_is_refused_with_the_missing_part() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::qwen3();
    tiny.write(&folder.path().join("model"));
    json_of(folder.path(), &["convert", "model", "-o", "model.gguf"]);
    for (model_type, family, missing) in [
        ("llama4", "Llama 4", "chunks"),
        ("deepseek_v3", "DeepSeek", "compressed keys"),
        ("nemotron_h", "Nemotron-H", "Mamba"),
    ] {
        tiny.config.insert("model_type".into(), json!(model_type));
        tiny.write(&folder.path().join("model"));
        fault(folder.path(), &["logits", "model", "--tokens", "1"], &[model_type, family, missing]);
    }
    // Another name of the same length.
    let mut bytes = std::fs::read(folder.path().join("model.gguf")).unwrap();
    let at = bytes.windows(5).position(|part| part == b"qwen3").unwrap();
    bytes[at..at + 5].copy_from_slice(b"bloom");
    std::fs::write(folder.path().join("model.gguf"), bytes).unwrap();
    fault(folder.path(), &["logits", "model.gguf", "--tokens", "1"], &["bloom", "BLOOM", "ALiBi"]);
}

/// If a family does not support a setting, the error names this setting.
#[test]
fn settings_that_are_not_computed_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, key, value) in [
        ("gpt2", "activation_function", json!("relu")),
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true)),
        ("gpt2", "scale_attn_weights", json!(false)),
        ("gpt2", "n_head", json!(3)),
        ("gpt2", "n_layer", json!(1 << 27)),
        ("qwen3", "layer_types", json!(["chunked_attention", "full_attention"])),
        ("qwen3moe", "norm_topk_prob", json!(false)),
        ("qwen3moe", "num_experts_per_tok", json!(5)),
        ("qwen3moe", "num_experts", json!(1 << 27)),
        ("gpt-oss", "swiglu_limit", json!(6.0)),
        ("gpt-oss", "num_local_experts", json!(1 << 27)),
        ("gpt-oss", "rope_scaling", json!(null)),
        ("gpt-oss", "rope_scaling", json!({ "rope_type": "yarn", "factor": 2.0 })),
        ("qwen3", "head_dim", json!(1 << 27)),
        ("qwen3", "hidden_act", json!("gelu")),
        ("gemma4", "num_kv_shared_layers", json!(3)),
        ("gemma4", "top_k_experts", json!(5)),
        ("gemma4", "use_bidirectional_attention", json!("all")),
        (
            "gemma4",
            "rope_parameters",
            json!({ "full_attention": { "rope_type": "default", "partial_rotary_factor": 0.5 } }),
        ),
    ] {
        let mut tiny = families().into_iter().find(|(family, _)| *family == name).expect("a family").1;
        tiny.config.insert(key.into(), value);
        tiny.write(&folder.path().join("model"));
        let general = ["n_", "num_", "head_", "rope_", "top_"].iter().any(|start| key.starts_with(start));
        let word = if general { "expected" } else { key };
        fault(folder.path(), &["logits", "model", "--tokens", "1"], &[word]);
    }
}
