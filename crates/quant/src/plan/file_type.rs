//! Upstream's file types: rules that give each tensor of a network its format.
//!
//! Source: llama.cpp's `src/llama-quant.cpp` (`llama_tensor_get_type_impl`, `tensor_type_fallback`). Upstream has
//! different rules with and without importance data. Methods that use activations follow the rules with importance data.
//! Upstream's rules for one map of queries, keys and values are those for values. The rules for Falcon are not
//! implemented.

use crate::solve::Need;
use kvant_core::{FormatRef, format};
use kvant_model::{BlockSpec, Entry, Spec};

/// A file type, with its name for users and upstream's number in `general.file_type`.
#[derive(Debug, PartialEq, Eq)]
pub struct FileType {
    /// The value of `--format`, for example `q4_k_m`.
    pub name: &'static str,
    /// The format of most tensors.
    pub format: &'static str,
    /// Upstream's `LLAMA_FTYPE_*`.
    pub number: u32,
}

/// All file types that can be written. Every format with an encoder has a file type with the format's name.
pub static FILE_TYPES: &[FileType] = &[
    FileType { name: "f32", format: "f32", number: 0 },
    FileType { name: "f16", format: "f16", number: 1 },
    FileType { name: "bf16", format: "bf16", number: 32 },
    FileType { name: "q8_0", format: "q8_0", number: 7 },
    FileType { name: "q4_0", format: "q4_0", number: 2 },
    FileType { name: "q4_1", format: "q4_1", number: 3 },
    FileType { name: "q5_0", format: "q5_0", number: 8 },
    FileType { name: "q5_1", format: "q5_1", number: 9 },
    FileType { name: "iq4_nl", format: "iq4_nl", number: 25 },
    FileType { name: "mxfp4", format: "mxfp4", number: 38 },
    FileType { name: "q4_k", format: "q4_k", number: 15 },
    FileType { name: "q5_k", format: "q5_k", number: 17 },
    FileType { name: "q6_k", format: "q6_k", number: 18 },
    FileType { name: "iq4_xs", format: "iq4_xs", number: 30 },
    FileType { name: "q4_k_s", format: "q4_k", number: 14 },
    FileType { name: "q4_k_m", format: "q4_k", number: 15 },
    FileType { name: "q5_k_s", format: "q5_k", number: 16 },
    FileType { name: "q5_k_m", format: "q5_k", number: 17 },
];

/// The read-only formats, and upstream's numbers of the file types of models that consist mostly of them. Source:
/// llama.cpp's `src/llama-model-loader.cpp`.
static READ_ONLY_FILE_TYPES: &[(&str, u32)] = &[
    ("q2_k", 10),
    ("q3_k", 12),
    ("iq2_xxs", 19),
    ("iq2_xs", 20),
    ("iq3_xxs", 23),
    ("iq1_s", 24),
    ("iq3_s", 26),
    ("iq2_s", 28),
    ("iq1_m", 31),
    ("tq1_0", 36),
    ("tq2_0", 37),
    ("nvfp4", 39),
    ("q1_0", 40),
    ("q2_0", 41),
];

/// Returns upstream's number of the file type of a model that consists mostly of this format; 0 (`f32`) for an unknown
/// name.
pub fn format_file_type(name: &str) -> u32 {
    let written = FILE_TYPES.iter().map(|t| (t.name, t.number));
    let mut all = written.chain(READ_ONLY_FILE_TYPES.iter().copied());
    all.find(|(format, _)| *format == name).map_or(0, |(_, number)| number)
}

impl FileType {
    /// Returns the file type with this name.
    pub fn by_name(name: &str) -> Option<&'static FileType> {
        FILE_TYPES.iter().find(|t| t.name == name)
    }

    /// Returns the name of the file type whose rules apply. As in upstream's quantizer, `q4_k` and `q5_k` mean the `_m`
    /// mixes.
    fn rules(&self) -> &'static str {
        match self.name {
            "q4_k" => "q4_k_m",
            "q5_k" => "q5_k_m",
            name => name,
        }
    }

    /// The format of most tensors.
    pub fn format(&self) -> FormatRef {
        // All names in the table are in the registry; a unit test checks this.
        format::by_name(self.format).unwrap_or(&format::F32)
    }
}

/// A format that the user sets for all tensors whose names match a pattern.
#[derive(Clone, Debug)]
pub struct Override {
    /// Regular expression for GGUF names. The match can be at any position in the name.
    pub pattern: regex::Regex,
    /// The requested format.
    pub format: FormatRef,
}

/// The kind of tensors that an [`Override`] matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// At least one tensor that a file type or an override can change.
    Changes,
    /// Only tensors that always keep their format (norms, biases, vectors). The value is the name of the first of these
    /// tensors.
    Kept(String),
    /// No tensor.
    Nothing,
}

impl Override {
    /// Returns the kind of tensors in `entries` that the pattern matches.
    pub fn reach(&self, entries: &[Entry]) -> Reach {
        let mut named = entries.iter().filter(|entry| self.pattern.is_match(&entry.name)).peekable();
        let Some(first) = named.peek().map(|entry| entry.name.clone()) else { return Reach::Nothing };
        if named.any(is_quantizable) { Reach::Changes } else { Reach::Kept(first) }
    }
}

/// One tensor and its new format.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The tensor.
    pub entry: Entry,
    /// The new format.
    pub format: FormatRef,
    /// The wanted format, if the tensor's row length does not allow the wanted format; otherwise `None`.
    pub fallback_from: Option<FormatRef>,
}

impl Assignment {
    /// Returns true if the tensor is solved. A tensor is solved if its format changes, or if the wanted format does not
    /// fit its rows. In the second case the tensor can compensate for errors of other tensors.
    pub fn changes(&self) -> bool {
        self.format != self.entry.format || self.fallback_from.is_some()
    }
}

/// Returns true for the tensors that upstream always stores in `f32`: vectors, the routers of experts, and the factors of
/// shared experts. They are small, and their errors have a large effect.
pub fn is_always_wide(entry: &Entry) -> bool {
    entry.is_vector() || entry.name.contains("ffn_gate_inp")
}

/// Returns true if upstream quantizes this tensor: a matrix whose name ends in `weight`, except norms, learned positions,
/// token types, convolutions, the projection of layer embeddings, and routers.
fn is_quantizable(entry: &Entry) -> bool {
    !is_always_wide(entry)
        && entry.name.ends_with("weight")
        && entry.name != "position_embd.weight"
        && entry.name != "per_layer_model_proj.weight"
        && entry.name != "token_types.weight"
        && !entry.name.contains("_norm.weight")
        && !entry.name.contains("ssm_conv1d")
        && !entry.name.contains("shortconv.conv")
}

/// Assigns every tensor its format. If `pure` is true, the per-tensor rules are disabled, but the fall-back formats
/// apply. Some rules depend on `need`, the data that the method needs. If several overrides match a tensor, the last
/// matching override applies.
pub fn assign(
    spec: &Spec,
    entries: &[Entry],
    file_type: &FileType,
    pure: bool,
    need: Need,
    overrides: &[Override],
) -> Vec<Assignment> {
    let assigned = entries.iter().map(|entry| {
        let keep = Assignment { entry: entry.clone(), format: entry.format, fallback_from: None };
        if !is_quantizable(entry) {
            return keep;
        }
        let overridden = overrides.iter().rev().find(|o| o.pattern.is_match(&entry.name)).map(|o| o.format);
        let wanted = match overridden {
            Some(format) => format,
            None if pure || file_type.format().grid().is_none() => file_type.format(),
            None => by_rule(spec, entry, file_type, need > Need::Nothing),
        };
        let format = fall_back(wanted, entry.shape.columns());
        Assignment { fallback_from: (format != wanted).then_some(wanted), format, ..keep }
    });
    assigned.collect()
}

/// Returns true if the layer with index `layer` gets more bits in the `_m` mixes. These are the first eighth and the
/// last eighth of all layers, and every third layer between these two parts.
fn use_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// Returns the format of one tensor by upstream's rules, before the check of the row length. `calibrated` is true for
/// methods that use activations.
fn by_rule(spec: &Spec, entry: &Entry, file_type: &FileType, calibrated: bool) -> FormatRef {
    let base = file_type.format();
    let named = |name: &str| format::by_name(name).unwrap_or(base);
    let rules = file_type.rules();
    let name = entry.name.as_str();
    // Upstream treats the embedding of a network without a head like a tied one.
    let tied = spec.output.head.own().is_none();
    let is_table = ["token_embd.weight", "per_layer_token_embd.weight"].contains(&name);
    if name == "output.weight" || (tied && is_table) {
        return if rules == "mxfp4" || !entry.shape.columns().is_multiple_of(base.block().elements) {
            named("q8_0")
        } else if base.name() == "q8_0" {
            base
        } else {
            named("q6_k")
        };
    }
    let layers = spec.blocks.len();
    let mut parts = name.split('.');
    let (Some("blk"), Some(Ok(layer)), Some(map)) =
        (parts.next(), parts.next().map(str::parse::<usize>), parts.next())
    else {
        return base;
    };
    let queries_per_kv_head = spec
        .blocks
        .get(layer)
        .and_then(|block| block.attentions().next())
        .map_or(1, |a| a.heads / a.kv_heads);
    let eight_experts = spec.experts().next().is_some_and(|experts| experts.count == 8);
    match map {
        "attn_k" if eight_experts => named("q8_0"),
        "attn_output" if eight_experts => match rules {
            "iq4_nl" | "q4_k_s" | "q4_k_m" | "iq4_xs" => named("q5_k"),
            _ => base,
        },
        "attn_v" | "attn_qkv" => {
            // Only blocks with such a map count.
            let has_map = |block: &&BlockSpec| {
                block.slots().any(|slot| slot.name.ends_with(".attn_v") || slot.name.ends_with(".attn_qkv"))
            };
            let count = |blocks: usize| spec.blocks.iter().take(blocks).filter(has_map).count();
            let chosen = match rules {
                "iq4_nl" | "iq4_xs" if queries_per_kv_head >= 4 => "q5_k",
                "q4_k_m" | "q5_k_m" if use_more_bits(count(layer), count(layers)) => "q6_k",
                "q4_k_s" if count(layer) < 4 => "q5_k",
                _ => base.name(),
            };
            if eight_experts {
                return named("q8_0");
            }
            // Upstream treats every network with 80 layers and grouped queries as a 70B model.
            if layers == 80 && queries_per_kv_head > 1 && chosen == "q4_k" {
                named("q5_k")
            } else {
                named(chosen)
            }
        }
        "ffn_down" | "ffn_down_exps" | "ffn_down_shexp" => match rules {
            "q4_k_m" | "q5_k_m" if use_more_bits(layer, layers) => named("q6_k"),
            "q4_k_s" if layer < layers / 8 => named("q5_k"),
            "iq4_nl" | "iq4_xs" if layer < layers / 8 && !calibrated => named("q5_k"),
            "q4_0" if layer < layers / 8 && calibrated => named("q4_1"),
            "q5_0" if layer < layers / 8 && calibrated => named("q5_1"),
            _ => base,
        },
        _ => base,
    }
}

/// Returns the wanted format if rows of this length allow it, otherwise upstream's fall-back format.
fn fall_back(wanted: FormatRef, columns: usize) -> FormatRef {
    let fits = |format: FormatRef| columns.is_multiple_of(format.block().elements);
    if fits(wanted) {
        return wanted;
    }
    let second = match wanted.name() {
        "q4_k" => "q5_0",
        "q5_k" => "q5_1",
        "q6_k" => "q8_0",
        "iq4_xs" => "iq4_nl",
        _ => "f16",
    };
    format::by_name(second).filter(|f| fits(*f)).unwrap_or(&format::F16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_a_file_type_and_only_formats_with_an_encoder_are_written() {
        for file_type in FILE_TYPES {
            let format = format::by_name(file_type.format).expect(file_type.name);
            assert!(format.encoder().is_some(), "{}", file_type.name);
        }
        for format in format::FORMATS {
            let name = format.name();
            assert_eq!(FileType::by_name(name).is_some(), format.encoder().is_some(), "{name}");
            assert_eq!(format_file_type(name) == 0, name == "f32", "{name}");
        }
    }

    #[test]
    fn layers_with_more_bits_are_the_ends_and_every_third() {
        let more: Vec<usize> = (0..30).filter(|&l| use_more_bits(l, 30)).collect();
        assert_eq!(more, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]);
    }
}
