//! Rotary embeddings in the settings of a checkpoint: `config.json` and GGUF metadata.
//!
//! Source: `transformers`' `modeling_rope_utils.py`; llama.cpp's `src/llama-model.cpp` and its `conversion/base.py`.

use super::settings::Settings;
use crate::weights::{LONG_ROPE_FACTORS, ROPE_FACTORS, SHORT_ROPE_FACTORS};
use crate::{Error, Rope, RopeLayout, RopeScaling, Spec};
use kvant_io::{Checkpoint, Value};

/// The largest head size: many times that of published models. Every attention has its own list of frequency factors, so
/// a larger head would let a small file take much memory.
const LARGEST_HEAD: usize = 8192;

/// The properties of a network that its rotary embeddings depend on.
#[derive(Clone, Copy)]
pub(super) struct RopeContext {
    pub head_size: usize,
    /// The trained context length, in positions.
    pub context: usize,
    /// The layout in GGUF files.
    pub layout: RopeLayout,
    /// True if the ends of YaRN's ramp are rounded. GGUF has no key for it.
    pub yarn_rounded: bool,
    /// The name of the base of the frequencies in a `config.json` without `rope_parameters`.
    pub theta_key: &'static str,
    /// The name of the rotated part of a head in a `config.json` without `rope_parameters`.
    pub part_key: &'static str,
    /// The rotated part of a head, if the settings have none.
    pub part: f32,
}

impl RopeContext {
    fn check(&self, settings: Settings) -> Result<(), Error> {
        if self.head_size <= LARGEST_HEAD {
            return Ok(());
        }
        Err(settings.error("head size", format!("at most {LARGEST_HEAD}"), self.head_size.to_string()))
    }

    /// A network with the usual names of settings, and a context length of 0.
    pub fn new(head_size: usize, layout: RopeLayout) -> Self {
        Self {
            head_size,
            context: 0,
            layout,
            theta_key: "rope_theta",
            part_key: "partial_rotary_factor",
            part: 1.0,
            yarn_rounded: true,
        }
    }
}

/// The rotary embeddings of a network with two kinds of attention.
pub(super) struct Ropes {
    /// For attentions that read all earlier positions.
    pub full: Rope,
    /// For attentions with a window.
    pub windowed: Rope,
}

/// Checks that the rotated part is an even number of elements, at most the head size.
pub(super) fn check_rotated(settings: &Settings, rope: &Rope, head_size: usize) -> Result<(), Error> {
    if rope.rotated <= head_size && rope.rotated.is_multiple_of(2) {
        return Ok(());
    }
    let expected = format!("even, at most {head_size}");
    Err(settings.error("rotated dimensions", expected, rope.rotated.to_string()))
}

/// YaRN's default factor of the sines and cosines (arXiv 2309.00071, equation 22).
fn yarn_attention_factor(factor: f32) -> f32 {
    if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
}

/// LongRoPE's default factor of the sines and cosines (arXiv 2402.13753, section 3.2), for a context that was extended
/// from `original` positions by `factor`.
fn long_attention_factor(factor: f32, original: usize) -> f32 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original.max(2) as f32).ln()).sqrt() }
}

/// Reads the rotary embeddings of a `config.json`.
///
/// `transformers` 5 has all settings in `rope_parameters`, with one section for each kind of attention if the kinds
/// differ. Older versions have `rope_theta` outside `rope_scaling`, and `rope_local_base_freq` for windows.
pub(super) fn from_json(settings: Settings, of: RopeContext) -> Result<Ropes, Error> {
    of.check(settings)?;
    let outer_theta = settings.positive(of.theta_key, 10_000.0)?;
    let section = match settings.section("rope_parameters")? {
        Some(section) => Some(section),
        None => settings.section("rope_scaling")?,
    };
    if let Some(section) = section
        && let Some(full) = section.section("full_attention")?
    {
        let windowed = section.section("sliding_attention")?.unwrap_or(full);
        let read = |section: Settings| {
            let theta = section.positive("rope_theta", outer_theta)?;
            rope_from_json(settings, Some(section), theta, of)
        };
        return Ok(Ropes { full: read(full)?, windowed: read(windowed)? });
    }
    let theta = match section {
        Some(section) => section.positive("rope_theta", outer_theta)?,
        None => outer_theta,
    };
    let full = rope_from_json(settings, section, theta, of)?;
    let windowed = match settings.optional_positive("rope_local_base_freq")? {
        Some(theta) => Rope { theta, scaling: RopeScaling::None, ..full.clone() },
        None => full.clone(),
    };
    Ok(Ropes { full, windowed })
}

fn rope_from_json(
    settings: Settings,
    section: Option<Settings>,
    theta: f32,
    of: RopeContext,
) -> Result<Rope, Error> {
    let RopeContext { head_size, layout, .. } = of;
    let inner =
        section.map(|section| section.optional_number("partial_rotary_factor")).transpose()?.flatten();
    let part = match inner {
        Some(part) => part,
        None => settings.positive(of.part_key, of.part)?,
    };
    if !(part > 0.0 && part <= 1.0) {
        let expected = "a number above 0, at most 1";
        return Err(settings.error("partial_rotary_factor", expected, part.to_string()));
    }
    let rotated = (head_size as f32 * part) as usize;
    if let Some(section) = section
        && section.optional_text("rope_type")? == Some("proportional")
    {
        let factor = section.positive("factor", 1.0)?;
        let scaling = RopeScaling::Factors(Rope::proportional_factors(head_size, rotated, factor));
        return Ok(Rope { theta, rotated: head_size, layout, scaling });
    }
    let scaling = match section {
        None => RopeScaling::None,
        Some(section) => scaling_from_json(settings, section, theta, rotated, of)?,
    };
    Ok(Rope { theta, rotated, layout, scaling })
}

fn scaling_from_json(
    settings: Settings,
    rope: Settings,
    theta: f32,
    rotated: usize,
    RopeContext { context, yarn_rounded, .. }: RopeContext,
) -> Result<RopeScaling, Error> {
    let kind = match rope.optional_text("rope_type")? {
        Some(kind) => Some(kind),
        None => rope.optional_text("type")?,
    };
    let factor = || match rope.optional_number("factor")? {
        Some(x) if x >= 1.0 => Ok(x),
        Some(x) => Err(rope.error("rope scaling: factor", "a number from 1 up", x.to_string())),
        None => Err(rope.error("rope scaling: factor", "a number from 1 up", "nothing")),
    };
    let original = || -> Result<usize, Error> {
        if let Some(found) = rope.optional_count("original_max_position_embeddings")? {
            return Ok(found);
        }
        Ok(settings.optional_count("original_max_position_embeddings")?.unwrap_or(context))
    };
    match kind {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear(factor()?)),
        // Dynamic scaling changes nothing within the trained context (see `rope.rs`).
        Some("dynamic") => {
            factor()?;
            Ok(RopeScaling::None)
        }
        Some("llama3") => {
            let low = rope.positive("low_freq_factor", 1.0)?;
            let high = rope.positive("high_freq_factor", 4.0)?;
            if high <= low {
                return Err(rope.error("high_freq_factor", format!("more than {low}"), high.to_string()));
            }
            let factors = Rope::llama3_factors(theta, rotated, factor()?, low, high, original()?);
            Ok(RopeScaling::Factors(factors))
        }
        Some("yarn") => {
            for key in ["mscale", "mscale_all_dim"] {
                if rope.optional_number(key)?.is_some_and(|x| x != 0.0) {
                    return Err(rope.error(key, "nothing (not built yet)", "a number"));
                }
            }
            let found = rope.optional_flag("truncate")?.unwrap_or(true);
            if found != yarn_rounded {
                let expected = format!("{yarn_rounded}, because GGUF has no key for other values");
                return Err(rope.error("truncate", expected, found.to_string()));
            }
            let factor = factor()?;
            Ok(RopeScaling::Yarn {
                factor,
                original_context: original()?,
                beta_fast: rope.positive("beta_fast", 32.0)?,
                beta_slow: rope.positive("beta_slow", 1.0)?,
                rounded: yarn_rounded,
                attention_factor: rope.positive("attention_factor", yarn_attention_factor(factor))?,
            })
        }
        Some("longrope" | "su") => {
            let original_context = original()?;
            let factors = |key: &str| {
                let found = rope.optional_numbers(key)?.unwrap_or_default();
                if found.len() == rotated / 2 && found.iter().all(|x| *x > 0.0) {
                    return Ok(found);
                }
                Err(rope.error(
                    key,
                    format!("{} numbers above zero", rotated / 2),
                    format!("{} numbers", found.len()),
                ))
            };
            let factor = rope.positive("factor", context as f32 / original_context as f32)?;
            Ok(RopeScaling::Long {
                short: factors("short_factor")?,
                long: factors("long_factor")?,
                original_context,
                attention_factor: rope
                    .positive("attention_factor", long_attention_factor(factor, original_context))?,
            })
        }
        Some(other) => Err(rope.error(
            "rope_type",
            "default, linear, dynamic, llama3, yarn, longrope or proportional",
            other,
        )),
    }
}

/// Reads the rotary embeddings of GGUF metadata with keys of `architecture`. `windowed_theta` is the base for windows if
/// the file does not have one; `None` means that of the other attentions.
pub(super) fn from_gguf(
    settings: Settings,
    checkpoint: &dyn Checkpoint,
    architecture: &str,
    windowed_theta: Option<f32>,
    of: RopeContext,
) -> Result<Ropes, Error> {
    of.check(settings)?;
    let key = |key: &str| format!("{architecture}.rope.{key}");
    let RopeContext { head_size, context, layout, yarn_rounded, .. } = of;
    let rotated = settings.optional_count(&key("dimension_count"))?.unwrap_or(head_size);
    let theta = settings.positive(&key("freq_base"), 10_000.0)?;
    // Older files have only the divisor, without a scaling type.
    let old_factor = settings.positive(&key("scale_linear"), 1.0)?;
    let factor = settings.positive(&key("scaling.factor"), old_factor)?;
    let original_context =
        settings.optional_count(&key("scaling.original_context_length"))?.unwrap_or(context);
    let vector = |name: &str| rope_vector(settings, checkpoint, name, rotated / 2);
    let kind = settings.optional_text(&key("scaling.type"))?;
    let long = (vector(SHORT_ROPE_FACTORS)?, vector(LONG_ROPE_FACTORS)?);
    let scaling = match (kind, long) {
        (None | Some("longrope" | "none"), (Some(short), Some(long))) => {
            let attention_factor = settings.positive(&key("scaling.attn_factor"), 1.0)?;
            RopeScaling::Long { short, long, original_context, attention_factor }
        }
        (None | Some("none" | "longrope"), _) if factor == 1.0 => RopeScaling::None,
        (Some("none"), _) => RopeScaling::None,
        (None | Some("linear"), _) => RopeScaling::Linear(factor),
        (Some("yarn"), _) => RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast: settings.positive(&key("scaling.yarn_beta_fast"), 32.0)?,
            beta_slow: settings.positive(&key("scaling.yarn_beta_slow"), 1.0)?,
            rounded: yarn_rounded,
            attention_factor: settings.positive(&key("scaling.attn_factor"), 1.0)?
                * yarn_attention_factor(factor),
        },
        (Some(other), _) => {
            let expected = "none, linear, yarn, or longrope with its factors";
            return Err(settings.error(&key("scaling.type"), expected, other));
        }
    };
    let scaling = match vector(ROPE_FACTORS)? {
        None => scaling,
        Some(_) if scaling != RopeScaling::None => {
            return Err(settings.error(&key("scaling.type"), "none beside rope_freqs.weight", "a scaling"));
        }
        Some(factors) => RopeScaling::Factors(factors),
    };
    let full = Rope { theta, rotated, layout, scaling };
    // A family with its own base for windows does not scale the frequencies of windows.
    let scaling = if windowed_theta.is_some() { RopeScaling::None } else { full.scaling.clone() };
    let windowed_theta = settings.optional_positive(&key("freq_base_swa"))?.or(windowed_theta);
    let windowed = Rope { theta: windowed_theta.unwrap_or(theta), scaling, ..full.clone() };
    Ok(Ropes { full, windowed })
}

/// Returns a vector of frequency factors, or `None` if the file does not have it.
fn rope_vector(
    settings: Settings,
    checkpoint: &dyn Checkpoint,
    name: &str,
    length: usize,
) -> Result<Option<Vec<f32>>, Error> {
    let Some(info) = checkpoint.info(name) else { return Ok(None) };
    if info.shape.elements() != length {
        return Err(Error::TensorShape {
            path: checkpoint.path().to_owned(),
            tensor: name.into(),
            expected: format!("[{length}]"),
            found: info.shape.to_string(),
        });
    }
    let factors = checkpoint.tensor(name)?.decode();
    if let Some(bad) = factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
        return Err(settings.error(name, "finite numbers above zero", bad.to_string()));
    }
    Ok(Some(factors))
}

/// Returns a sentence if llama.cpp rounds the ends of YaRN's ramp, and the network's frequencies differ from these.
pub(super) fn lost_in_llama_cpp(spec: &Spec) -> Option<String> {
    let differs = |rope: &Rope| {
        let RopeScaling::Yarn { rounded: false, .. } = &rope.scaling else { return false };
        let mut other = rope.clone();
        if let RopeScaling::Yarn { rounded, .. } = &mut other.scaling {
            *rounded = true;
        }
        other.frequencies(spec.context) != rope.frequencies(spec.context)
    };
    let sentence = "YaRN without rounded ends of its ramp (`truncate` false): llama.cpp ignores this and rounds them, kvant \
                    doesn't";
    spec.ropes().into_iter().any(differs).then(|| sentence.to_owned())
}

/// Sets the keys of a network's rotary embeddings. `full` is that of attentions that read all earlier positions,
/// `windowed` that of attentions with a window.
pub(super) fn to_gguf(full: Option<&Rope>, windowed: Option<&Rope>, set: &mut dyn FnMut(&str, Value)) {
    let count = |n: usize| Value::U32(n as u32);
    let Some(rope) = full.or(windowed) else { return };
    set("rope.freq_base", Value::F32(rope.theta));
    set("rope.dimension_count", count(rope.rotated));
    if let Some(windowed) = windowed
        && windowed.theta != rope.theta
    {
        set("rope.freq_base_swa", Value::F32(windowed.theta));
    }
    match &rope.scaling {
        RopeScaling::None | RopeScaling::Factors(_) => {}
        RopeScaling::Linear(factor) => {
            set("rope.scaling.type", Value::String("linear".into()));
            set("rope.scaling.factor", Value::F32(*factor));
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, .. } => {
            set("rope.scaling.type", Value::String("yarn".into()));
            set("rope.scaling.factor", Value::F32(*factor));
            set("rope.scaling.original_context_length", count(*original_context));
            set("rope.scaling.yarn_beta_fast", Value::F32(*beta_fast));
            set("rope.scaling.yarn_beta_slow", Value::F32(*beta_slow));
            // llama.cpp multiplies this key's value by YaRN's default factor, which it computes from the context
            // extension factor.
            let default_factor = yarn_attention_factor(*factor);
            if (attention_factor / default_factor - 1.0).abs() > 1e-6 {
                set("rope.scaling.attn_factor", Value::F32(attention_factor / default_factor));
            }
        }
        RopeScaling::Long { original_context, attention_factor, .. } => {
            set("rope.scaling.type", Value::String("longrope".into()));
            set("rope.scaling.original_context_length", count(*original_context));
            set("rope.scaling.attn_factor", Value::F32(*attention_factor));
        }
    }
}
