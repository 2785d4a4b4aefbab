//! Granite 3, dense: factors of the embedding, of the scores, of each sublayer's result and of the logits.

use super::gated::{Family, SetEntry, Sizes};
use super::settings::Settings;
use crate::{Error, Spec};
use kvant_io::Value;

/// The family `granite`.
pub(super) static GRANITE: Family =
    Family { name: "granite", model_types: &["granite"], tied: true, adjust, set_gguf, ..Family::LLAMA };

fn adjust(_: &Family, settings: Settings, sizes: &mut Sizes) -> Result<(), Error> {
    let keys = match settings {
        Settings::Json(..) => {
            ["embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"]
        }
        Settings::Gguf(..) => [
            "granite.embedding_scale",
            "granite.attention.scale",
            "granite.residual_scale",
            "granite.logit_scale",
        ],
    };
    sizes.embedding_scale = settings.positive(keys[0], 1.0)?;
    sizes.attention_scale = settings.positive(keys[1], sizes.attention_scale)?;
    sizes.residual_scale = settings.positive(keys[2], 1.0)?;
    // The setting is a divisor.
    sizes.logit_scale = 1.0 / settings.positive(keys[3], 1.0)?;
    Ok(())
}

fn set_gguf(spec: &Spec, set: SetEntry) {
    let Some(sublayer) = spec.blocks.iter().flat_map(|block| &block.sublayers).next() else { return };
    let Some(attention) = spec.attentions().next() else { return };
    set("embedding_scale", Value::F32(spec.embedding.scale));
    set("attention.scale", Value::F32(attention.scale));
    set("residual_scale", Value::F32(sublayer.scale));
    set("logit_scale", Value::F32(1.0 / spec.output.scale));
}
