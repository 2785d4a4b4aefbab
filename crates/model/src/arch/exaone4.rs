//! EXAONE 4: norms after the sublayers and no norms before them, norms of queries and keys. In models with windows,
//! attentions without a window have no rotary embedding.
//!
//! llama.cpp applies windows and this rule only to models of exactly 64 blocks; kvant follows `transformers`.

use super::gated::{Family, QueryKeyNorms, SublayerNorms, Windows};
use crate::{RopeLayout, Span};

/// The family `exaone4`.
pub(super) static EXAONE4: Family = Family {
    name: "exaone4",
    model_types: &["exaone4"],
    layout: RopeLayout::Half,
    sublayer_norms: SublayerNorms::After,
    query_key_norms: QueryKeyNorms::EachHead,
    windows: Windows::AllButEach(4),
    windows_in_llama_cpp: |blocks| blocks == 64,
    adjust: |_, _, sizes| {
        if sizes.layers.iter().any(|layer| layer.span != Span::Full) {
            let full = sizes.layers.iter_mut().filter(|layer| layer.span == Span::Full);
            full.for_each(|layer| layer.rope = None);
        }
        Ok(())
    },
    ..Family::LLAMA
};
