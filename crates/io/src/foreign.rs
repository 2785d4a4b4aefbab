//! Recognises folders and files that kvant does not read, to tell the user what they are and what to do.

use crate::Error;
use std::path::Path;

/// Extensions of files that hold Python pickles.
const PICKLES: [&str; 4] = ["bin", "pth", "pt", "ckpt"];

const PICKLE_HINT: &str = "such a file runs code when it is read; load it with transformers, save it again with \
                           safe_serialization=True, and give that folder";

/// Returns an error if the folder holds no model of its own: an adapter, a diffusion pipeline, pickles, GGUF files.
///
/// # Errors
/// [`Error::NotRecognised`].
pub(crate) fn refuse_folder(folder: &Path) -> Result<(), Error> {
    let refuse = |found, hint| Err(Error::NotRecognised { path: folder.into(), found, hint });
    let has = |name: &str| folder.join(name).exists();
    if has("model_index.json") {
        return refuse("a diffusion pipeline", "kvant reads language models");
    }
    if has("adapter_config.json") && !has("model.safetensors") && !has("model.safetensors.index.json") {
        return refuse(
            "an adapter (LoRA), not a whole model",
            "merge it into its base model (merge_and_unload of peft) and give the merged folder",
        );
    }
    let (mut safetensors, mut pickle, mut gguf) = (false, false, false);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path().extension().and_then(|e| e.to_str()) {
            Some("safetensors") => safetensors = true,
            Some("gguf") => gguf = true,
            Some(extension) if PICKLES.contains(&extension) => pickle = true,
            _ => {}
        }
    }
    match (safetensors, pickle, gguf) {
        (false, true, _) => refuse("a folder whose weights are PyTorch pickles", PICKLE_HINT),
        (false, false, true) => refuse("a folder of GGUF files", "give one of its .gguf files"),
        _ => Ok(()),
    }
}

/// Returns an error if the content or the extension of a file is that of a format that kvant does not read.
///
/// # Errors
/// [`Error::NotRecognised`].
pub(crate) fn refuse_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let refuse = |found, hint| Err(Error::NotRecognised { path: path.into(), found, hint });
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let pickle = PICKLES.contains(&extension.as_str());
    match bytes.first_chunk::<4>() {
        Some(b"ggml" | b"lmgg" | b"tjgg" | b"fmgg") => {
            return refuse("a GGML file of 2023", "convert the original again to GGUF");
        }
        // PyTorch saves its pickles as zip archives.
        Some(b"PK\x03\x04") if pickle => return refuse("a PyTorch pickle", PICKLE_HINT),
        // The first bit of the flags at offset 6 marks an encrypted entry.
        Some(b"PK\x03\x04") if bytes.get(6).is_some_and(|flags| flags & 1 == 1) => {
            return refuse(
                "an encrypted zip archive",
                "unpack it with its password and give the folder or file inside",
            );
        }
        Some(b"PK\x03\x04") => {
            return refuse("a zip archive", "unpack it and give the folder or file inside");
        }
        _ => {}
    }
    match extension.as_str() {
        "onnx" => refuse("an ONNX graph", "this version does not read ONNX yet"),
        _ if pickle => refuse("probably a PyTorch pickle", PICKLE_HINT),
        "gguf" | "safetensors" => Ok(()),
        _ => refuse(
            "neither GGUF nor safetensors",
            "give a .gguf file, a .safetensors file or a Hugging Face folder",
        ),
    }
}

#[cfg(test)]
mod tests {
    use crate::{Limits, open};

    #[test]
    fn mistakes_have_an_error_that_says_what_to_do() {
        /// Name and content of a file.
        type File = (&'static str, &'static [u8]);
        let cases: [(&[File], &str, [&str; 2]); 9] = [
            (&[("adapter_config.json", b"{}"), ("adapter_model.safetensors", b"")], "", ["LoRA", "merge"]),
            (&[("model_index.json", b"{}")], "", ["diffusion", "language models"]),
            (&[("config.json", b"{}"), ("pytorch_model.bin", b"PK")], "", ["pickles", "safe_serialization"]),
            (&[("a.gguf", b"GGUF")], "", ["GGUF files", ".gguf"]),
            (&[("model.safetensors", b"")], "", ["config.json", "describes the network"]),
            (&[("a.zip", b"PK\x03\x04\x14\x00\x01\x00")], "a.zip", ["encrypted", "password"]),
            (&[("a.zip", b"PK\x03\x04\x14\x00\x00\x00")], "a.zip", ["zip archive", "unpack"]),
            (&[("a.bin", b"PK\x03\x04\x14\x00\x00\x00")], "a.bin", ["pickle", "safe_serialization"]),
            (&[("a.txt", b"Once")], "a.txt", ["neither GGUF nor safetensors", "Hugging Face folder"]),
        ];
        for (files, name, expected) in cases {
            let folder = tempfile::tempdir().unwrap();
            for (name, content) in files {
                std::fs::write(folder.path().join(name), content).unwrap();
            }
            let error = open(&folder.path().join(name), &Limits::default()).err().unwrap().to_string();
            assert!(expected.iter().all(|part| error.contains(part)), "{files:?}: {error}");
        }
    }
}
