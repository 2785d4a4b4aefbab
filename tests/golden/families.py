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
from safetensors.torch import load_file, save_file

import llama

# `models.py`, once the path leads to the gguf package that the converter comes with.
models = None

HERE = pathlib.Path(__file__).resolve().parent

# Experts one after the other: the default is for 16 and 32 bits only.
EAGER_EXPERTS = {"experts_implementation": "eager"}

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


# The variants below are initialized through `transformers`, so that a family needs only its settings. `norms` is the mean
# of the norms' weights (0 where the family adds 1). `twin` is False where llama.cpp does not compute what `transformers`
# does: it ignores the windows of some families, and GGUF has no key for some settings. `engine` is False where the file of
# its converter has all that is needed, but llama.cpp computes something else from it.
SMALL = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 96, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}
GEMMA = {**SMALL, "hidden_activation": "gelu_pytorch_tanh", "head_dim": 16, "rms_norm_eps": 1e-6, "rope_theta": 10000.0}
# Gated delta nets (Qwen3-Next, Qwen3.5).
DELTA_NET = {
    "hidden_act": "silu", "head_dim": 32, "rms_norm_eps": 1e-6, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4, "tie_word_embeddings": False,
    "layer_types": ["linear_attention", "full_attention"],
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
}
GPT_OSS = {
    **SMALL, "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "hidden_act": "silu", "head_dim": 16,
    "intermediate_size": 40, "rms_norm_eps": 1e-5, "attention_bias": True, "sliding_window": 9, "num_local_experts": 6,
    "num_experts_per_tok": 3, "swiglu_limit": 7.0, "tie_word_embeddings": False,
}
GLM4_MOE = {
    **SMALL, "model_type": "glm4_moe", "architectures": ["Glm4MoeForCausalLM"], "hidden_act": "silu", "head_dim": 16,
    "rms_norm_eps": 1e-5, "attention_bias": False, "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "n_routed_experts": 6,
    "num_experts_per_tok": 3, "n_shared_experts": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 1,
    "topk_group": 1, "use_qk_norm": False, "tie_word_embeddings": False,
}
LFM2 = {
    **SMALL, "model_type": "lfm2", "architectures": ["Lfm2ForCausalLM"], "num_hidden_layers": 3, "norm_eps": 1e-5,
    "layer_types": ["conv", "full_attention", "conv"], "conv_L_cache": 3, "conv_bias": False, "intermediate_size": 100,
    "block_multiple_of": 8, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": True, "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
# A quarter of the pairs of a head of 32 is rotated where there is no window.
GEMMA4 = {
    **SMALL, "model_type": "gemma4_text", "architectures": ["Gemma4ForCausalLM"], "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 16, "global_head_dim": 32, "rms_norm_eps": 1e-6, "sliding_window": 12, "intermediate_size": 32,
    "num_hidden_layers": 3, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "rope_parameters": {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
                        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}},
    "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "attention_k_eq_v": False, "num_global_key_value_heads": None,
}

GENERIC = {
    "mistral-window-bf16": {
        "about": "Mistral: a window of 16 positions, heads of 32 in a width of 48", "storage": "bf16", "prompt": 45, "twin": False,
        "config": {**SMALL, "model_type": "mistral", "architectures": ["MistralForCausalLM"], "head_dim": 32, "sliding_window": 16,
                   "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "hidden_act": "silu"},
    },
    "qwen2-tied-f16": {
        "about": "Qwen2: biases of queries, keys and values, tied head", "storage": "f16", "prompt": 40,
        "config": {**SMALL, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rms_norm_eps": 1e-6,
                   "rope_theta": 1000000.0, "tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 32768,
                   "max_window_layers": 1, "hidden_act": "silu"},
    },
    "qwen2-window-f32": {
        "about": "Qwen2: a window of 8 positions from the second block on", "storage": "f32", "prompt": 40, "twin": False,
        "config": {**SMALL, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rms_norm_eps": 1e-6, "num_hidden_layers": 3,
                   "rope_theta": 10000.0, "tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 8,
                   "max_window_layers": 1, "hidden_act": "silu"},
    },
    "gemma-f32": {
        "about": "Gemma: factor of the embedding, norms that add 1, GELU gates", "storage": "f32", "prompt": 36, "norms": 0,
        "config": {**GEMMA, "model_type": "gemma", "architectures": ["GemmaForCausalLM"], "hidden_act": "gelu_pytorch_tanh"},
    },
    "gemma2-bf16": {
        "about": "Gemma 2: norms before and after, soft caps, a window of 16 in every other block", "storage": "bf16", "prompt": 50,
        "norms": 0,
        "config": {**GEMMA, "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "query_pre_attn_scalar": 16,
                   "attn_logit_softcapping": 3.0, "final_logit_softcapping": 6.0, "sliding_window": 16, "num_hidden_layers": 4},
    },
    "gemma3-f32": {
        "about": "Gemma 3: norms of heads, two rotary embeddings, a window of 12 in five of six blocks", "storage": "f32",
        "prompt": 50, "norms": 0,
        "config": {**GEMMA, "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "query_pre_attn_scalar": 16,
                   "sliding_window": 12, "sliding_window_pattern": 6, "num_hidden_layers": 6, "rope_local_base_freq": 10000.0,
                   "rope_theta": 1000000.0, "intermediate_size": 32, "rope_scaling": None},
    },
    "gemma3-scale-f32": {
        "about": "Gemma 3: a scale that is not that of the head size, linear scaling where there is no window", "storage": "f32",
        "prompt": 40, "norms": 0, "twin": False,
        "config": {**GEMMA, "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "query_pre_attn_scalar": 24,
                   "sliding_window": 12, "num_hidden_layers": 3, "intermediate_size": 32,
                   "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                   "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                                       "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0}}},
    },
    "phi3-long-f32": {
        "about": "Phi-3: fused maps, LongRoPE beyond the original context, a part of each head rotated", "storage": "f32", "prompt": 40,
        "config": {**SMALL, "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "rms_norm_eps": 1e-5, "hidden_act": "silu",
                   "hidden_size": 64, "rope_theta": 10000.0, "original_max_position_embeddings": 32, "partial_rotary_factor": 0.75,
                   "tie_word_embeddings": False, "sliding_window": None,
                   "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
                                    "long_factor": [1.5, 2.0, 2.5, 3.0, 3.5, 4.0]}},
    },
    "phi3-short-f16": {
        "about": "Phi-3: LongRoPE within the original context, a window of 8", "storage": "f16", "prompt": 30, "twin": False,
        "config": {**SMALL, "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "rms_norm_eps": 1e-5, "hidden_act": "silu",
                   "rope_theta": 10000.0, "original_max_position_embeddings": 32, "tie_word_embeddings": False, "sliding_window": 8,
                   "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
                                    "long_factor": [1.5, 2.0, 2.5, 3.0, 3.5, 4.0]}},
    },
    "smollm3-bf16": {
        "about": "SmolLM3: each fourth block without rotary embedding, tied head", "storage": "bf16", "prompt": 40,
        "config": {**SMALL, "model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "num_hidden_layers": 5,
                   "intermediate_size": 32, "rms_norm_eps": 1e-6, "rope_theta": 5000000.0, "hidden_act": "silu",
                   "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0, 1], "use_sliding_window": False,
                   "sliding_window": None, "tie_word_embeddings": True},
    },
    "exaone4-f32": {
        "about": "EXAONE 4: norms after the sublayers only, norms of heads, no windows", "storage": "f32", "prompt": 40,
        "config": {**SMALL, "model_type": "exaone4", "architectures": ["Exaone4ForCausalLM"], "rms_norm_eps": 1e-5, "head_dim": 12,
                   "rope_theta": 1000000.0, "hidden_act": "silu", "sliding_window": None, "tie_word_embeddings": True,
                   "layer_types": ["full_attention", "full_attention"]},
    },
    "exaone4-window-f32": {
        "about": "EXAONE 4: a window of 10 in three of four blocks, no rotary embedding in the fourth", "storage": "f32", "prompt": 40,
        "twin": False,
        "config": {**SMALL, "model_type": "exaone4", "architectures": ["Exaone4ForCausalLM"], "rms_norm_eps": 1e-5, "head_dim": 12,
                   "rope_theta": 10000.0, "hidden_act": "silu", "sliding_window": 10, "sliding_window_pattern": "LLLG",
                   "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
                   "num_hidden_layers": 4, "intermediate_size": 32, "tie_word_embeddings": False},
    },
    "olmo2-f32": {
        "about": "OLMo 2: norms after the sublayers only, one norm for all heads", "storage": "f32", "prompt": 40,
        "config": {**SMALL, "model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"], "rms_norm_eps": 1e-6, "hidden_act": "silu",
                   "rope_theta": 500000.0, "tie_word_embeddings": False},
    },
    "granite-f32": {
        "about": "Granite: factors of the embedding, the scores, the results and the logits", "storage": "f32", "prompt": 40,
        "config": {**SMALL, "model_type": "granite", "architectures": ["GraniteForCausalLM"], "rms_norm_eps": 1e-6, "hidden_act": "silu",
                   "rope_theta": 10000.0, "tie_word_embeddings": True, "embedding_multiplier": 6.0, "attention_multiplier": 0.4,
                   "residual_multiplier": 0.5, "logits_scaling": 2.0},
    },
    "starcoder-f16": {
        "about": "GPTBigCode: one head of keys and values, learned positions", "storage": "f16", "prompt": 40,
        "config": {"model_type": "gpt_bigcode", "architectures": ["GPTBigCodeForCausalLM"], "activation_function": "gelu_pytorch_tanh",
                   "n_embd": 48, "n_head": 4, "n_layer": 2, "n_positions": 256, "n_inner": 192, "vocab_size": 96, "multi_query": True,
                   "layer_norm_epsilon": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "scale_attn_weights": True},
    },
    "starcoder2-f32": {
        "about": "StarCoder2: biases everywhere, grouped queries, no window", "storage": "f32", "prompt": 40,
        "config": {**SMALL, "model_type": "starcoder2", "architectures": ["Starcoder2ForCausalLM"], "hidden_act": "gelu_pytorch_tanh",
                   "norm_epsilon": 1e-5, "use_bias": True, "rope_theta": 100000.0, "sliding_window": None, "tie_word_embeddings": True},
    },
    "starcoder2-window-f32": {
        "about": "StarCoder2: a window of 16, untied head", "storage": "f32", "prompt": 40, "twin": False,
        "config": {**SMALL, "model_type": "starcoder2", "architectures": ["Starcoder2ForCausalLM"], "hidden_act": "gelu_pytorch_tanh",
                   "norm_epsilon": 1e-5, "use_bias": True, "rope_theta": 100000.0, "sliding_window": 16, "tie_word_embeddings": False},
    },
    "gptneox-parallel-f32": {
        "about": "GPT-NeoX: parallel sublayers, a quarter of each head rotated, exact GELU", "storage": "f32", "prompt": 40,
        "config": {**SMALL, "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu", "hidden_size": 64,
                   "layer_norm_eps": 1e-5, "rotary_pct": 0.25, "rotary_emb_base": 10000, "use_parallel_residual": True,
                   "tie_word_embeddings": False, "attention_bias": True},
    },
    "gptneox-f32": {
        "about": "GPT-NeoX: one sublayer after the other, whole heads rotated with a base that has no key", "storage": "f32",
        "prompt": 33, "twin": False,
        "config": {**SMALL, "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu",
                   "layer_norm_eps": 1e-5, "rotary_pct": 1.0, "rotary_emb_base": 5000, "use_parallel_residual": False,
                   "tie_word_embeddings": False, "attention_bias": True},
    },
    "mixtral-f32": {
        "about": "Mixtral: four experts, of which a token uses two", "storage": "f32", "prompt": 40,
        "config": {**SMALL, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_act": "silu",
                   "intermediate_size": 32, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": None,
                   "num_local_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": False},
    },
    "qwen2moe-f32": {
        "about": "Qwen2-MoE: a shared expert, factors whose sum is not 1", "storage": "f32", "prompt": 40,
        "config": {**SMALL, "model_type": "qwen2_moe", "architectures": ["Qwen2MoeForCausalLM"], "hidden_act": "silu",
                   "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "num_experts": 6, "num_experts_per_tok": 3,
                   "moe_intermediate_size": 16, "shared_expert_intermediate_size": 40, "norm_topk_prob": False,
                   "decoder_sparse_step": 1, "mlp_only_layers": [], "use_sliding_window": False, "qkv_bias": True,
                   "tie_word_embeddings": False},
    },
    "qwen3moe-f32": {
        "about": "Qwen3-MoE: eight experts, of which a token uses two, norms of heads", "storage": "f32", "prompt": 40,
        "config": {**SMALL, "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_act": "silu",
                   "head_dim": 16, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "num_experts": 8, "num_experts_per_tok": 2,
                   "moe_intermediate_size": 16, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
                   "use_sliding_window": False, "tie_word_embeddings": True},
    },
    "gpt-oss-bf16": {
        "about": "gpt-oss: experts with biases, values beyond the limits of SwiGLU, sinks, a window of 9 in every other block",
        "storage": "bf16", "prompt": 45, "gains": {"gate_up_proj": 5},
        "config": {**GPT_OSS, "rope_parameters": {"rope_type": "default", "rope_theta": 150000.0}},
    },
    "gpt-oss-yarn-mxfp4": {
        "about": "gpt-oss as it is published: experts in MXFP4, YaRN whose ramp has no rounded ends", "storage": "bf16",
        "prompt": 45, "mxfp4": True, "engine": False,
        "config": {**GPT_OSS, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 3, "num_local_experts": 4,
                   "rope_theta": 150000.0,
                   "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                                    "original_max_position_embeddings": 32},
                   "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": [
                       "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}},
    },
    "glm4moe-f32": {
        "about": "GLM-4.5: a dense block, then experts with a corrected choice and a shared expert; norms of heads, half of each"
                 " head rotated, a block that predicts further tokens", "storage": "f32", "prompt": 40, "predictor": True,
        "config": {**GLM4_MOE, "num_hidden_layers": 3, "attention_bias": True, "use_qk_norm": True, "norm_topk_prob": True,
                   "routed_scaling_factor": 1.5, "num_nextn_predict_layers": 1},
    },
    "glm4moe-bf16": {
        "about": "GLM-4.5 without norms of heads: sums of strengths other than 1, two shared experts, a tied head",
        "storage": "bf16", "prompt": 40,
        "config": {**GLM4_MOE, "norm_topk_prob": False, "routed_scaling_factor": 1.0, "num_nextn_predict_layers": 0,
                   "n_shared_experts": 2, "tie_word_embeddings": True},
    },
    "qwen35-f32": {
        "about": "Qwen3.5: gated delta nets with two value heads for a key head, gated attention in every other block",
        "storage": "f32", "prompt": 40, "norms": 0,
        "config": {**SMALL, **DELTA_NET, "model_type": "qwen3_5_text", "architectures": ["Qwen3_5ForCausalLM"]},
    },
    "qwen35-tied-bf16": {
        "about": "Qwen3.5: three gated delta nets for each attention, heads of 40, a convolution over 3 tokens, tied head",
        "storage": "bf16", "prompt": 33, "norms": 0, "twin": False,
        "config": {**SMALL, **DELTA_NET, "model_type": "qwen3_5_text", "architectures": ["Qwen3_5ForCausalLM"], "num_hidden_layers": 4,
                   "layer_types": None, "linear_value_head_dim": 40, "linear_num_value_heads": 2, "linear_num_key_heads": 2,
                   "linear_conv_kernel_dim": 3, "tie_word_embeddings": True},
    },
    "qwen35moe-f32": {
        "about": "Qwen3.5-MoE: experts in one tensor, a shared expert, four value heads for a key head", "storage": "f32", "prompt": 30,
        "norms": 0,
        "config": {**SMALL, **DELTA_NET, "model_type": "qwen3_5_moe_text", "architectures": ["Qwen3_5MoeForCausalLM"],
                   "linear_num_key_heads": 1, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                   "shared_expert_intermediate_size": 32},
    },
    "qwen3next-bf16": {
        "about": "Qwen3-Next: fused maps of the delta nets, experts, a shared expert", "storage": "bf16", "prompt": 36, "norms": 0,
        "config": {**SMALL, **DELTA_NET, "model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"],
                   "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 32,
                   "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    },
    "gemma4-f32": {
        "about": "Gemma 4: head sizes and heads of keys by kind of attention, values that are the keys, a scale of each block, a part "
                 "of the pairs rotated", "storage": "f32", "prompt": 50,
        "config": {**GEMMA4, "attention_k_eq_v": True, "num_global_key_value_heads": 1, "final_logit_softcapping": 6.0},
    },
    "gemma4-untied-bf16": {
        "about": "Gemma 4: values with their own map in all blocks, untied head, no soft cap (llama.cpp then caps at 30)",
        "storage": "bf16", "prompt": 40, "twin": False,
        "config": {**GEMMA4, "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"],
                   "num_key_value_heads": 1, "num_attention_heads": 3, "tie_word_embeddings": False},
    },
    "gemma4-experts-f32": {
        "about": "Gemma 4: six experts, of which a token uses two, beside a dense network", "storage": "f32", "prompt": 40,
        "config": {**GEMMA4, "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "attention_k_eq_v": True,
                   "num_global_key_value_heads": 1, "enable_moe_block": True, "num_experts": 6, "top_k_experts": 2,
                   "moe_intermediate_size": 16, "final_logit_softcapping": 6.0},
    },
    "gemma4-shared-f32": {
        "about": "Gemma 4: the last three blocks share keys and values and have wider feed-forward networks, layer embeddings of 16",
        "storage": "f32", "prompt": 50,
        "config": {**GEMMA4, "num_hidden_layers": 5, "num_kv_shared_layers": 3, "use_double_wide_mlp": True,
                   "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"],
                   "num_key_value_heads": 1, "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 96,
                   "hidden_size": 32, "final_logit_softcapping": 6.0},
    },
    "lfm2-f32": {
        "about": "LFM2: short convolutions around an attention, an inner length that the settings have for two maps, tied head",
        "storage": "f32", "prompt": 40, "config": LFM2,
    },
    "lfm2-older-bf16": {
        "about": "LFM2: older settings (a list of attentions, block_ff_dim), a convolution over 4 tokens", "storage": "bf16",
        "prompt": 33, "twin": False,
        "config": {**{k: v for k, v in LFM2.items() if k not in ("layer_types", "intermediate_size")}, "full_attn_idxs": [1],
                   "block_ff_dim": 72, "block_auto_adjust_ff_dim": False, "conv_L_cache": 4},
    },
    "lfm2moe-f32": {
        "about": "LFM2-MoE: experts with a corrected sigmoid choice after a dense block", "storage": "f32", "prompt": 36,
        "config": {**{k: v for k, v in LFM2.items() if not k.startswith("block")}, "model_type": "lfm2_moe",
                   "architectures": ["Lfm2MoeForCausalLM"], "intermediate_size": 64, "moe_intermediate_size": 24, "num_experts": 4,
                   "num_experts_per_tok": 2, "num_dense_layers": 1, "use_expert_bias": True, "norm_topk_prob": True,
                   "routed_scaling_factor": 1.0},
    },
}


def predictor(weights, config):
    """A block after the last one, as the published checkpoints have it. `transformers` ignores it."""
    last, hidden = config["num_hidden_layers"], config["hidden_size"]
    own = {name: tensor for name, tensor in weights.items() if name.startswith(f"model.layers.{last - 1}.")}
    for name, tensor in own.items():
        weights[name.replace(f".{last - 1}.", f".{last}.", 1)] = tensor.clone()
    for name, shape in [("eh_proj", (hidden, 2 * hidden)), ("enorm", (hidden,)), ("hnorm", (hidden,)), ("shared_head.norm", (hidden,))]:
        weights[f"model.layers.{last}.{name}.weight"] = torch.full(shape, 0.5)


def mxfp4_experts(weights, random):
    """Replaces the matrices of experts by random ones in MXFP4, in the layout of the published checkpoints."""
    for name in [name for name in weights if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, columns, rows = weights.pop(name).shape
        blocks = random.integers(0, 256, (experts, rows, columns // 32, 16), dtype=numpy.uint8)
        scales = random.integers(120, 125, (experts, rows, columns // 32), dtype=numpy.uint8)
        weights[name + "_blocks"], weights[name + "_scales"] = torch.from_numpy(blocks), torch.from_numpy(scales)


def generic_weights(folder, config, normal, norm, mean, gains):
    """Random weights under the names that `transformers` saves."""
    settings = transformers.AutoConfig.from_pretrained(folder)
    if hasattr(settings, "quantization_config"):
        del settings.quantization_config
    model = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape = tuple(parameter.shape)
            gain = next((gain for part, gain in gains.items() if part in name), 1)
            if name.endswith("bias"):
                parameter.copy_(normal(shape, 0.25))
            elif len(shape) == 1:
                parameter.copy_(norm(shape[0]) - 1 + mean)
                if config["model_type"] == "gemma4_text" and name.endswith("q_norm.weight"):
                    # The scores have no other factor.
                    parameter.mul_(0.3)
            elif "embed" in name or name.split(".")[-2] in ("wte", "wpe"):
                last = name.startswith("embed_out")
                parameter.copy_(normal(shape, (1.7 if last else 2) / shape[1] ** 0.5))
            else:
                parameter.copy_(normal(shape, 1.4 * gain / shape[-1] ** 0.5))
        # The corrections of routers (GLM, LFM2) and Gemma 4's scales of blocks are no parameters.
        for name, buffer in model.named_buffers():
            if name.endswith(("e_score_correction_bias", "expert_bias")):
                buffer.copy_(normal(tuple(buffer.shape), 0.3))
            elif name.endswith("layer_scalar"):
                buffer.copy_(norm(1))
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        return load_file(pathlib.Path(saved) / "model.safetensors")


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
    # `transformers` has kernels for MXFP4 with 16 bits only.
    packed = "quantization_config" in json.loads((folder / "config.json").read_text())
    more = {"quantization_config": transformers.Mxfp4Config(dequantize=True)} if packed else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", **EAGER_EXPERTS, **more).eval()
    with torch.no_grad():
        return model(torch.tensor([prompt]), use_cache=False).logits[0].to(torch.float64).numpy()


def convert(folder, out, storage):
    """llama.cpp's converter, without a vocabulary."""
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
    import gguf

    # `transformers` renames settings that the converter knows by their old names.
    own = json.loads((folder / "config.json").read_text())
    load = ModelBase.load_hparams
    ModelBase.load_hparams = staticmethod(lambda *arguments, **named: {**own, **load(*arguments, **named)})
    # Gemma's part of the converter counts the tokens of this file, also without a vocabulary.
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(json.dumps({"model": {"vocab": {str(i): i for i in range(own["vocab_size"])}}, "added_tokens": []}))
    try:
        convert_with(folder, out, storage, ModelBase, ModelType, get_model_architecture, get_model_class, gguf)
    finally:
        ModelBase.load_hparams = load
        tokenizer.unlink()


def convert_with(folder, out, storage, ModelBase, ModelType, get_model_architecture, get_model_class, gguf):
    hparams = ModelBase.load_hparams(folder, False)
    kind = get_model_class(get_model_architecture(hparams, ModelType.TEXT))

    def set_no_vocabulary(self):
        self._set_vocab_none()
        self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])
        if "type_vocab_size" in self.hparams:
            self.gguf_writer.add_token_type_count(self.hparams["type_vocab_size"])

    kind.set_vocab = set_no_vocabulary
    # Without the blocks that predict several tokens, which the tiny models do not have.
    kind.no_mtp = True
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

    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if "norms" in variant or name in GENERIC:
        weights = generic_weights(folder, config, normal, norm, variant.get("norms", 1), variant.get("gains", {}))
    elif config["model_type"] == "qwen3":
        weights = qwen3_weights(config, normal, norm)
    else:
        weights = gpt2_weights(config, normal, norm, variant["prefix"])
    if variant.get("mxfp4"):
        mxfp4_experts(weights, random)
    if variant.get("predictor"):
        predictor(weights, config)
    stored = lambda tensor: tensor if tensor.dtype == torch.uint8 else tensor.to(models.TORCH_TYPES[storage])
    weights = {key: stored(tensor).contiguous() for key, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    context = config.get("max_position_embeddings", config.get("n_positions"))
    assert variant["prompt"] <= context
    prompt = random.integers(3, config["vocab_size"], variant["prompt"]).tolist()
    logits, wide = forward(folder, prompt), forward(folder, prompt, torch.float64)
    logits.astype("<f4").tofile(folder / "golden_logits.f32")
    twin = None
    if variant.get("twin", True):
        convert(folder, folder / "model.gguf", storage)
        with tempfile.TemporaryDirectory() as scratch:
            exact = pathlib.Path(scratch) / "exact.gguf"
            convert(folder, exact, "f32")
            twin = {"file": "model.gguf"}
            if variant.get("engine", True):
                twin["llama_cpp_on_f32_copy"] = models.differences(models.llama_logits(exact, prompt), logits)
                twin["llama_cpp"] = models.differences(models.llama_logits(folder / "model.gguf", prompt), logits)
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
        **({"twin": twin} if twin else {}),
    }
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner alone
    print(f"{name:18} logits std {golden['logits_std']}, f32 against f64 {golden['f32_against_f64']['max']}, twin {twin}")
    assert 1 < golden["logits_std"] < 3.5, golden["logits_std"]
    # llama.cpp reads GELU from a table of 16-bit floats.
    gelu = any("gelu" in str(value) for value in config.values())
    assert "llama_cpp" not in (twin or {}) or twin["llama_cpp_on_f32_copy"]["max"] < (3e-2 if gelu else 1e-3), twin


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
    for index, (name, variant) in enumerate({**VARIANTS, **GENERIC}.items()):
        if arguments.only is None or name in arguments.only:
            make_variant(index, name, variant)


if __name__ == "__main__":
    main()
