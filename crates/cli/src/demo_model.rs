//! The small model that the program carries, and its held-out text.

use crate::failure::Failure;
use std::path::PathBuf;

const FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../../assets/demo/config.json")),
    ("generation_config.json", include_bytes!("../../../assets/demo/generation_config.json")),
    ("tokenizer.json", include_bytes!("../../../assets/demo/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../assets/demo/tokenizer_config.json")),
    ("model.safetensors", include_bytes!("../../../assets/demo/model.safetensors")),
];

/// Text that the demo model was not trained on.
pub const HELD_OUT: &str = include_str!("../../../assets/demo/heldout.txt");

/// The model in a folder of its own, which goes when this value does.
pub struct DemoFolder(tempfile::TempDir);

impl DemoFolder {
    /// Writes the model's files.
    pub fn new() -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("kvant-").tempdir()?;
        let inner = folder.path().join("demo");
        std::fs::create_dir(&inner)?;
        for (name, bytes) in FILES {
            std::fs::write(inner.join(name), bytes)?;
        }
        Ok(Self(folder))
    }

    /// Where it lies.
    pub fn path(&self) -> PathBuf {
        self.0.path().join("demo")
    }
}
