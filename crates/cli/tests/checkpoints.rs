//! Model folders and files with one peculiarity each. The program reads it correctly or names it in an error, but never
//! ignores it.

mod tiny;

use serde_json::{Value as Json, json};
use std::path::Path;
use tiny::{Tiny, WIDTH, bf16, fault, json_of, kvant, safetensors};

const DOWN: &str = "model.layers.0.mlp.down_proj.weight";
const BIAS: &str = "model.layers.0.self_attn.q_proj.bias";

/// Returns the largest logits after three tokens.
fn logits(folder: &Path, model: &str) -> Json {
    json_of(folder, &["logits", model, "--tokens", "1,2,3"])["top"].clone()
}

fn values(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)).collect()
}

/// Rounds `x` to E4M3. Returns the rounded value and its byte.
fn e4m3(x: f32) -> (f32, u8) {
    let exponent = x.abs().log2().floor().clamp(-6.0, 8.0);
    let step = 2f32.powf(exponent - 3.0);
    let level = (x.abs() / step).round();
    let (value, sign) = (level * step, if x < 0.0 { 0x80 } else { 0 });
    let bits = if level < 8.0 { level as u8 } else { ((exponent as i32 + 7) as u8) << 3 | (level as u8 & 7) };
    // Rounding up can reach the next power of two, whose mantissa is zero.
    let bits = if level == 16.0 { ((exponent as i32 + 8) as u8) << 3 } else { bits };
    (if x < 0.0 { -value } else { value }, bits | sign)
}

#[test]
fn a_bias_counts_whatever_its_type() {
    let folder = tempfile::tempdir().unwrap();
    let numbers: Vec<f32> = (0..WIDTH as i32).map(|i| (i % 61 - 30) as f32 / 16.0).collect();
    let write = |name: &str, data_type: &'static str, bytes: Vec<u8>| {
        let mut tiny = Tiny::new();
        tiny.tensors.push((BIAS.into(), data_type, vec![WIDTH], bytes));
        tiny.write(&folder.path().join(name));
        logits(folder.path(), name)
    };
    Tiny::new().write(&folder.path().join("none"));
    let expected = write("bf16", "BF16", numbers.iter().flat_map(|&x| bf16(x)).collect());
    assert_ne!(logits(folder.path(), "none"), expected, "the bias changes nothing: the test says nothing");
    let found = write("f64", "F64", numbers.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect());
    assert_eq!(found, expected);
    let eight: Vec<(f32, u8)> = numbers.iter().map(|&x| e4m3(x)).collect();
    let expected = write("rounded", "BF16", eight.iter().flat_map(|&(x, _)| bf16(x)).collect());
    assert_eq!(write("f8", "F8_E4M3", eight.iter().map(|&(_, b)| b).collect()), expected);
    let whole: Vec<f32> = numbers.iter().map(|x| x.round()).collect();
    let expected = write("whole", "BF16", whole.iter().flat_map(|&x| bf16(x)).collect());
    assert_eq!(write("i8", "I8", whole.iter().map(|&x| x as i8 as u8).collect()), expected);

    // An unsupported type is named in an error if the tensor is needed. `inspect` lists it.
    let mut tiny = Tiny::new();
    tiny.tensors.push((BIAS.into(), "I64", vec![WIDTH], vec![0; 8 * WIDTH]));
    tiny.write(&folder.path().join("i64"));
    fault(folder.path(), &["logits", "i64", "--tokens", "1"], &[BIAS, "I64"]);
    let listed = json_of(folder.path(), &["inspect", "i64"])["tensors"].clone();
    let found = listed.as_array().unwrap().iter().find(|t| t["name"] == BIAS).unwrap();
    assert_eq!((&found["format"], &found["bytes"]), (&json!("I64"), &json!(8 * WIDTH)));
}

#[test]
fn nothing_is_left_over_unseen() {
    let folder = tempfile::tempdir().unwrap();
    for data_type in ["F64", "I64", "BOOL", "F8_E4M3"] {
        let bytes = if data_type.ends_with("64") { 8 } else { 1 };
        let mut tiny = Tiny::new();
        tiny.tensors.push(("model.layers.0.mystery".into(), data_type, vec![1], vec![0; bytes]));
        tiny.write(&folder.path().join("model"));
        fault(folder.path(), &["convert", "model", "-o", "out.gguf"], &["model.layers.0.mystery"]);
    }
}

#[test]
fn eight_bit_weights_are_multiplied_by_their_scales() {
    let folder = tempfile::tempdir().unwrap();
    let (mut eight, mut plain) = (Tiny::new(), Tiny::new());
    let weights = values(&plain.tensor(DOWN).3);
    let scale = |row: usize, column: usize| 0.25 * (1 + row / 128 * 2 + column / 128) as f32;
    let (mut bits, mut expected) = (Vec::new(), Vec::new());
    for (i, w) in weights.iter().enumerate() {
        let (value, byte) = e4m3(*w);
        bits.push(byte);
        expected.extend((value * scale(i / WIDTH, i % WIDTH)).to_le_bytes());
    }
    *eight.tensor(DOWN) = (DOWN.into(), "F8_E4M3", vec![WIDTH, WIDTH], bits);
    let scales = [0.25f32, 0.5, 0.75, 1.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    eight.tensors.push((format!("{DOWN}_scale_inv"), "F32", vec![2, 2], scales));
    let section = json!({ "quant_method": "fp8", "weight_block_size": [128, 128] });
    eight.config.insert("quantization_config".into(), section);
    *plain.tensor(DOWN) = (DOWN.into(), "F32", vec![WIDTH, WIDTH], expected);
    eight.write(&folder.path().join("eight"));
    plain.write(&folder.path().join("plain"));
    assert_eq!(logits(folder.path(), "eight"), logits(folder.path(), "plain"));
    json_of(folder.path(), &["convert", "eight", "-o", "eight.gguf"]);
    assert_eq!(logits(folder.path(), "eight.gguf"), logits(folder.path(), "plain"));

    let count = eight.tensors.len();
    eight.tensors[count - 1] = (format!("{DOWN}_scale_inv"), "F32", vec![3], vec![0; 12]);
    eight.write(&folder.path().join("wrong"));
    fault(folder.path(), &["logits", "wrong", "--tokens", "1"], &[DOWN, "_scale_inv"]);
    eight.config.insert("quantization_config".into(), json!({ "quant_method": "awq" }));
    eight.write(&folder.path().join("awq"));
    fault(folder.path(), &["logits", "awq", "--tokens", "1"], &["quant_method", "awq"]);
}

#[test]
fn numbers_that_would_change_are_not_converted() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    let numbers = (0..WIDTH).flat_map(|i| (i as f64 / 4.0 + if i == 7 { 1e-9 } else { 0.0 }).to_le_bytes());
    tiny.tensors.push((BIAS.into(), "F64", vec![WIDTH], numbers.collect()));
    tiny.write(&folder.path().join("model"));
    fault(folder.path(), &["convert", "model", "-o", "out.gguf"], &[BIAS, "element 7"]);
    json_of(folder.path(), &["quantize", "model", "-o", "out.gguf", "--format", "f32"]);
    assert_eq!(logits(folder.path(), "out.gguf"), logits(folder.path(), "model"));
}

#[test]
fn a_head_beside_tied_embeddings_counts_where_it_differs() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.write(&folder.path().join("tied"));
    let (_, data_type, shape, bytes) = tiny.tensor("model.embed_tokens.weight").clone();
    tiny.tensors.push(("lm_head.weight".into(), data_type, shape, bytes));
    tiny.write(&folder.path().join("copy"));
    let other: Vec<u8> = values(&tiny.tensor("lm_head.weight").3).iter().flat_map(|x| bf16(-x)).collect();
    tiny.tensor("lm_head.weight").3 = other;
    tiny.write(&folder.path().join("other"));
    let has_head = |name: &str| {
        let output = format!("{name}.gguf");
        json_of(folder.path(), &["convert", name, "-o", &output]);
        let found = json_of(folder.path(), &["inspect", &output]);
        assert_eq!(logits(folder.path(), name), logits(folder.path(), &output));
        found["tensors"].as_array().unwrap().iter().any(|t| t["name"] == "output.weight")
    };
    assert_eq!(["tied", "copy", "other"].map(has_head), [false, false, true]);
    assert_eq!(logits(folder.path(), "tied"), logits(folder.path(), "copy"));
    assert_ne!(logits(folder.path(), "tied"), logits(folder.path(), "other"));
}

#[test]
fn dimensions_of_one_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.write(&folder.path().join("plain"));
    tiny.tensor(DOWN).2.push(1);
    tiny.tensor("model.norm.weight").2.insert(0, 1);
    tiny.tensor("model.layers.0.input_layernorm.weight").2.push(1);
    tiny.tensor("model.layers.0.self_attn.q_proj.weight").2.push(1);
    tiny.write(&folder.path().join("ones"));
    assert_eq!(logits(folder.path(), "plain"), logits(folder.path(), "ones"));
    json_of(folder.path(), &["convert", "ones", "-o", "ones.gguf"]);
    assert_eq!(logits(folder.path(), "plain"), logits(folder.path(), "ones.gguf"));
}

/// Returns the offset of a tensor's info in a GGUF file, after the name of the tensor.
fn info(file: &[u8], name: &str) -> usize {
    let name = [&(name.len() as u64).to_le_bytes()[..], name.as_bytes()].concat();
    file.windows(name.len()).rposition(|w| w == name).expect("a tensor of that name") + name.len()
}

#[test]
fn one_strange_tensor_leaves_the_rest_of_a_gguf_readable() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("model"));
    json_of(folder.path(), &["convert", "model", "-o", "good.gguf"]);
    let good = std::fs::read(folder.path().join("good.gguf")).unwrap();
    // q8_k stores 256 values in 292 bytes. No format has the type number 99.
    for (type_id, named) in [(15u32, "q8_k"), (26, "i32"), (99, "number 99")] {
        let mut bad = good.clone();
        let at = info(&bad, "blk.0.ffn_down.weight") + 4 + 2 * 8;
        bad[at..at + 4].copy_from_slice(&type_id.to_le_bytes());
        // A value has four bytes instead of the two bytes of bf16, so the tensor gets half the rows to fit into its
        // space.
        if type_id == 26 {
            bad[at - 8..at].copy_from_slice(&128u64.to_le_bytes());
        }
        std::fs::write(folder.path().join("bad.gguf"), bad).unwrap();
        let listed = json_of(folder.path(), &["inspect", "bad.gguf"]);
        let found = listed["tensors"].as_array().unwrap().iter().find(|t| t["format"] == named);
        assert_eq!(found.expect("it is listed")["name"], "blk.0.ffn_down.weight");
        assert_eq!(json_of(folder.path(), &["tokenize", "bad.gguf", "--", "hello"])["ids"], json!([259]));
        let words: &[&str] = if type_id == 26 { &["ffn_down"] } else { &["ffn_down", named] };
        fault(folder.path(), &["logits", "bad.gguf", "--tokens", "1"], words);
    }
    // In GGUF, a dimension that is not stored counts as one. Four more dimensions make the header longer by one
    // alignment.
    Tiny::with(2, &["<|endoftext|>", "<|im_start|>", "<|im_end|>"]).write(&folder.path().join("two"));
    json_of(folder.path(), &["convert", "two", "-o", "two.gguf"]);
    let mut ones = std::fs::read(folder.path().join("two.gguf")).unwrap();
    for norm in ["blk.0.attn_norm", "blk.0.ffn_norm", "blk.1.attn_norm", "blk.1.ffn_norm"] {
        let at = info(&ones, &format!("{norm}.weight"));
        ones[at..at + 4].copy_from_slice(&2u32.to_le_bytes());
        ones.splice(at + 12..at + 12, 1u64.to_le_bytes());
    }
    std::fs::write(folder.path().join("ones.gguf"), &ones).unwrap();
    assert_eq!(logits(folder.path(), "ones.gguf"), logits(folder.path(), "two.gguf"));
    let mut zero = good;
    zero[4..8].copy_from_slice(&0u32.to_le_bytes());
    std::fs::write(folder.path().join("zero.gguf"), zero).unwrap();
    let error = fault(folder.path(), &["inspect", "zero.gguf"], &["version 0"]);
    assert!(!error.contains("big endian: convert"), "{error}");
}

#[test]
fn files_of_another_kind_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let convert = ["convert", "model", "-o", "out.gguf", "--force"];
    let fresh = || Tiny::new().write(&model);
    fresh();
    std::fs::write(model.join("model.safetensors.index.json"), r#"{"weight_map":{}}"#).unwrap();
    fault(folder.path(), &convert, &["index.json", "weight_map"]);
    std::fs::remove_file(model.join("model.safetensors.index.json")).unwrap();

    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        fresh();
        std::fs::write(model.join(name), pointer).unwrap();
        fault(folder.path(), &convert, &[name, "Git LFS"]);
    }
    std::fs::write(folder.path().join("model.gguf"), pointer).unwrap();
    fault(folder.path(), &["inspect", "model.gguf"], &["model.gguf", "Git LFS"]);

    fresh();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        let text = std::fs::read_to_string(model.join(name)).unwrap();
        std::fs::write(model.join(name), format!("\u{feff}{text}")).unwrap();
    }
    json_of(folder.path(), &convert);

    let mut tiny = Tiny::new();
    tiny.config.insert("somebody_elses".into(), json!("HERE"));
    tiny.write(&model);
    let text = std::fs::read_to_string(model.join("config.json")).unwrap();
    for number in ["Infinity", "-Infinity", "NaN"] {
        std::fs::write(model.join("config.json"), text.replace("\"HERE\"", number)).unwrap();
        json_of(folder.path(), &convert);
        std::fs::write(model.join("config.json"), text.replace("0.00001", number).replace("1e-5", number))
            .unwrap();
        fault(folder.path(), &convert, &["rms_norm_eps", number]);
    }
}

#[cfg(unix)]
#[test]
fn files_beside_a_model_are_absent_or_readable() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    std::fs::write(folder.path().join("secret"), "TOPSECRET").unwrap();
    let convert = ["convert", "model", "-o", "out.gguf", "--force"];
    let names = [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "tokenizer.model",
        "vocab.json",
        "config.json",
    ];
    for name in names {
        for (target, word) in
            [("../nowhere", "nowhere"), ("../secret", "link"), ("/dev/zero", "link"), (".", "")]
        {
            let _ = std::fs::remove_dir_all(&model);
            Tiny::new().write(&model);
            let _ = std::fs::remove_file(model.join(name));
            symlink(target, model.join(name)).unwrap();
            let word = if word == "nowhere" { "" } else { word };
            fault(folder.path(), &convert, &[name, word]);
        }
        let _ = std::fs::remove_dir_all(&model);
        Tiny::new().write(&model);
        let _ = std::fs::remove_file(model.join(name));
        std::fs::create_dir(model.join(name)).unwrap();
        fault(folder.path(), &convert, &[name]);
    }
    assert!(!folder.path().join("out.gguf").exists());
    // A model without any tokenizer is allowed.
    let _ = std::fs::remove_dir_all(&model);
    Tiny::new().write(&model);
    std::fs::remove_file(model.join("tokenizer.json")).unwrap();
    std::fs::remove_file(model.join("tokenizer_config.json")).unwrap();
    json_of(folder.path(), &convert);
    let found = json_of(folder.path(), &["inspect", "out.gguf"]);
    assert_eq!(found["metadata"]["tokenizer.ggml.model"], "no_vocab");
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_cut_short_while_it_is_mapped_ends_with_a_message() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("cut"));
    let mut chat = Command::new(env!("CARGO_BIN_EXE_kvant"))
        .args(["chat", "cut", "-n", "2", "--activations", "f32"])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The file is mapped when the kernel lists the mapping.
    let maps = format!("/proc/{}/maps", chat.id());
    let mapped = || std::fs::read_to_string(&maps).is_ok_and(|m| m.contains("model.safetensors"));
    let begin = std::time::Instant::now();
    while !mapped() && begin.elapsed().as_secs() < 30 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::fs::File::options()
        .write(true)
        .open(folder.path().join("cut/model.safetensors"))
        .unwrap()
        .set_len(4096)
        .unwrap();
    let _ = chat.stdin.take().unwrap().write_all(b"hi\n");
    let ended = chat.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{error}");
    assert!(error.contains("model.safetensors") && error.contains("cut short"), "{error}");
}

#[test]
fn a_header_of_a_million_dimensions_is_a_short_error() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("model"));
    let header =
        format!(r#"{{"a":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(1 << 20));
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
    std::fs::write(folder.path().join("model/model.safetensors"), bytes).unwrap();
    let error = fault(folder.path(), &["inspect", "model"], &["dimensions"]);
    assert!(error.len() < 1024, "{} bytes", error.len());
    // The reader accepts files of the fixture's own writer.
    std::fs::write(folder.path().join("model/model.safetensors"), safetensors(&Tiny::new().tensors)).unwrap();
    assert!(kvant(folder.path(), &["inspect", "model"], "").status.success());
}

/// The formats that kvant only reads, with their type numbers in GGUF and the values and bytes of a block.
const READ_ONLY: [(&str, u32, usize, usize); 14] = [
    ("q2_k", 10, 256, 84),
    ("q3_k", 11, 256, 110),
    ("iq2_xxs", 16, 256, 66),
    ("iq2_xs", 17, 256, 74),
    ("iq3_xxs", 18, 256, 98),
    ("iq1_s", 19, 256, 50),
    ("iq3_s", 21, 256, 110),
    ("iq2_s", 22, 256, 82),
    ("iq1_m", 29, 256, 56),
    ("tq1_0", 34, 256, 54),
    ("tq2_0", 35, 256, 66),
    ("nvfp4", 40, 64, 36),
    ("q1_0", 41, 128, 18),
    ("q2_0", 42, 64, 18),
];

/// Returns the words of a command that quantizes `read.gguf`, with more options.
fn quantize<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let command = ["quantize", "read.gguf", "-o", "out.gguf", "--force", "--method", "rtn"];
    command.into_iter().chain(more.iter().copied()).collect()
}

#[test]
fn formats_that_are_only_read_run_and_are_quantized_again() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("model"));
    json_of(folder.path(), &["convert", "model", "-o", "good.gguf"]);
    let good = std::fs::read(folder.path().join("good.gguf")).unwrap();
    let name = "blk.0.ffn_down.weight";
    let info_at = info(&good, name);
    let stored = u64::from_le_bytes(good[info_at + 4 + 2 * 8 + 4..][..8].try_into().unwrap()) as usize;
    let listed = json_of(folder.path(), &["inspect", "good.gguf"]);
    let all: usize =
        listed["tensors"].as_array().unwrap().iter().map(|t| t["bytes"].as_u64().unwrap() as usize).sum();
    let start = good.len() - all + stored;
    for (format, type_id, elements, block_bytes) in READ_ONLY {
        let mut file = good.clone();
        let at = info_at + 4 + 2 * 8;
        file[at..at + 4].copy_from_slice(&type_id.to_le_bytes());
        let bytes = WIDTH * WIDTH / elements * block_bytes;
        for (i, byte) in file[start..start + bytes].iter_mut().enumerate() {
            // Any two such bytes are a small `f16`.
            *byte = (i * 7919 % 251) as u8 & 0x8f | 0x10;
        }
        std::fs::write(folder.path().join("read.gguf"), file).unwrap();
        let listed = json_of(folder.path(), &["inspect", "read.gguf"]);
        let tensor =
            listed["tensors"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap().clone();
        assert_eq!((&tensor["format"], tensor["bytes"].as_u64()), (&json!(format), Some(bytes as u64)));

        let found = logits(folder.path(), "read.gguf");
        json_of(folder.path(), &quantize(&["--format", "f32", "--allow-requantize"]));
        let expected = logits(folder.path(), "out.gguf");
        let top = |found: &Json| -> Vec<(Json, f64)> {
            let list = found.as_array().unwrap().iter();
            list.map(|t| (t["id"].clone(), t["logit"].as_f64().unwrap())).collect()
        };
        for ((id, found), (expected_id, expected)) in top(&found).into_iter().zip(top(&expected)) {
            assert_eq!(id, expected_id, "{format}");
            assert!(
                (found - expected).abs() < 1e-3 * expected.abs().max(1.0),
                "{format}: {found} {expected}"
            );
        }
        assert_ne!(found, logits(folder.path(), "good.gguf"), "{format}: the tensor changes nothing");

        fault(folder.path(), &quantize(&["--format", "q8_0"]), &[name, format, "--allow-requantize"]);
        json_of(folder.path(), &quantize(&["--format", "q4_0", "--allow-requantize"]));
        let set = format!("ffn_up={format}");
        for more in [["--format", format], ["--set", set.as_str()]] {
            let refused = kvant(folder.path(), &quantize(&more), "");
            let error = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(!refused.status.success() && error.contains("read only"), "{more:?}: {error}");
        }
        json_of(folder.path(), &["convert", "read.gguf", "-o", "copy.gguf", "--force"]);
        assert_eq!(logits(folder.path(), "copy.gguf"), found, "{format}");
    }
    // A budget is best spent if the tensor keeps its format, because a copy loses nothing.
    json_of(folder.path(), &quantize(&["--bpw", "8", "--allow-requantize"]));
    let listed = json_of(folder.path(), &["inspect", "out.gguf"]);
    let kept = listed["tensors"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap();
    assert_eq!(kept["format"], READ_ONLY[READ_ONLY.len() - 1].0);
}
