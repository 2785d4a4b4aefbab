"""Writes the trained model as a Hugging Face folder; every file appears by rename, whole or not at all."""

import json
import os

import torch
from safetensors.torch import save_file

from corpus import CHAT_TEMPLATE, held_out_text
from model import CONFIG


def _replace(folder, name, write):
    temporary = os.path.join(folder, f".{name}.partial")
    write(temporary)
    os.chmod(temporary, 0o644)
    os.replace(temporary, os.path.join(folder, name))


def _json(folder, name, value):
    def write(path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False)
            file.write("\n")

    _replace(folder, name, write)


def model_config():
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dtype": "bfloat16",
        "eos_token_id": [1, 5],
        "head_dim": CONFIG["head_dim"],
        "hidden_act": "silu",
        "hidden_size": CONFIG["hidden_size"],
        "initializer_range": 0.02,
        "intermediate_size": CONFIG["intermediate_size"],
        "max_position_embeddings": CONFIG["max_position_embeddings"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": CONFIG["num_attention_heads"],
        "num_hidden_layers": CONFIG["num_hidden_layers"],
        "num_key_value_heads": CONFIG["num_key_value_heads"],
        "pad_token_id": None,
        "pretraining_tp": 1,
        "rms_norm_eps": CONFIG["rms_norm_eps"],
        "rope_parameters": {"rope_theta": CONFIG["rope_theta"], "rope_type": "default"},
        "tie_word_embeddings": True,
        "transformers_version": "5.23.0",
        "use_cache": True,
        "vocab_size": CONFIG["vocab_size"],
    }


def export(folder, weights, tokenizer, held_out):
    """`weights` is the training model's state; the embedding stands for the output map too."""
    os.makedirs(folder, exist_ok=True)
    tensors = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    _replace(folder, "model.safetensors", lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    _replace(folder, "tokenizer.json", lambda path: tokenizer.save(path))
    _json(folder, "config.json", model_config())
    _json(folder, "generation_config.json", {
        "bos_token_id": 0, "do_sample": True, "eos_token_id": [1, 5], "temperature": 0.7, "top_k": 40, "top_p": 0.95,
        "transformers_version": "5.23.0",
    })
    _json(folder, "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "backend": "tokenizers", "bos_token": "<s>", "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False, "eos_token": "</s>",
        "extra_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"],
        "model_max_length": 512, "tokenizer_class": "TokenizersBackend",
    })

    def write_text(path):
        with open(path, "w", encoding="utf-8") as file:
            file.write(held_out_text(held_out))

    _replace(folder, "heldout.txt", write_text)
