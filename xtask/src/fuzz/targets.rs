//! The targets of fuzzing. Each target uses hostile bytes as a command would. It must not panic, take long, or allocate
//! much more memory than the bytes need. Errors are the expected result.

#[path = "templates.rs"]
mod templates;

use kvant::Model;
use kvant::core::{Shape, format};
use kvant::io::{Limits, Meta, PlannedTensor};
use kvant::kernels::{Backend, Isa};
use kvant::model::{Special, Tokenizer, Weights};
use kvant_serve::{Service, ServiceSettings, Surroundings, parse_request};
use std::path::Path;
use std::sync::OnceLock;

/// A kind of input.
pub struct Target {
    /// The name for `--target`.
    pub name: &'static str,
    /// Files to start from, relative to the project's root.
    pub seeds: &'static [&'static str],
    /// Feeds `bytes` to the reader. If the reader needs a file, writes it into `folder`.
    pub feed: fn(folder: &Path, bytes: &[u8]),
}

/// All kinds of input that can come from strangers.
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
        name: "importance",
        seeds: &[
            "tests/golden/importance/demo.gguf",
            "tests/golden/importance/experts.gguf",
            "tests/golden/importance/experts.dat",
        ],
        feed: importance,
    },
    Target {
        name: "work",
        seeds: &[
            "tests/corpus/work/key",
            "tests/corpus/work/unit",
            "tests/corpus/work/tokens",
            "tests/corpus/work/sums",
        ],
        feed: work,
    },
    Target {
        name: "requests",
        seeds: &[
            "tests/corpus/requests/chat.json",
            "tests/corpus/requests/completion.json",
            "tests/corpus/requests/messages.json",
            "tests/corpus/requests/ollama.json",
            "tests/corpus/requests/response.json",
            "tests/corpus/requests/schema.json",
        ],
        feed: requests,
    },
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

/// Reads an importance file of either format, and computes the means that a quantizer uses as weights.
fn importance(folder: &Path, bytes: &[u8]) {
    let path = folder.join("input");
    if std::fs::write(&path, bytes).is_err() {
        return;
    }
    let Ok(importance) = kvant::quant::Importance::read(&path, &Limits::default()) else { return };
    for (name, entry) in &importance.entries {
        let means = importance.mean_square(name, entry.sums.len() / entry.counts.len(), entry.counts.len());
        let means = means.expect("sums and counts that were checked").expect("an entry of that name");
        assert!(means.iter().all(|x| x.is_finite() && *x >= 0.0), "{name}: a mean that is none");
    }
}

/// Writes one file into a work folder and continues the work there. The first byte selects the file. It also decides if
/// the correct digest is appended to the bytes, because an attacker can compute the digest, too.
fn work(folder: &Path, bytes: &[u8]) {
    const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const FILES: [&str; 4] = ["key", "head.unit", "own-text-0000.tokens", "head-input.sums"];
    let Some((&first, content)) = bytes.split_first() else { return };
    let folder = folder.join("work");
    let name = FILES[usize::from(first % 4)];
    let mut content = content.to_vec();
    if name != "key" && first & 4 == 0 {
        let sealed = [KEY.as_bytes(), b"\0", name.as_bytes(), b"\0", &content].concat();
        content.extend_from_slice(kvant::io::hash(&sealed).as_bytes());
    }
    let _ = std::fs::remove_dir_all(&folder);
    let written = std::fs::create_dir(&folder)
        .and_then(|()| std::fs::write(folder.join("key"), KEY))
        .and_then(|()| std::fs::write(folder.join(name), &content));
    let Ok(shape) = Shape::new(&[2, 32]) else { return };
    let plan = [PlannedTensor { name: "output.weight".into(), shape, format: &format::Q4_0 }];
    if written.is_ok() {
        let names = ["head", "own-text-0000", "head-input"];
        let read = kvant::quant::read_work_folder(&folder, KEY, names, &plan, 4);
        // An error must not delete or change the file.
        assert!(std::fs::read(folder.join(name)).is_ok_and(|found| found == content), "{name}: {read:?}");
    }
}

/// Parses the body of a request on every path of the server that has a parser.
fn requests(folder: &Path, bytes: &[u8]) {
    static SERVICE: OnceLock<Service> = OnceLock::new();
    let service = SERVICE.get_or_init(|| {
        let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
        let demo = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/demo"));
        for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(demo.join(name), folder.join(name)).expect("a file of the demo model");
        }
        std::fs::write(folder.join("chat_template.jinja"), template).expect("a template");
        let model = Model::open(folder).expect("the demo model");
        let settings = ServiceSettings::default();
        Service::load(
            &model,
            Surroundings::alone("demo", Backend::new(Isa::best(), 1)),
            &settings,
            |sampling| sampling,
        )
        .expect("a service")
    });
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/messages",
        "/v1/responses",
        "/api/chat",
        "/api/generate",
    ] {
        let _ = parse_request(service, path, bytes);
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
