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

/// Whether a Hugging Face checkpoint has a head that is not its embedding, which has one of two names. Such a head counts,
/// whatever the settings say, as in `transformers` 5.
fn has_other_head(checkpoint: &dyn Checkpoint, embeddings: [&str; 2]) -> Result<bool, Error> {
    let head = "lm_head.weight";
    let embedding = embeddings.into_iter().find(|name| checkpoint.info(name).is_some());
    let (Some(embedding), Some(b)) = (embedding, checkpoint.info(head)) else { return Ok(false) };
    let Some(a) = checkpoint.info(embedding) else { return Ok(false) };
    if a.shape != b.shape {
        return Ok(true);
    }
    if a.type_name() == b.type_name() {
        let (a, b) = (checkpoint.stored_bytes(embedding), checkpoint.stored_bytes(head));
        return Ok(a.as_deref() != b.as_deref());
    }
    Ok(checkpoint.tensor(embedding)?.decode() != checkpoint.tensor(head)?.decode())
}
