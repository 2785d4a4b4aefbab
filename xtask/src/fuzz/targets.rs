//! What is fed with hostile bytes. Each target does with them what a command would, and must neither panic nor take
//! long nor allocate what the bytes don't hold; errors are the expected end.

#[path = "templates.rs"]
mod templates;

use kvant::io::{Limits, Meta};
use kvant::model::{Special, Tokenizer, Weights};
use std::path::Path;

/// A kind of input.
pub struct Target {
    /// What `--target` takes.
    pub name: &'static str,
    /// Files under the project's root to start from.
    pub seeds: &'static [&'static str],
    /// Feeds `bytes`, by way of a file in `folder` where the reader wants one.
    pub feed: fn(folder: &Path, bytes: &[u8]),
}

/// Every kind of input that comes from strangers.
pub static TARGETS: &[Target] = &[
    Target {
        name: "gguf",
        seeds: &[
            "tests/golden/models/plain/model.gguf",
            "tests/golden/models/llama3-f16/model.gguf",
            "tests/golden/models/biases/model.gguf",
        ],
        feed: gguf,
    },
    Target {
        name: "safetensors",
        seeds: &[
            "tests/golden/models/plain/model.safetensors",
            "tests/golden/models/gqa-tied-bf16/model.safetensors",
        ],
        feed: safetensors,
    },
    Target {
        name: "config",
        seeds: &[
            "tests/golden/models/plain/config.json",
            "tests/golden/models/yarn/config.json",
            "tests/golden/models/dynamic/config.json",
        ],
        feed: config,
    },
    Target { name: "tokenizer", seeds: &["assets/demo/tokenizer.json"], feed: tokenizer },
    Target {
        name: "templates",
        seeds: &[
            "tests/golden/templates/alternating.jinja",
            "tests/golden/templates/loops.jinja",
            "tests/golden/templates/macros.jinja",
            "tests/golden/templates/python_strings.jinja",
            "tests/golden/templates/python_values.jinja",
            "tests/golden/templates/sequences.jinja",
            "tests/golden/templates/tools_json.jinja",
            "tests/golden/templates/whitespace.jinja",
        ],
        feed: templates::feed,
    },
];

fn gguf(folder: &Path, bytes: &[u8]) {
    let path = folder.join("input.gguf");
    if std::fs::write(&path, bytes).is_ok() {
        read(&path);
    }
}

fn safetensors(folder: &Path, bytes: &[u8]) {
    let config = br#"{"model_type":"llama","vocab_size":64,"hidden_size":32,"intermediate_size":64,
        "num_hidden_layers":1,"num_attention_heads":2,"rms_norm_eps":1e-5,"max_position_embeddings":64}"#;
    if std::fs::write(folder.join("config.json"), config).is_ok()
        && std::fs::write(folder.join("model.safetensors"), bytes).is_ok()
    {
        read(folder);
    }
}

fn config(folder: &Path, bytes: &[u8]) {
    let weights = include_bytes!("../../../tests/golden/models/plain/model.safetensors");
    if std::fs::write(folder.join("config.json"), bytes).is_ok()
        && std::fs::write(folder.join("model.safetensors"), weights).is_ok()
    {
        read(folder);
    }
}

fn tokenizer(folder: &Path, bytes: &[u8]) {
    if std::fs::write(folder.join("config.json"), "{}").is_err()
        || std::fs::write(folder.join("tokenizer.json"), bytes).is_err()
        || std::fs::write(folder.join("model.safetensors"), b"\x02\0\0\0\0\0\0\0{}").is_err()
    {
        return;
    }
    if let Ok(checkpoint) = kvant::io::open(folder, &Limits::default()) {
        text(checkpoint.meta());
    }
}

/// Opens a model, decodes every tensor, reads its description and its tokenizer.
fn read(path: &Path) {
    let Ok(checkpoint) = kvant::io::open(path, &Limits::default()) else { return };
    for info in checkpoint.tensors() {
        if let Ok(tensor) = checkpoint.tensor(&info.name) {
            tensor.decode();
        }
    }
    text(checkpoint.meta());
    let _ = Weights::new(checkpoint);
}

fn text(meta: &Meta) {
    if let Ok(Some(tokenizer)) = Tokenizer::from_meta(meta) {
        let _ = tokenizer
            .encode("Once upon a time, 옛날 옛적에 <s>\n\n12345", Special { add: true, parse: true });
    }
}
