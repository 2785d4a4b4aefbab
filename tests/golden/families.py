"""Tiny random models of families beside Llama, with transformers' logits and the GGUF of llama.cpp's own converter.

For every variant it writes `models/<name>/` as `models.py` does: config.json, model.safetensors, golden.json,
golden_logits.f32 and model.gguf. The converter runs without a vocabulary; everything else is its own work. Its file in
f32 is checked against llama.cpp.

    pip install torch transformers==5.23.0 safetensors gguf==0.19.0 numpy
    python families.py --llama-bin DIR --llama-python PACKAGE
"""

import argparse
import hashlib
import importlib
import json
import logging
import pathlib
import shutil
import sys
import tempfile

import numpy
import torch
import transformers
from safetensors.torch import save_file

import llama

# `models.py`, once the path leads to the gguf package that the converter comes with.
models = None

HERE = pathlib.Path(__file__).resolve().parent

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "vocab_size": 96, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "attention_bias": False,
    "tie_word_embeddings": True, "rope_theta": 1000000.0, "use_sliding_window": False, "sliding_window": None,
    "max_window_layers": 2, "bos_token_id": 1, "eos_token_id": 2,
}
GPT2 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new", "n_embd": 64, "n_layer": 2,
    "n_head": 4, "n_positions": 256, "n_ctx": 256, "n_inner": None, "vocab_size": 96, "layer_norm_epsilon": 1e-5,
    "bos_token_id": 1, "eos_token_id": 2,
}

VARIANTS = {
    "qwen3-tied-bf16": {
        "about": "Qwen3: norms of heads, heads of 32 in a width of 64, grouped queries, tied head",
        "storage": "bf16", "prompt": 40, "config": {**QWEN3, "dtype": "bfloat16"},
    },
    "qwen3-untied-f32": {
        "about": "Qwen3: untied head, one head of keys and values, old spelling of the type",
        "storage": "f32", "prompt": 33,
        "config": {**QWEN3, "tie_word_embeddings": False, "num_key_value_heads": 1, "torch_dtype": "float32"},
    },
    "gpt2-f16": {
        "about": "GPT-2: layer norms, learned positions, fused and transposed maps, names without a prefix",
        "storage": "f16", "prompt": 48, "config": {**GPT2, "torch_dtype": "float16"}, "prefix": "",
    },
    "gpt2-prefix-f32": {
        "about": "GPT-2: names with a prefix, three heads of 24, masks that older versions saved",
        "storage": "f32", "prompt": 30, "prefix": "transformer.", "masks": True,
        "config": {**GPT2, "n_positions": 200, "n_ctx": 200, "n_embd": 72, "n_head": 3, "vocab_size": 101, "torch_dtype": "float32"},
    },
}


def qwen3_weights(config, normal, norm):
    hidden, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    tied = config["tie_word_embeddings"]
    weights = {"model.embed_tokens.weight": normal((config["vocab_size"], hidden), 2 / hidden ** 0.5 if tied else 1.0)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        weights[prefix + "input_layernorm.weight"] = norm(hidden)
        for name, rows, columns, gain in [
            ("self_attn.q_proj", queries, hidden, 1.3), ("self_attn.k_proj", keys, hidden, 1.3),
            ("self_attn.v_proj", keys, hidden, 1.0), ("self_attn.o_proj", hidden, queries, 1.0),
            ("mlp.gate_proj", inner, hidden, 1.4), ("mlp.up_proj", inner, hidden, 1.0), ("mlp.down_proj", hidden, inner, 1.5),
        ]:
            weights[f"{prefix}{name}.weight"] = normal((rows, columns), gain / columns ** 0.5)
        weights[prefix + "self_attn.q_norm.weight"] = 1.5 * norm(size)
        weights[prefix + "self_attn.k_norm.weight"] = norm(size)
        weights[prefix + "post_attention_layernorm.weight"] = norm(hidden)
    weights["model.norm.weight"] = norm(hidden)
    if not tied:
        weights["lm_head.weight"] = normal((config["vocab_size"], hidden), 1.7 / hidden ** 0.5)
    return weights


def gpt2_weights(config, normal, norm, prefix):
    hidden, context = config["n_embd"], config["n_positions"]
    weights = {
        f"{prefix}wte.weight": normal((config["vocab_size"], hidden), 2 / hidden ** 0.5),
        f"{prefix}wpe.weight": normal((context, hidden), 0.2),
    }
    for layer in range(config["n_layer"]):
        block = f"{prefix}h.{layer}."
        for name in ["ln_1", "ln_2"]:
            weights[f"{block}{name}.weight"] = norm(hidden)
            weights[f"{block}{name}.bias"] = normal((hidden,), 0.2)
        for name, rows, columns, gain in [
            ("attn.c_attn", 3 * hidden, hidden, 1.3), ("attn.c_proj", hidden, hidden, 1.0),
            ("mlp.c_fc", 4 * hidden, hidden, 1.4), ("mlp.c_proj", hidden, 4 * hidden, 1.5),
        ]:
            weights[f"{block}{name}.weight"] = normal((columns, rows), gain / columns ** 0.5)
            weights[f"{block}{name}.bias"] = normal((rows,), 0.3)
    weights[f"{prefix}ln_f.weight"] = norm(hidden)
    weights[f"{prefix}ln_f.bias"] = normal((hidden,), 0.2)
    return weights


def forward(folder, prompt, dtype=torch.float32):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor([prompt]), use_cache=False).logits[0].to(torch.float64).numpy()


def convert(folder, out, storage):
    """llama.cpp's converter, without a vocabulary."""
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
    import gguf

    hparams = ModelBase.load_hparams(folder, False)
    kind = get_model_class(get_model_architecture(hparams, ModelType.TEXT))

    def set_no_vocabulary(self):
        self._set_vocab_none()
        self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])

    kind.set_vocab = set_no_vocabulary
    file_type = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16"}[storage]
    with torch.inference_mode():
        kind(folder, getattr(gguf.LlamaFileType, file_type), out).write()


def make_variant(index, name, variant):
    random = numpy.random.default_rng([models.SEED, 100 + index])
    folder = models.OUT / name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    config, storage = variant["config"], variant["storage"]

    def normal(shape, deviation):
        return torch.from_numpy((random.standard_normal(shape) * deviation).astype(numpy.float32))

    def norm(length):
        return torch.from_numpy((1 + 0.25 * random.standard_normal(length)).astype(numpy.float32))

    if config["model_type"] == "qwen3":
        weights = qwen3_weights(config, normal, norm)
    else:
        weights = gpt2_weights(config, normal, norm, variant["prefix"])
    weights = {key: tensor.to(models.TORCH_TYPES[storage]).contiguous() for key, tensor in weights.items()}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    context = config.get("max_position_embeddings", config.get("n_positions"))
    assert variant["prompt"] <= context
    prompt = random.integers(3, config["vocab_size"], variant["prompt"]).tolist()
    logits, wide = forward(folder, prompt), forward(folder, prompt, torch.float64)
    logits.astype("<f4").tofile(folder / "golden_logits.f32")
    convert(folder, folder / "model.gguf", storage)
    with tempfile.TemporaryDirectory() as scratch:
        exact = pathlib.Path(scratch) / "exact.gguf"
        convert(folder, exact, "f32")
        found = models.differences(models.llama_logits(exact, prompt), logits)
    if variant.get("masks"):
        # The converter says that it leaves these out, but stops at them.
        for layer in range(config["n_layer"]):
            block = f"{variant['prefix']}h.{layer}.attn."
            weights[block + "bias"] = torch.tril(torch.ones(context, context)).reshape(1, 1, context, context)
            weights[block + "masked_bias"] = torch.tensor(-1e4)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    golden = {
        "about": variant["about"],
        "prompt": prompt,
        "shape": list(logits.shape),
        "sha256": hashlib.sha256((folder / "golden_logits.f32").read_bytes()).hexdigest(),
        "storage": storage,
        "logits_std": round(float(logits.std()), 3),
        "argmax_last": int(logits[-1].argmax()),
        "f32_against_f64": models.differences(logits, wide),
        "transformers": transformers.__version__,
        "twin": {
            "file": "model.gguf",
            "llama_cpp_on_f32_copy": found,
            "llama_cpp": models.differences(models.llama_logits(folder / "model.gguf", prompt), logits),
        },
    }
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner alone
    print(f"{name:18} logits std {golden['logits_std']}, f32 against f64 {golden['f32_against_f64']['max']}, twin {golden['twin']}")
    assert 1 < golden["logits_std"] < 3.5, golden["logits_std"]
    # llama.cpp reads GELU from a table of 16-bit floats.
    assert found["max"] < (1e-2 if config["model_type"] == "gpt2" else 1e-3), found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    llama.add_flags(parser)
    arguments = parser.parse_args()
    llama.load(arguments)
    source = arguments.llama_python.resolve() / "vendor" / "llama.cpp"
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    global models
    models = importlib.import_module("models")
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for index, (name, variant) in enumerate(VARIANTS.items()):
        make_variant(index, name, variant)


if __name__ == "__main__":
    main()
