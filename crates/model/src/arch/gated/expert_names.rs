//! Experts in a family's settings, and the names and the layout of their tensors in a Hugging Face checkpoint.

use crate::Source;
use crate::arch::in_block;
use kvant_io::Checkpoint;

/// Experts in a family's settings and in its names of tensors.
#[derive(Clone, Copy)]
pub(in crate::arch) struct ExpertNames {
    /// The setting of the number of experts.
    pub count: &'static str,
    /// The setting of an expert's inner length; `None` if it is that of all feed-forward networks.
    pub feed_forward: Option<&'static str>,
    /// The setting of a shared expert's inner length, if the family has shared experts.
    pub shared_feed_forward: Option<&'static str>,
    /// The prefix of the tensors in a block of a Hugging Face checkpoint.
    pub prefix: &'static str,
    /// The name of the router in a Hugging Face checkpoint.
    pub router: &'static str,
    /// The tensors of the experts in a Hugging Face checkpoint.
    pub layout: ExpertLayout,
    /// True if the factors of a token's experts have the sum 1.
    pub normalized: bool,
    /// The setting for `normalized`, with the value of an absent key. GGUF has no key for it.
    pub normalized_key: Option<(&'static str, bool)>,
}

/// The tensors of the experts in a Hugging Face checkpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::arch) enum ExpertLayout {
    /// One tensor for each map of each expert, with these names of the gate, up and down projections.
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
    /// Returns the name of the router's tensor `name`, or of a stacked tensor of experts; `None` for other tensors.
    pub fn hugging_face_name(&self, name: &str) -> Option<String> {
        let (base, suffix) = name.rsplit_once('.')?;
        let (index, map) = in_block(base);
        let prefix = format!("model.layers.{index}.{}", self.prefix);
        if map == "ffn_gate_inp" {
            return Some(format!("{prefix}.{}.{suffix}", self.router));
        }
        let stacked = match (self.layout, map) {
            (ExpertLayout::Stacked, "ffn_gate_exps" | "ffn_up_exps") => "gate_up_proj",
            (ExpertLayout::Stacked, "ffn_down_exps") => "down_proj",
            _ => return None,
        };
        let end = if suffix == "bias" { "_bias" } else { "" };
        Some(format!("{prefix}.experts.{stacked}{end}"))
    }

    /// Returns the source of the tensor `name` of all of `count` experts; `None` for other tensors.
    pub fn source(&self, checkpoint: &dyn Checkpoint, count: usize, name: &str) -> Option<Source> {
        let (base, suffix) = name.rsplit_once('.')?;
        let (index, map) = in_block(base);
        let projection = MAPS.into_iter().position(|other| other == map)?;
        if let ExpertLayout::Separate(maps) = self.layout {
            let map = maps[projection];
            let expert = |e| format!("model.layers.{index}.{}.experts.{e}.{map}.{suffix}", self.prefix);
            return Some(Source::Stack((0..count).map(expert).collect()));
        }
        let from = self.hugging_face_name(name)?;
        // Gate and up alternate.
        let (start, step) = [(0, 2), (1, 2), (0, 1)][projection];
        let packed = MXFP4_ENDS.map(|end| format!("{from}{end}"));
        Some(if checkpoint.info(&from).is_none() && checkpoint.info(&packed[0]).is_some() {
            Source::Mxfp4Rows { names: packed, start, step }
        } else {
            Source::ExpertRows { name: from, transposed: suffix == "weight", start, step }
        })
    }
}
