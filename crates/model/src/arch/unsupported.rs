//! Families that kvant does not support, with the first thing that each of them lacks. An error names both.
//!
//! Source: llama.cpp's `src/llama-arch.cpp` and `transformers`' `models` for the names.

/// A family that is not supported.
pub(crate) struct Unsupported {
    /// The family's names in GGUF, and its values of `model_type` in `config.json`.
    names: &'static [&'static str],
    /// The usual name.
    pub family: &'static str,
    /// A part of the network that kvant does not compute.
    pub missing: &'static str,
}

const fn family(names: &'static [&'static str], family: &'static str, missing: &'static str) -> Unsupported {
    Unsupported { names, family, missing }
}

const MAMBA: &str = "state space layers (Mamba)";
const ALIBI: &str = "attention scores with a bias for the distance (ALiBi)";
const SHARED_NORM: &str = "attention and feed-forward network beside each other after one layer norm";

static UNSUPPORTED: &[Unsupported] = &[
    family(
        &["deepseek2", "deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite"],
        "DeepSeek V2 and V3",
        "attention with compressed keys and values (MLA)",
    ),
    family(
        &["deepseek32", "deepseek_v32", "glm-dsa", "glm_moe_dsa"],
        "DeepSeek V3.2",
        "sparse attention with an indexer",
    ),
    family(&["llama4", "llama4_text"], "Llama 4", "attention in chunks"),
    family(&["granitehybrid", "granitemoehybrid"], "Granite 4", MAMBA),
    family(&["granitemoe", "granitemoeshared"], "Granite 3 with experts", "experts in Granite's layout"),
    family(&["nemotron_h", "nemotron_h_moe"], "Nemotron-H", MAMBA),
    family(&["nemotron"], "Nemotron", "squared ReLU, and layer norms that add 1"),
    family(&["falcon-h1", "falcon_h1"], "Falcon-H1", MAMBA),
    family(&["falcon", "RefinedWeb", "RefinedWebModel"], "Falcon", SHARED_NORM),
    family(&["mamba", "mamba2", "falcon_mamba", "jamba", "bamba", "plamo2", "zamba2"], "Mamba", MAMBA),
    family(&["rwkv6", "rwkv7", "rwkv6qwen2", "arwkv7"], "RWKV", "recurrent layers (RWKV)"),
    family(&["kimi-linear", "kimi_linear"], "Kimi Linear", "linear attention"),
    family(&["minimax-01", "minimax"], "MiniMax-01", "linear attention"),
    family(&["gemma3n", "gemma3n_text"], "Gemma 3n", "several residual streams"),
    family(&["mpt"], "MPT", ALIBI),
    family(&["bloom"], "BLOOM", ALIBI),
    family(&["command-r", "cohere", "cohere2"], "Command R", SHARED_NORM),
    family(&["phi2", "phi"], "Phi-2", SHARED_NORM),
    family(&["gptj", "codegen"], "GPT-J", SHARED_NORM),
    family(&["opt"], "OPT", "ReLU"),
    family(&["t5", "mt5", "umt5"], "T5", "an encoder whose results a decoder reads"),
];

/// Returns the unsupported family with this name, which is one of GGUF or a `model_type`.
pub(crate) fn unsupported(name: &str) -> Option<&'static Unsupported> {
    UNSUPPORTED.iter().find(|family| family.names.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ARCHITECTURES;

    #[test]
    fn no_name_is_listed_twice_or_supported() {
        let mut names: Vec<&str> = UNSUPPORTED.iter().flat_map(|family| family.names).copied().collect();
        for architecture in ARCHITECTURES {
            let own = std::iter::once(architecture.name()).chain(architecture.model_types().iter().copied());
            assert!(own.into_iter().all(|name| unsupported(name).is_none()), "{}", architecture.name());
        }
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
