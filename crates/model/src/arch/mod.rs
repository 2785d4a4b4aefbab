//! The families of networks, one file each, and their registry.
//!
//! A family reads its settings in both spellings (GGUF metadata, `config.json`), describes the network as a
//! [`Spec`], and names each tensor's origin in a Hugging Face checkpoint. To add one, write its file and its line.

mod gated;
mod gpt2;
mod llama;
mod qwen3;
mod settings;

use crate::{Error, Source, Spec};
use kvant_io::{Checkpoint, Value};
use settings::Settings;

/// A family of networks.
pub trait Architecture: Send + Sync {
    /// GGUF's `general.architecture`, which is also `config.json`'s `model_type`.
    fn name(&self) -> &'static str;

    /// The network that a checkpoint describes, from its settings and its tensors' shapes.
    ///
    /// # Errors
    /// [`Error::Setting`] for what is missing, malformed or not computed here.
    fn spec(&self, checkpoint: &dyn Checkpoint) -> Result<Spec, Error>;

    /// Where the canonical tensor `name` lies in a Hugging Face checkpoint.
    fn hugging_face_source(&self, checkpoint: &dyn Checkpoint, spec: &Spec, name: &str) -> Source;

    /// Whether a checkpoint may hold this tensor although the Spec does not name it: what can be recomputed, or a
    /// second copy of a tied tensor.
    fn may_ignore(&self, spec: &Spec, name: &str) -> bool;

    /// GGUF metadata (`general.architecture` and the family's own keys) that upstream writes for this network.
    fn gguf_metadata(&self, spec: &Spec) -> Vec<(String, Value)>;
}

/// Every family that kvant knows.
pub static ARCHITECTURES: &[&dyn Architecture] = &[&llama::LLAMA, &qwen3::QWEN3, &gpt2::Gpt2];

/// Refuses more blocks than tensors: every block has tensors of its own, so the file bounds their number before anything is
/// built.
fn check_blocks(settings: &Settings, layers: usize, checkpoint: &dyn Checkpoint) -> Result<(), Error> {
    let tensors = checkpoint.tensors().len();
    if layers > tensors {
        let most = format!("at most as many blocks as tensors ({tensors})");
        return Err(settings.error("block count", most, layers.to_string()));
    }
    Ok(())
}

/// Rows of a GGUF's token embedding: the vocabulary.
fn embedding_rows(checkpoint: &dyn Checkpoint, architecture: &'static str) -> Result<usize, Error> {
    let embedding = checkpoint.info("token_embd.weight").ok_or_else(|| Error::MissingTensor {
        path: checkpoint.path().to_owned(),
        tensor: "token_embd.weight".into(),
        architecture,
    })?;
    Ok(embedding.shape.rows())
}

/// The block and the map of a name such as `blk.3.attn_q`.
fn in_block(name: &str) -> (&str, &str) {
    let mut parts = name.splitn(3, '.').skip(1);
    (parts.next().unwrap_or("0"), parts.next().unwrap_or(name))
}

/// Whether a Hugging Face checkpoint has a head that is not its embedding, which has one of two names. Such a head counts,
/// whatever the settings say, as in `transformers` 5.
fn has_other_head(checkpoint: &dyn Checkpoint, embeddings: [&str; 2]) -> Result<bool, Error> {
    let head = "lm_head.weight";
    let found = embeddings.into_iter().find_map(|name| Some((name, checkpoint.info(name)?)));
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
