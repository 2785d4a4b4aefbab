//! Model folders with one fault each: told by name, never passed over.

mod tiny;

use tiny::{Tiny, fault};

#[test]
fn an_empty_weight_map_is_named() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("model"));
    std::fs::write(folder.path().join("model/model.safetensors.index.json"), r#"{"weight_map":{}}"#).unwrap();
    fault(folder.path(), &["convert", "model", "-o", "out.gguf"], &["index.json", "weight_map"]);
}
