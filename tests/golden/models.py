"""Tiny random Llama models with the logits that transformers computes from them.

For every variant it writes `models/<name>/`: config.json and model.safetensors as Hugging Face
folders have them (no tokenizer), golden.json (prompt, shape, what the variant is about),
golden_logits.f32 (positions x vocabulary, little-endian, computed in f32 with eager attention
from the stored weights) and, where GGUF can say it, the twin model.gguf with the same values.

The weights are random but not small: attention is peaked and the logits spread with a standard
deviation of one to three, so that a wrong rotation or a missing bias shows at once. Each scaled
variant is checked to differ from its unscaled self, and each twin against llama.cpp.

    pip install torch transformers==5.23.0 safetensors gguf==0.19.0 numpy
    python models.py --llama-bin DIR [--llama-python DIR]
"""

import argparse
import hashlib
import json
import math
import pathlib
import shutil
import tempfile

import gguf
import numpy
import torch
import transformers
from safetensors.torch import save_file

import llama

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "models"
SEED = 20251124

BASE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": True,
}

# `config` overrides BASE; a value of None drops the key, as older files do without it.
VARIANTS = {
    "plain": {
        "about": "Llama 1: multi-head attention, untied head, f32; the oldest spelling, few keys",
        "storage": "f32", "prompt": 24,
        "config": {
            "num_key_value_heads": None, "attention_bias": None, "mlp_bias": None,
            "intermediate_size": 64, "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
            "torch_dtype": "float32",
        },
    },
    "gqa-tied-bf16": {
        "about": "grouped queries, tied head, bf16, theta 100000",
        "storage": "bf16", "prompt": 32,
        "config": {"num_key_value_heads": 1, "rope_theta": 100000.0, "vocab_size": 128, "torch_dtype": "bfloat16"},
    },
    "llama3-f16": {
        "about": "rope_type llama3 in the spelling of transformers 5; explicit head_dim 32 where hidden / heads is 16",
        "storage": "f16", "prompt": 40,
        "config": {
            "head_dim": 32, "max_position_embeddings": 512, "dtype": "float16",
            "num_attention_heads": 4, "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            },
        },
    },
    "linear-old": {
        "about": "linear scaling in the old spelling: rope_theta, rope_scaling with `type`, torch_dtype",
        "storage": "f16", "prompt": 36,
        "config": {
            "rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0},
            "torch_dtype": "float16", "vocab_size": 112,
        },
    },
    "biases": {
        "about": "attention_bias and mlp_bias; untied head",
        "storage": "bf16", "prompt": 28,
        "config": {
            "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False, "dtype": "bfloat16",
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "sharded": {
        "about": "three shards with model.safetensors.index.json; untied head",
        "storage": "bf16", "prompt": 30, "shards": 3,
        "config": {"tie_word_embeddings": False, "torch_dtype": "bfloat16", "rope_theta": 500000.0},
    },
    "odd-widths": {
        "about": "hidden 72, heads of 24, MLP 100, vocabulary 101: no width is a multiple of 32",
        "storage": "f16", "prompt": 33,
        "config": {
            "hidden_size": 72, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 100,
            "vocab_size": 101, "dtype": "float16",
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "yarn": {
        "about": "yarn scaling: ramp between interpolated and kept frequencies, and attention scaled by 0.1 ln(factor) + 1",
        "storage": "bf16", "prompt": 40,
        "config": {
            "head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 2,
            "max_position_embeddings": 512, "dtype": "bfloat16",
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128,
            },
        },
    },
    "dynamic": {
        "about": "dynamic scaling, prompt within max_position_embeddings: equal to no scaling; no twin, GGUF has no word for it",
        "storage": "bf16", "prompt": 26, "twin": False,
        "config": {"dtype": "bfloat16", "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    },
}

TORCH_TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16, "bf16": gguf.LlamaFileType.MOSTLY_BF16,
}


def make_config(overrides):
    config = {**BASE, **overrides}
    return {key: value for key, value in config.items() if value is not None}


def head_size(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def make_weights(config, random):
    """Named tensors in f32, (out, in), in the order in which a checkpoint lists them."""
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries = config["num_attention_heads"] * head_size(config)
    keys = config.get("num_key_value_heads", config["num_attention_heads"]) * head_size(config)

    def normal(shape, deviation):
        return torch.from_numpy((random.standard_normal(shape) * deviation).astype(numpy.float32))

    def norm():
        return torch.from_numpy((1 + 0.25 * random.standard_normal(hidden)).astype(numpy.float32))

    tied = config["tie_word_embeddings"]
    weights = {"model.embed_tokens.weight": normal((vocab, hidden), 2 / math.sqrt(hidden) if tied else 1.0)}
    for layer in range(config["num_hidden_layers"]):
        maps = {
            "self_attn.q_proj": (queries, hidden, 1.3), "self_attn.k_proj": (keys, hidden, 1.3),
            "self_attn.v_proj": (keys, hidden, 1.0), "self_attn.o_proj": (hidden, queries, 1.0),
            "mlp.gate_proj": (inner, hidden, 1.4), "mlp.up_proj": (inner, hidden, 1.0),
            "mlp.down_proj": (hidden, inner, 1.5),
        }
        prefix = f"model.layers.{layer}."
        weights[prefix + "input_layernorm.weight"] = norm()
        for name, (rows, cols, gain) in maps.items():
            weights[f"{prefix}{name}.weight"] = normal((rows, cols), gain / math.sqrt(cols))
            if config.get("mlp_bias" if name.startswith("mlp") else "attention_bias"):
                weights[f"{prefix}{name}.bias"] = normal(rows, 0.4)
        weights[prefix + "post_attention_layernorm.weight"] = norm()
    weights["model.norm.weight"] = norm()
    if not tied:
        weights["lm_head.weight"] = normal((vocab, hidden), 1.7 / math.sqrt(hidden))
    return weights


def write_folder(folder, config, weights, shards):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    total = sum(tensor.nbytes for tensor in weights.values())
    parts, filled = [{} for _ in range(shards)], 0
    for name, tensor in weights.items():
        parts[min(filled * shards // total, shards - 1)][name] = tensor
        filled += tensor.nbytes
    places = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{shards:05}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        places.update({name: file for name in part})
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def forward(folder, prompt, dtype=torch.float32, unscaled=False):
    """All logits of transformers' model, from the files just written."""
    config = transformers.AutoConfig.from_pretrained(folder)
    if unscaled:
        config.rope_parameters = {"rope_type": "default", "rope_theta": config.rope_parameters["rope_theta"]}
    model = transformers.LlamaForCausalLM.from_pretrained(
        folder, config=config, dtype=dtype, attn_implementation="eager",
    ).eval()
    with torch.no_grad():
        logits = model(torch.tensor([prompt]), use_cache=False).logits[0]
    return logits.to(torch.float64).numpy(), config.rope_parameters


# ---- the GGUF twin --------------------------------------------------------------------------

GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        layer, stem = stem.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{GGUF_NAMES[stem]}.{kind}"
    return f"{GGUF_NAMES[stem]}.{kind}"


def interleave_halves(tensor, heads):
    """Rows of each head from (first half, second half), which Hugging Face rotates together, to pairs."""
    size = tensor.shape[0] // heads
    halves = tensor.reshape(heads, 2, size // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape).contiguous()


def llama3_divisors(config, rope):
    """By how much each pair's frequency is divided: `rope_freqs.weight`."""
    size = head_size(config)
    divisors = []
    for pair in range(size // 2):
        turns = rope["original_max_position_embeddings"] * rope["rope_theta"] ** (-2 * pair / size) / (2 * math.pi)
        kept = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
        kept = min(max(kept, 0.0), 1.0)
        divisors.append(1 / ((1 - kept) / rope["factor"] + kept))
    return numpy.array(divisors, dtype=numpy.float32)


def write_twin(path, name, config, weights, rope, storage):
    heads = config["num_attention_heads"]
    key_heads = config.get("num_key_value_heads", heads)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[storage])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head_size(config))
    writer.add_rope_freq_base(rope["rope_theta"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_tokenizer_model("no_vocab")
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(config, rope))
    for key, tensor in weights.items():
        if ".q_proj." in key:
            tensor = interleave_halves(tensor, heads)
        if ".k_proj." in key:
            tensor = interleave_halves(tensor, key_heads)
        if tensor.dim() == 1 or storage == "f32":  # upstream keeps norms and biases in f32
            writer.add_tensor(gguf_name(key), tensor.to(torch.float32).numpy())
        elif storage == "f16":
            writer.add_tensor(gguf_name(key), tensor.numpy())
        else:
            # The writer takes bytes for types that numpy lacks; the shape is then the bytes'.
            writer.add_tensor(
                gguf_name(key), tensor.view(torch.uint8).numpy(), raw_dtype=gguf.GGMLQuantizationType.BF16,
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_logits(path, prompt):
    model = llama.Model(path)
    context = model.context(len(prompt))
    logits = context.forward(prompt)
    context.close()
    model.close()
    return logits.astype(numpy.float64)


def differences(found, expected):
    return {
        "rms": float(f"{numpy.sqrt(((found - expected) ** 2).mean()):.3g}"),
        "max": float(f"{numpy.abs(found - expected).max():.3g}"),
    }


def make_variant(index, name, variant):
    random = numpy.random.default_rng([SEED, index])
    folder = OUT / name
    if folder.exists():
        shutil.rmtree(folder)
    config = make_config(variant["config"])
    storage = variant["storage"]
    weights = {key: tensor.to(TORCH_TYPES[storage]) for key, tensor in make_weights(config, random).items()}
    write_folder(folder, config, weights, variant.get("shards", 1))

    prompt = random.integers(3, config["vocab_size"], variant["prompt"]).tolist()
    logits, rope = forward(folder, prompt)
    wide, _ = forward(folder, prompt, torch.float64)
    unscaled, _ = forward(folder, prompt, unscaled=True)
    logits.astype("<f4").tofile(folder / "golden_logits.f32")
    golden = {
        "about": variant["about"],
        "prompt": prompt,
        "shape": list(logits.shape),
        "sha256": hashlib.sha256((folder / "golden_logits.f32").read_bytes()).hexdigest(),
        "storage": storage,
        "rope": rope,
        "logits_std": round(float(logits.std()), 3),
        "argmax_last": int(logits[-1].argmax()),
        "f32_against_f64": differences(logits, wide),
        "against_unscaled_rope": differences(logits, unscaled),
        "transformers": transformers.__version__,
        "twin": None,
    }
    scaled = rope["rope_type"] not in ("default", "dynamic")
    assert (golden["against_unscaled_rope"]["rms"] > 0.1) == scaled, golden["against_unscaled_rope"]
    assert 1 < golden["logits_std"] < 3.2, golden["logits_std"]

    if variant.get("twin", True):
        write_twin(folder / "model.gguf", name, config, weights, rope, storage)
        # llama.cpp rounds activations to the weights' 16-bit type; a twin in f32 shows the logic alone.
        with tempfile.TemporaryDirectory() as scratch:
            exact = pathlib.Path(scratch) / "exact.gguf"
            write_twin(exact, name, config, weights, rope, "f32")
            found = differences(llama_logits(exact, prompt), logits)
        golden["twin"] = {
            "file": "model.gguf",
            "llama_cpp_on_f32_copy": found,
            "llama_cpp": differences(llama_logits(folder / "model.gguf", prompt), logits),
        }
        assert found["max"] < 1e-3, found
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner alone
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name:14} {size:7} bytes, logits std {golden['logits_std']}, f32 against f64 {golden['f32_against_f64']['max']},"
          f" unscaled {golden['against_unscaled_rope']['rms']}, twin {golden['twin']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    llama.add_flags(parser)
    arguments = parser.parse_args()
    llama.load(arguments)
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for index, (name, variant) in enumerate(VARIANTS.items()):
        make_variant(index, name, variant)


if __name__ == "__main__":
    main()
