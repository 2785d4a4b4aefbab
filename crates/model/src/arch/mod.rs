//! The families of networks, one file each, and their registry.
//!
//! A family reads its settings from GGUF metadata or from `config.json`, describes the network as a [`Spec`], and gives
//! each tensor's name in a Hugging Face checkpoint. To add a family, write its file and add it to [`ARCHITECTURES`].

mod bert;
mod exaone4;
mod gated;
mod gemma;
mod gemma4;
mod glm4;
mod gpt2;
mod gpt_oss;
mod gptneox;
mod granite;
mod lfm2;
mod llama;
mod modern_bert;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen35;
mod rope_settings;
mod settings;
mod smollm3;
mod starcoder;
mod starcoder2;
mod text_vector;
mod ungated;
mod unsupported;

use crate::{Error, Source, Spec};
use kvant_io::{Checkpoint, Value};
use settings::Settings;
pub(crate) use unsupported::unsupported;

/// A family of networks.
pub trait Architecture: Send + Sync {
    /// The value of GGUF's `general.architecture`.
    fn name(&self) -> &'static str;

    /// The values of `model_type` in `config.json`.
    fn model_types(&self) -> &'static [&'static str];

    /// True if this family reads the checkpoint. Families with the same name in `model_type` differ in other settings.
    fn reads(&self, _checkpoint: &dyn Checkpoint) -> bool {
        true
    }

    /// Describes the network of a checkpoint, from its settings and its tensors' shapes.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting that is missing, malformed or not supported.
    fn spec(&self, checkpoint: &dyn Checkpoint) -> Result<Spec, Error>;

    /// Returns the source of the canonical tensor `name` in a Hugging Face checkpoint.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting that the source depends on.
    fn hugging_face_source(
        &self,
        checkpoint: &dyn Checkpoint,
        spec: &Spec,
        name: &str,
    ) -> Result<Source, Error>;

    /// Returns true if a checkpoint may contain this tensor although the Spec does not name it: a tensor that can be
    /// recomputed, or a second copy of a tied tensor.
    fn may_ignore(&self, spec: &Spec, name: &str) -> bool;

    /// The properties of this network that llama.cpp does not compute from the GGUF file, one sentence each.
    fn lost_in_llama_cpp(&self, spec: &Spec) -> Vec<String>;

    /// The GGUF metadata (`general.architecture` and the family's own keys) that llama.cpp writes for this network.
    fn gguf_metadata(&self, spec: &Spec) -> Vec<(String, Value)>;
}

/// All families that kvant supports.
pub static ARCHITECTURES: &[&dyn Architecture] = &[
    &llama::LLAMA,
    &qwen2::QWEN2,
    &qwen2::QWEN2_MOE,
    &qwen3::QWEN3,
    &qwen3::QWEN3_MOE,
    &qwen35::QWEN35,
    &qwen35::QWEN35_MOE,
    &qwen35::QWEN3_NEXT,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &gemma::GEMMA_EMBEDDING,
    &gemma4::Gemma4,
    &phi3::PHI3,
    &smollm3::SMOLLM3,
    &exaone4::EXAONE4,
    &olmo2::OLMO2,
    &granite::GRANITE,
    &gpt_oss::GPT_OSS,
    &glm4::GLM4_MOE,
    &lfm2::LFM2,
    &lfm2::LFM2_MOE,
    &gpt2::GPT2,
    &starcoder::STARCODER,
    &starcoder2::STARCODER2,
    &gptneox::GPTNEOX,
    &bert::Bert,
    &modern_bert::ModernBert,
];

/// Returns the length of the first attention window; `None` if no attention has a window.
fn window(spec: &Spec) -> Option<usize> {
    spec.attentions().find_map(|attention| attention.span.window())
}

/// Returns a sentence if the network has windows. For families whose windows llama.cpp ignores.
fn lost_windows(spec: &Spec) -> Vec<String> {
    let sentence = |positions| {
        format!(
            "attention windows of {positions} positions: llama.cpp ignores them for this network, kvant applies them"
        )
    };
    window(spec).map(sentence).into_iter().collect()
}

/// Rejects a block count above the number of tensors. Each block has its own tensors, so the file bounds the block
/// count before anything is allocated.
fn check_blocks(settings: &Settings, layers: usize, checkpoint: &dyn Checkpoint) -> Result<(), Error> {
    let tensors = checkpoint.tensors().len();
    if layers > tensors {
        let expected = format!("at most as many blocks as tensors ({tensors})");
        return Err(settings.error("block count", expected, layers.to_string()));
    }
    Ok(())
}

/// Returns the number of rows of a GGUF's token embedding: the vocabulary size.
fn embedding_rows(checkpoint: &dyn Checkpoint, architecture: &'static str) -> Result<usize, Error> {
    let embedding = checkpoint.info("token_embd.weight").ok_or_else(|| Error::MissingTensor {
        path: checkpoint.path().to_owned(),
        tensor: "token_embd.weight".into(),
        architecture,
    })?;
    Ok(embedding.shape.rows())
}

/// Returns the block index and the linear map of a name such as `blk.3.attn_q`.
fn in_block(name: &str) -> (&str, &str) {
    let mut parts = name.splitn(3, '.').skip(1);
    (parts.next().unwrap_or("0"), parts.next().unwrap_or(name))
}

/// Returns the index of the block that a tensor belongs to, from its GGUF or Hugging Face name; `None` for other tensors.
pub(crate) fn block_of(name: &str) -> Option<usize> {
    let rest = ["blk.", "model.layers.", "layers."].iter().find_map(|prefix| name.strip_prefix(prefix))?;
    rest.split('.').next()?.parse().ok()
}

/// Returns true if a Hugging Face checkpoint has an output head that differs from its embedding. `embeddings` are the
/// possible names of the embedding. Such a head is used even if the settings say that the head is tied, as in
/// `transformers` 5.
fn has_other_head(checkpoint: &dyn Checkpoint, embeddings: &[&str]) -> Result<bool, Error> {
    let head = "lm_head.weight";
    let found = embeddings.iter().find_map(|name| Some((*name, checkpoint.info(name)?)));
    let (Some((embedding, a)), Some(b)) = (found, checkpoint.info(head)) else { return Ok(false) };
    if a.shape != b.shape {
        return Ok(true);
    }
    if a.type_name() == b.type_name() {
        let (a, b) = (checkpoint.stored_bytes(embedding), checkpoint.stored_bytes(head));
        return Ok(a.as_deref() != b.as_deref());
    }
    Ok(checkpoint.tensor(embedding)?.decode() != checkpoint.tensor(head)?.decode())
}
