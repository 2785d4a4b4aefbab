//! StarCoder2: rotary positions, grouped queries, windows. llama.cpp ignores the windows.

use super::ungated::{Family, Keys, KvHeads, QueryKeyValue, RotaryKeys};
use crate::Activation;

/// The family `starcoder2`.
pub(super) static STARCODER2: Family = Family {
    name: "starcoder2",
    model_types: &["starcoder2"],
    keys: Keys {
        hidden: "hidden_size",
        layers: "num_hidden_layers",
        heads: "num_attention_heads",
        feed_forward: "intermediate_size",
        context: "max_position_embeddings",
        norm_epsilon: "norm_epsilon",
        activation: "hidden_act",
    },
    prefix: "model.",
    blocks: "layers",
    outer_names: &[("token_embd", "embed_tokens"), ("output_norm", "norm"), ("output", "lm_head")],
    block_names: &[
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_up", "mlp.c_fc"),
        ("ffn_down", "mlp.c_proj"),
    ],
    transposed: false,
    query_key_value: QueryKeyValue::Separate,
    kv_heads: KvHeads::Setting,
    rotary: Some(RotaryKeys { theta: "rope_theta", part: "partial_rotary_factor" }),
    activation: (&["gelu_pytorch_tanh", "gelu_new"], Activation::GeluTanh),
    tied: true,
    parallel: None,
    required: &[],
};
