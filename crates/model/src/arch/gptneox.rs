//! GPT-NeoX and Pythia: rotary positions for a part of each head; attention and feed-forward network of a block can be
//! parallel.
//!
//! Source: Black et al., GPT-NeoX-20B (arXiv 2204.06745). In a Hugging Face checkpoint, the rows of the map for queries,
//! keys and values are ordered by head. llama.cpp computes GELU from a table of 16-bit floats, with the approximation by
//! tanh; kvant follows `transformers`.

use super::ungated::{Family, Keys, KvHeads, QueryKeyValue, RotaryKeys};
use crate::Activation;

/// The family `gptneox`.
pub(super) static GPTNEOX: Family = Family {
    name: "gptneox",
    model_types: &["gpt_neox"],
    keys: Keys {
        hidden: "hidden_size",
        layers: "num_hidden_layers",
        heads: "num_attention_heads",
        feed_forward: "intermediate_size",
        context: "max_position_embeddings",
        norm_epsilon: "layer_norm_eps",
        activation: "hidden_act",
    },
    prefix: "gpt_neox.",
    blocks: "layers",
    outer_names: &[("token_embd", "embed_in"), ("output_norm", "final_layer_norm"), ("output", "embed_out")],
    block_names: &[
        ("attn_norm", "input_layernorm"),
        ("attn_qkv", "attention.query_key_value"),
        ("attn_output", "attention.dense"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_up", "mlp.dense_h_to_4h"),
        ("ffn_down", "mlp.dense_4h_to_h"),
    ],
    transposed: false,
    query_key_value: QueryKeyValue::FusedByHead,
    kv_heads: KvHeads::All,
    rotary: Some(RotaryKeys { theta: "rotary_emb_base", part: "rotary_pct" }),
    activation: (&["gelu"], Activation::Gelu),
    tied: false,
    parallel: Some(("use_parallel_residual", true)),
    required: &[],
};
