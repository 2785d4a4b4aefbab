//! GPTBigCode: StarCoder, SantaCoder, WizardCoder-15B. GPT-2 with one head of keys and values.
//!
//! Not supported: checkpoints with several heads of keys and values, which order their rows by head.

use super::gpt2::{BLOCK_NAMES, GPT2, KEYS, OUTER_NAMES};
use super::ungated::{Family, KvHeads};
use crate::Activation;

/// The family `starcoder`.
pub(super) static STARCODER: Family = Family {
    name: "starcoder",
    model_types: &["gpt_bigcode"],
    keys: KEYS,
    outer_names: OUTER_NAMES,
    block_names: BLOCK_NAMES,
    transposed: false,
    kv_heads: KvHeads::One,
    activation: (&["gelu_pytorch_tanh", "gelu_new"], Activation::GeluTanh),
    required: &[("multi_query", true), ("add_cross_attention", false), ("scale_attn_weights", true)],
    ..GPT2
};
