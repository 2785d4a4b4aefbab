"""Tiny random models that give vectors of texts, with transformers' hidden states and the GGUF of llama.cpp's own converter.

For every variant it writes `encoders/<name>/`: config.json, model.safetensors, modules.json with the folders of its modules,
golden.json (the prompt, and the vector by plain torch), golden_states.f32 (the last hidden states) and model.gguf. The
weights and the conversion are those of `families.py`.

    pip install torch transformers==5.23.0 safetensors gguf==0.19.0 numpy
    python encoders.py --llama-bin DIR --llama-python PACKAGE
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
from safetensors.torch import load_file, save_file

import families
import llama

# `models.py`, once the path leads to the gguf package that the converter comes with.
models = None

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "encoders"

BERT = {
    "model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu", "hidden_size": 36, "intermediate_size": 52,
    "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96, "max_position_embeddings": 64, "layer_norm_eps": 1e-12,
    "type_vocab_size": 2, "pad_token_id": 0, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}
SMALL = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 96, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}

# `pooling` is a value of `pooling_mode`; None for a folder without modules. `dense` lists the output lengths of linear maps
# after the pooling. `older` gives the vectors of norms TensorFlow's names. `tokenizer` is a file of `tokens_folder/`, and
# `longest` the number of tokens after which texts are cut.
TEXTS = ["the quick brown fox jumps over it", "Two words", "", "what do models give for a longer text, which is cut after some tokens?", "the"]

VARIANTS = {
    "bert-mean-f32": {
        "about": "BERT: heads of 9, mean pooling", "storage": "f32", "prompt": 40, "pooling": "mean", "config": BERT,
    },
    "bert-prefix-f16": {
        "about": "BERT: names with a prefix, TensorFlow's names of norms, heads of the training, first token", "storage": "f16",
        "prompt": 33, "pooling": "cls", "prefix": "bert.", "older": True, "normalize": False,
        "config": {**BERT, "num_attention_heads": 3, "torch_dtype": "float16"},
    },
    "bert-plain-f32": {
        "about": "BERT: no modules, one token type", "storage": "f32", "prompt": 1, "pooling": None,
        "config": {**BERT, "type_vocab_size": 1, "num_hidden_layers": 1},
    },
    "bert-words-f16": {
        "about": "BERT: a WordPiece tokenizer; vectors of texts", "storage": "f16", "prompt": 20, "pooling": "mean", "twin": False,
        "tokenizer": "pieces.json", "longest": 24,
        "config": {**BERT, "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "torch_dtype": "float16"},
    },
    "xlm-roberta-f32": {
        "about": "XLM-RoBERTa: positions with an offset, first token", "storage": "f32", "prompt": 64, "pooling": "cls",
        "config": {**BERT, "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "type_vocab_size": 1,
                   "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": 66},
    },
    "qwen3-embedding-bf16": {
        "about": "Qwen3 as an encoder: causal, last token, no head", "storage": "bf16", "prompt": 40, "pooling": "lasttoken",
        "config": {**SMALL, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_act": "silu", "head_dim": 16,
                   "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": True, "use_sliding_window": False,
                   "dtype": "bfloat16"},
    },
    "embeddinggemma-f32": {
        "about": "EmbeddingGemma: attention in both directions, windows, two linear maps after the pooling", "storage": "f32",
        "prompt": 50, "pooling": "mean", "norms": 0, "dense": [80, 48],
        "config": {**SMALL, "model_type": "gemma3_text", "architectures": ["Gemma3TextModel"], "head_dim": 16, "rms_norm_eps": 1e-6,
                   "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 16, "sliding_window": 14, "num_hidden_layers": 6,
                   "sliding_window_pattern": 6, "rope_local_base_freq": 10000.0, "rope_theta": 1000000.0, "intermediate_size": 32,
                   "use_bidirectional_attention": True},
    },
    "modernbert-f32": {
        "about": "ModernBERT: fused maps, two of three blocks with a window, norms without a bias", "storage": "f32", "prompt": 60,
        "pooling": "mean",
        "config": {"model_type": "modernbert", "architectures": ["ModernBertModel"], "hidden_size": 48, "intermediate_size": 40,
                   "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 96, "max_position_embeddings": 128, "norm_eps": 1e-5, "layer_norm_eps": 1e-5,
                   "global_attn_every_n_layers": 3, "local_attention": 16, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
                   "hidden_activation": "gelu", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
                   "sep_token_id": 2, "norm_bias": False, "attention_bias": False, "mlp_bias": False},
    },
    "modernbert-prefix-f32": {
        "about": "ModernBERT: names with a prefix, newer names of settings, SiLU, no windows but one", "storage": "f32", "prompt": 40,
        "pooling": "cls", "prefix": "model.",
        "config": {"model_type": "modernbert", "architectures": ["ModernBertModel"], "hidden_size": 48, "intermediate_size": 40,
                   "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 96, "max_position_embeddings": 64, "norm_eps": 1e-5, "layer_norm_eps": 1e-5,
                   "layer_types": ["full_attention", "sliding_attention"], "local_attention": 10,
                   "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 20000.0},
                                       "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0}},
                   "hidden_activation": "silu", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
                   "sep_token_id": 2},
    },
}


def weights_of(folder, variant, normal, norm):
    """Random weights under the names that `transformers` saves."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModel.from_config(config, dtype=torch.float32)
    mean = variant.get("norms", 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape = tuple(parameter.shape)
            if name.endswith("bias"):
                parameter.copy_(normal(shape, 0.25))
            elif len(shape) == 1:
                parameter.copy_(norm(shape[0]) - 1 + mean)
            elif "embed" in name:
                parameter.copy_(normal(shape, 2 / shape[1] ** 0.5))
            else:
                parameter.copy_(normal(shape, 1.4 / shape[-1] ** 0.5))
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        return load_file(pathlib.Path(saved) / "model.safetensors")


def renamed(weights, variant, normal):
    """The names of older checkpoints, with tensors that belong to the heads of the training."""
    prefix = variant.get("prefix", "")
    if not variant.get("older"):
        return {prefix + name: tensor for name, tensor in weights.items()}
    spell = lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    weights = {prefix + spell(name): tensor for name, tensor in weights.items()}
    hidden = variant["config"]["hidden_size"]
    weights["cls.predictions.bias"] = normal((variant["config"]["vocab_size"],), 0.25)
    weights["cls.seq_relationship.weight"] = normal((2, hidden), 0.25)
    return weights


def write_modules(folder, variant, normal):
    """modules.json and its folders; returns the linear maps after the pooling."""
    if variant["pooling"] is None:
        return []
    hidden = variant["config"]["hidden_size"]
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    kinds += [(f"{2 + i}_Dense", "Dense") for i in range(len(variant.get("dense", [])))]
    if variant.get("normalize", True):
        kinds.append((f"{len(kinds)}_Normalize", "Normalize"))
    modules = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
               for i, (path, kind) in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules, indent=1) + "\n")
    flags = {"mean": "mean_tokens", "cls": "cls_token", "lasttoken": "lasttoken"}
    pooling = {"word_embedding_dimension": hidden, **{f"pooling_mode_{flag}": mode == variant["pooling"] for mode, flag in flags.items()}}
    if "longest" in variant:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": variant["longest"]}) + "\n")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=1) + "\n")
    maps, width = [], hidden
    for i, length in enumerate(variant.get("dense", [])):
        own = folder / f"{2 + i}_Dense"
        own.mkdir()
        settings = {"in_features": width, "out_features": length, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
        (own / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
        maps.append(normal((length, width), 1 / width ** 0.5))
        save_file({"linear.weight": maps[-1]}, own / "model.safetensors", metadata={"format": "pt"})
        width = length
    return maps


def states_of(folder, prompt, dtype=torch.float32):
    model = transformers.AutoModel.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor([prompt])).last_hidden_state[0].to(torch.float64).numpy()


def vectors_of_texts(folder, variant, maps):
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    ids = [tokenizer(text, truncation=True, max_length=variant["longest"])["input_ids"] for text in TEXTS]
    vectors = [vector_of(states_of(folder, own), variant, maps) for own in ids]
    return {"texts": TEXTS, "tokens": [len(own) for own in ids], "vectors": [[round(float(x), 8) for x in v] for v in vectors]}


def vector_of(states, variant, maps):
    pooled = {"mean": states.mean(0), "cls": states[0], "lasttoken": states[-1], None: states.mean(0)}[variant["pooling"]]
    for weight in maps:
        pooled = weight.double().numpy() @ pooled
    return pooled / numpy.linalg.norm(pooled) if variant.get("normalize", True) else pooled


def make_variant(index, name, variant):
    random = numpy.random.default_rng([models.SEED, 1000 + index])
    folder = OUT / name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    config, storage = variant["config"], variant["storage"]

    def normal(shape, deviation):
        return torch.from_numpy((random.standard_normal(shape) * deviation).astype(numpy.float32))

    def norm(length):
        return torch.from_numpy((1 + 0.25 * random.standard_normal(length)).astype(numpy.float32))

    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = renamed(weights_of(folder, variant, normal, norm), variant, normal)
    weights = {key: tensor.to(models.TORCH_TYPES[storage]).contiguous() for key, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    maps = write_modules(folder, variant, normal)
    prompt = random.integers(3, config["vocab_size"], variant["prompt"]).tolist()
    states, wide = states_of(folder, prompt), states_of(folder, prompt, torch.float64)
    states.astype("<f4").tofile(folder / "golden_states.f32")
    of_texts = {}
    if "tokenizer" in variant:
        shutil.copy(HERE / "tokens_folder" / variant["tokenizer"], folder / "tokenizer.json")
        of_texts = vectors_of_texts(folder, variant, maps)
    twin = None
    if variant.get("twin", True):
        families.convert(folder, folder / "model.gguf", storage)
        with tempfile.TemporaryDirectory() as scratch:
            exact = pathlib.Path(scratch) / "exact.gguf"
            families.convert(folder, exact, "f32")
            twin = {
                "file": "model.gguf",
                "llama_cpp_on_f32_copy": models.differences(llama.hidden_states(exact, prompt), states),
                "llama_cpp": models.differences(llama.hidden_states(folder / "model.gguf", prompt), states),
            }
    golden = {
        "about": variant["about"],
        "prompt": prompt,
        "shape": list(states.shape),
        "sha256": hashlib.sha256((folder / "golden_states.f32").read_bytes()).hexdigest(),
        "storage": storage,
        "vector": [round(float(x), 8) for x in vector_of(states, variant, maps)],
        "states_std": round(float(states.std()), 3),
        "f32_against_f64": models.differences(states, wide),
        "transformers": transformers.__version__,
        **of_texts,
        **({"twin": twin} if twin else {}),
    }
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)  # safetensors writes for its owner alone
    print(f"{name:24} states std {golden['states_std']}, f32 against f64 {golden['f32_against_f64']['max']}, twin {twin}")
    # llama.cpp reads GELU from a table of 16-bit floats.
    assert twin is None or twin["llama_cpp_on_f32_copy"]["max"] < 3e-2, twin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    llama.add_flags(parser)
    parser.add_argument("--only", nargs="*", help="the variants to make; all of them without this flag")
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
        if arguments.only is None or name in arguments.only:
            make_variant(index, name, variant)


if __name__ == "__main__":
    main()
