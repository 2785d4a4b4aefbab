//! Experts in a family's settings, and the names and the layout of their tensors in a Hugging Face checkpoint.

use super::Family;
use crate::arch::in_block;
use crate::arch::settings::{LARGEST_DIMENSION, Settings};
use crate::{Error, Experts, Scoring, Source, Spec};
use kvant_io::{Checkpoint, Value};
use std::collections::HashSet;

/// Experts in a family's settings and in its names of tensors.
#[derive(Clone, Copy)]
pub(in crate::arch) struct ExpertNames {
    /// The setting of the number of experts.
    pub count: &'static str,
    /// The setting of an expert's inner length; `None` if it is that of all feed-forward networks.
    pub feed_forward: Option<&'static str>,
    /// The network that all tokens use beside the experts, if the family has one.
    pub shared: Option<SharedExpert>,
    /// The setting of the number of dense blocks before the first block with experts, with the value of an absent key.
    pub leading_dense: (&'static str, usize),
    /// The prefix of the tensors in a block of a Hugging Face checkpoint.
    pub prefix: &'static str,
    /// The name of the router in a Hugging Face checkpoint.
    pub router: &'static str,
    /// The name of the correction of the choice in a Hugging Face checkpoint, if the experts have one.
    pub correction: &'static str,
    /// The tensors of the experts in a Hugging Face checkpoint.
    pub layout: ExpertLayout,
    /// True if an expert's strength is the sigmoid function of its score. GGUF then has keys for `normalized` and for the
    /// factor of all results.
    pub sigmoid: bool,
    /// True if the strengths of a token's experts are divided by their sum.
    pub normalized: bool,
    /// The setting for `normalized`, with the value of an absent key. Without `sigmoid`, GGUF has no key for it.
    pub normalized_key: Option<(&'static str, bool)>,
}

impl ExpertNames {
    /// Experts with the names of Qwen2-MoE and Qwen3-MoE.
    pub const QWEN: Self = Self {
        count: "num_experts",
        feed_forward: Some("moe_intermediate_size"),
        shared: None,
        leading_dense: ("first_k_dense_replace", 0),
        prefix: "mlp",
        router: "gate",
        correction: "gate.e_score_correction_bias",
        layout: ExpertLayout::Separate(["gate_proj", "up_proj", "down_proj"]),
        sigmoid: false,
        normalized: true,
        normalized_key: Some(("norm_topk_prob", false)),
    };
}

/// A network that all tokens use, beside the experts.
#[derive(Clone, Copy)]
pub(in crate::arch) struct SharedExpert {
    /// The prefix of its tensors in a block of a Hugging Face checkpoint.
    pub prefix: &'static str,
    /// The setting of its inner length.
    pub length: SharedLength,
    /// True if its results have a factor, which depends on the input.
    pub factor: bool,
}

/// The setting of a shared expert's inner length.
#[derive(Clone, Copy)]
pub(in crate::arch) enum SharedLength {
    /// The length itself.
    Setting(&'static str),
    /// The length in units of an expert's inner length.
    Times(&'static str),
}

/// The sizes of experts, and the numbers of their factors.
#[derive(Clone, Copy)]
pub(in crate::arch) struct ExpertSizes {
    pub count: usize,
    pub used: usize,
    pub feed_forward: usize,
    pub shared_feed_forward: Option<usize>,
    pub sigmoid: bool,
    pub normalized: bool,
    pub scale: f32,
}

/// The tensors of the experts in a Hugging Face checkpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::arch) enum ExpertLayout {
    /// One tensor for each map of each expert, with these names of the gate, up and down projections. Some checkpoints have
    /// one tensor for the gate and up projections of all experts, and one for the down projections.
    Separate([&'static str; 3]),
    /// One tensor for the down projections of all experts, and one for the gate and up projections, whose rows
    /// alternate. The matrices are transposed, or they are in MXFP4.
    Stacked,
}

/// Names of experts' maps in GGUF.
const MAPS: [&str; 3] = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];

/// The end of a tensor's name that has the codes of an MXFP4 tensor, and of the tensor that has its scales.
const MXFP4_ENDS: [&str; 2] = ["_blocks", "_scales"];

impl ExpertNames {
    /// Returns the name of a tensor of the router, of the shared expert, or of stacked experts; `None` for other tensors.
    pub fn hugging_face_name(&self, model: &str, name: &str) -> Option<String> {
        let (base, suffix) = name.rsplit_once('.')?;
        let (index, map) = in_block(base);
        let prefix = format!("{model}.layers.{index}.{}", self.prefix);
        match map {
            "ffn_gate_inp" => return Some(format!("{prefix}.{}.{suffix}", self.router)),
            "exp_probs_b" => return Some(format!("{prefix}.{}", self.correction)),
            _ => {}
        }
        let shared =
            [("ffn_gate_shexp", "gate_proj"), ("ffn_up_shexp", "up_proj"), ("ffn_down_shexp", "down_proj")];
        if let (Some(own), Some((_, projection))) =
            (self.shared, shared.into_iter().find(|(gguf, _)| *gguf == map))
        {
            return Some(format!("{model}.layers.{index}.{}.{projection}.{suffix}", own.prefix));
        }
        let stacked = match (self.layout, map) {
            (ExpertLayout::Stacked, "ffn_gate_exps" | "ffn_up_exps") => "gate_up_proj",
            (ExpertLayout::Stacked, "ffn_down_exps") => "down_proj",
            _ => return None,
        };
        let end = if suffix == "bias" { "_bias" } else { "" };
        Some(format!("{prefix}.experts.{stacked}{end}"))
    }

    /// Returns the source of the tensor `name` of all experts; `None` for other tensors. `model` is the beginning of the
    /// names in the checkpoint.
    pub fn source(
        &self,
        checkpoint: &dyn Checkpoint,
        experts: &Experts,
        model: &str,
        name: &str,
    ) -> Option<Source> {
        let (base, suffix) = name.rsplit_once('.')?;
        let (index, map) = in_block(base);
        let projection = MAPS.into_iter().position(|other| other == map)?;
        if let ExpertLayout::Separate(maps) = self.layout {
            let prefix = format!("{model}.layers.{index}.{}.experts", self.prefix);
            if let Some(source) = fused_experts(checkpoint, experts, &prefix, projection) {
                return Some(source);
            }
            let expert = |e| format!("{prefix}.{e}.{}.{suffix}", maps[projection]);
            return Some(Source::Stack((0..experts.count).map(expert).collect()));
        }
        let from = self.hugging_face_name(model, name)?;
        // Gate and up alternate.
        let (start, step) = [(0, 2), (1, 2), (0, 1)][projection];
        let packed = MXFP4_ENDS.map(|end| format!("{from}{end}"));
        let is_packed = suffix == "weight" && checkpoint.info(&from).is_none();
        Some(if is_packed && checkpoint.info(&packed[0]).is_some() {
            Source::Mxfp4Rows { names: packed, start, step }
        } else {
            Source::ExpertRows { name: from, transposed: suffix == "weight", start, step }
        })
    }
}

/// Returns the source of all experts' maps if the checkpoint stores the maps of all experts as one tensor: gate and up
/// together, experts × 2 · inner × hidden, and down. `projection` is an index in [`MAPS`].
fn fused_experts(
    checkpoint: &dyn Checkpoint,
    experts: &Experts,
    prefix: &str,
    projection: usize,
) -> Option<Source> {
    let down = &experts.feed_forward.down;
    let (count, inner, hidden) = (experts.count, down.columns, down.rows);
    let fused = format!("{prefix}.gate_up_proj");
    let shape = &checkpoint.info(&fused)?.shape;
    if projection == 2 {
        return Some(Source::Plain(format!("{prefix}.down_proj")));
    }
    if shape.dimensions() != [count, 2 * inner, hidden] {
        // The check of shapes reports it.
        return Some(Source::Plain(fused));
    }
    let start = |expert: usize| (2 * expert + projection) * inner;
    Some(Source::Rows {
        of: Source::Plain(fused).into(),
        rows: (0..count).flat_map(|expert| start(expert)..start(expert) + inner).collect(),
        stored: vec![count, 2 * inner],
    })
}

/// The value of GGUF's `expert_gating_func` for softmax, and that for the sigmoid function.
const GATING: [usize; 2] = [1, 2];

impl Family {
    pub(super) fn experts_from_gguf(&self, settings: Settings) -> Result<Option<ExpertSizes>, Error> {
        let key = |key: &str| format!("{}.{key}", self.name);
        let Some(count) = settings.optional_length(&key("expert_count"))? else { return Ok(None) };
        let Some(names) = self.experts else {
            let expected = "no experts in this family";
            return Err(settings.error(&key("expert_count"), expected, count.to_string()));
        };
        let gating = GATING[usize::from(names.sigmoid)];
        let found = settings.optional_length(&key("expert_gating_func"))?.unwrap_or(gating);
        if found != gating {
            return Err(settings.error(&key("expert_gating_func"), gating.to_string(), found.to_string()));
        }
        check_groups(settings, &key("expert_group_count"))?;
        let feed_forward = match settings.optional_length(&key("expert_feed_forward_length"))? {
            Some(length) => length,
            None => settings.count(&key("feed_forward_length"))?,
        };
        let shared = match names.shared.map(|shared| shared.length) {
            None => None,
            Some(SharedLength::Setting(_)) => {
                settings.optional_length(&key("expert_shared_feed_forward_length"))?
            }
            Some(SharedLength::Times(_)) => times(settings, &key("expert_shared_count"), feed_forward)?,
        };
        let (normalized, scale) = match names.sigmoid {
            false => (names.normalized, 1.0),
            // Zero means that there is no factor.
            true => (
                settings.flag(&key("expert_weights_norm"))?,
                match settings.optional_number(&key("expert_weights_scale"))? {
                    Some(0.0) => 1.0,
                    _ => settings.positive(&key("expert_weights_scale"), 1.0)?,
                },
            ),
        };
        Ok(Some(ExpertSizes {
            count,
            used: settings.count(&key("expert_used_count"))?,
            feed_forward,
            shared_feed_forward: shared,
            sigmoid: names.sigmoid,
            normalized,
            scale,
        }))
    }

    pub(super) fn experts_from_json(&self, settings: Settings) -> Result<Option<ExpertSizes>, Error> {
        let Some(names) = self.experts else { return Ok(None) };
        // `transformers` 5 writes the second name for families whose published settings have another one.
        let mut count = None;
        for key in [names.count, "num_local_experts"] {
            count = count.or(settings.optional_length(key)?);
        }
        let Some(count) = count else { return Ok(None) };
        let mut normalized = names.normalized;
        if let Some((key, default)) = names.normalized_key {
            normalized = settings.optional_flag(key)?.unwrap_or(default);
            if normalized != names.normalized && !names.sigmoid {
                let expected = format!("{}, because GGUF has no key for other values", names.normalized);
                return Err(settings.error(key, expected, normalized.to_string()));
            }
        }
        check_groups(settings, "n_group")?;
        let feed_forward = settings.count(names.feed_forward.unwrap_or("intermediate_size"))?;
        Ok(Some(ExpertSizes {
            count,
            used: settings.count("num_experts_per_tok")?,
            feed_forward,
            shared_feed_forward: match names.shared.map(|shared| shared.length) {
                None => None,
                Some(SharedLength::Setting(key)) => settings.optional_length(key)?,
                Some(SharedLength::Times(key)) => times(settings, key, feed_forward)?,
            },
            sigmoid: names.sigmoid,
            normalized,
            scale: if names.sigmoid { settings.positive("routed_scaling_factor", 1.0)? } else { 1.0 },
        }))
    }

    /// Returns a function that is true for the index of each block with experts.
    pub(super) fn blocks_with_experts(
        &self,
        settings: Settings,
    ) -> Result<Box<dyn Fn(usize) -> bool>, Error> {
        let step = settings.optional_count("decoder_sparse_step")?.unwrap_or(1);
        let dense = settings.optional_numbers("mlp_only_layers")?.unwrap_or_default();
        let dense: HashSet<usize> = dense.into_iter().map(|index| index as usize).collect();
        let (key, default) = self.experts.map_or(("first_k_dense_replace", 0), |names| names.leading_dense);
        let leading = match settings.optional_number(key)? {
            None => default,
            Some(_) => settings.optional_length(key)?.unwrap_or(0),
        };
        Ok(Box::new(move |index| {
            index >= leading && (index + 1).is_multiple_of(step) && !dense.contains(&index)
        }))
    }

    /// Sets the GGUF keys of a network's experts.
    pub(super) fn set_experts(&self, spec: &Spec, set: &mut dyn FnMut(&str, Value)) {
        let (Some(names), Some(experts)) = (self.experts, spec.experts().next()) else { return };
        let count = |n: usize| Value::U32(n as u32);
        let length = experts.feed_forward.down.columns;
        set("expert_count", count(experts.count));
        set("expert_used_count", count(experts.used));
        match names.feed_forward {
            Some(_) => set("expert_feed_forward_length", count(length)),
            None => set("feed_forward_length", count(length)),
        }
        let shared = spec.feed_forwards().find(|f| f.down.name.ends_with("shexp"));
        let shared = shared.map_or(0, |shared| shared.down.columns);
        match names.shared.map(|shared| shared.length) {
            Some(SharedLength::Times(_)) => set("expert_shared_count", count(shared / length)),
            Some(SharedLength::Setting(_)) if shared > 0 => {
                set("expert_shared_feed_forward_length", count(shared));
            }
            _ => {}
        }
        if let Scoring::Sigmoid { .. } = experts.scoring {
            let dense = spec.blocks.iter().take_while(|block| block.experts().next().is_none()).count();
            set("leading_dense_block_count", count(dense));
            set("expert_gating_func", count(GATING[1]));
            set("expert_weights_norm", Value::Bool(experts.normalized));
            set("expert_weights_scale", Value::F32(experts.scale));
        }
    }
}

/// Returns the number of the setting `key`, times `length`; `None` if the number is 0 or absent.
fn times(settings: Settings, key: &str, length: usize) -> Result<Option<usize>, Error> {
    let Some(count) = settings.optional_length(key)? else { return Ok(None) };
    match count.checked_mul(length) {
        Some(product) if product as u64 <= LARGEST_DIMENSION => Ok(Some(product)),
        _ => Err(settings.error(key, format!("at most 2^28 / {length}"), count.to_string())),
    }
}

/// Rejects experts in groups, of which a token uses few.
fn check_groups(settings: Settings, key: &str) -> Result<(), Error> {
    match settings.optional_length(key)? {
        None | Some(1) => Ok(()),
        Some(groups) => {
            Err(settings.error(key, "1 (groups of experts are not built yet)", groups.to_string()))
        }
    }
}
