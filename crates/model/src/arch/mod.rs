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
