//! The built-in demo model and its held-out text.

use crate::Error;
use std::path::{Path, PathBuf};

const FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../../assets/demo/config.json")),
    ("generation_config.json", include_bytes!("../../../assets/demo/generation_config.json")),
    ("tokenizer.json", include_bytes!("../../../assets/demo/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../assets/demo/tokenizer_config.json")),
    ("model.safetensors", include_bytes!("../../../assets/demo/model.safetensors")),
];

/// Text that the demo model was not trained on.
pub const DEMO_TEXT: &str = include_str!("../../../assets/demo/heldout.txt");

/// Creates a temporary folder. The folder is deleted when the returned value is dropped.
pub(crate) fn temporary_folder() -> Result<tempfile::TempDir, Error> {
    let folder = tempfile::Builder::new().prefix("kvant-").tempdir();
    folder.map_err(|e| Error::io(&std::env::temp_dir(), "creating a folder for temporary files", e))
}

/// Returns true if the path is the word `demo` and the current folder has no entry with this name.
pub fn is_demo(path: &Path) -> bool {
    path.as_os_str() == "demo" && is_absent(path)
}

/// Returns true if no entry with this path exists. A broken link is an entry. If a parent folder is not readable, the
/// result is false.
pub(crate) fn is_absent(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// A temporary folder with the demo model. The folder is deleted when this value is dropped.
pub(crate) struct DemoFolder(tempfile::TempDir);

impl DemoFolder {
    /// Writes the model's files.
    pub fn new() -> Result<Self, Error> {
        let folder = temporary_folder()?;
        let inner = folder.path().join("demo");
        std::fs::create_dir(&inner).map_err(|e| Error::io(&inner, "creating the folder", e))?;
        for (name, bytes) in FILES {
            let path = inner.join(name);
            std::fs::write(&path, bytes).map_err(|e| Error::io(&path, "writing", e))?;
        }
        Ok(Self(folder))
    }

    /// Returns the path of the model's folder.
    pub fn path(&self) -> PathBuf {
        self.0.path().join("demo")
    }
}
