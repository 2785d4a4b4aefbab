//! OLMo 2: norms after the sublayers and no norms before them, one norm for all heads of the queries and one for all
//! heads of the keys.

use super::gated::{Family, QueryKeyNorms, SublayerNorms};
use crate::RopeLayout;

/// The family `olmo2`.
pub(super) static OLMO2: Family = Family {
    name: "olmo2",
    model_types: &["olmo2"],
    layout: RopeLayout::Half,
    sublayer_norms: SublayerNorms::After,
    query_key_norms: QueryKeyNorms::AllHeads,
    ..Family::LLAMA
};
