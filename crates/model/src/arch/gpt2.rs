//! GPT-2: learned positions, one linear map for queries, keys and values.
//!
//! Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019). A Hugging Face checkpoint stores
//! each weight matrix as `in × out`. Not supported: cross attention, and attention scales that differ between layers.

use super::ungated::{Family, Keys, KvHeads, QueryKeyValue};
use crate::Activation;

/// The family `gpt2`.
pub(super) static GPT2: Family = Family {
    name: "gpt2",
    model_types: &["gpt2"],
    keys: KEYS,
    prefix: "transformer.",
    blocks: "h",
    outer_names: OUTER_NAMES,
    block_names: BLOCK_NAMES,
    transposed: true,
    query_key_value: QueryKeyValue::Fused,
    kv_heads: KvHeads::All,
    rotary: None,
    activation: (&["gelu_new", "gelu_pytorch_tanh"], Activation::GeluTanh),
    tied: true,
    parallel: None,
    required: &[
        ("scale_attn_by_inverse_layer_idx", false),
        ("add_cross_attention", false),
        ("scale_attn_weights", true),
    ],
};

/// The names of GPT-2's settings.
pub(super) const KEYS: Keys = Keys {
    hidden: "n_embd",
    layers: "n_layer",
    heads: "n_head",
    feed_forward: "n_inner",
    context: "n_positions",
    norm_epsilon: "layer_norm_epsilon",
    activation: "activation_function",
};

/// GPT-2's names of tensors outside the blocks.
pub(super) const OUTER_NAMES: &[(&str, &str)] =
    &[("token_embd", "wte"), ("position_embd", "wpe"), ("output_norm", "ln_f"), ("output", "lm_head")];

/// GPT-2's names of a block's tensors.
pub(super) const BLOCK_NAMES: &[(&str, &str)] = &[
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];
