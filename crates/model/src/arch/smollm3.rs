//! SmolLM3: each fourth attention has no rotary embedding. llama.cpp assumes this distance; GGUF has no key for it.

use super::gated::{Family, Sizes, Windows};
use super::settings::Settings;
use crate::Error;

/// The distance of attentions without a rotary embedding.
const DISTANCE: usize = 4;

/// The family `smollm3`.
pub(super) static SMOLLM3: Family = Family {
    name: "smollm3",
    model_types: &["smollm3"],
    windows: Windows::FromBlock,
    tied: true,
    adjust,
    ..Family::LLAMA
};

fn adjust(_: &Family, settings: Settings, sizes: &mut Sizes) -> Result<(), Error> {
    let blocks = sizes.layers.len();
    let mut rotated: Vec<bool> = (0..blocks).map(|i| !(i + 1).is_multiple_of(DISTANCE)).collect();
    if let Settings::Json(..) = settings {
        let distance = settings.optional_count("no_rope_layer_interval")?.unwrap_or(DISTANCE);
        let by_distance: Vec<bool> = (0..blocks).map(|i| !(i + 1).is_multiple_of(distance)).collect();
        let found = settings.optional_flags("no_rope_layers")?.filter(|all| !all.is_empty());
        let found = found.unwrap_or(by_distance);
        if found != rotated {
            let expected = "each fourth block without a rotary embedding, because GGUF has no key for others";
            return Err(settings.error("no_rope_layers", expected, format!("{found:?}")));
        }
        rotated = found;
    }
    for (layer, rotated) in sizes.layers.iter_mut().zip(rotated) {
        if !rotated {
            layer.rope = None;
        }
    }
    Ok(())
}
