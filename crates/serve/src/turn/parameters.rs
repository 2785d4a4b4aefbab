//! The parameters that all interfaces share: settings for the choice of tokens, limits, log probabilities.

use crate::http::{ApiError, Fields};
use crate::random::random;
use crate::service::Service;
use kvant::model::{Dry, Sampling, Special};
use serde_json::Value;

/// Largest number of answers to one prompt.
const MOST_ANSWERS: i64 = 64;
/// Largest number of stop texts.
const MOST_STOP_TEXTS: usize = 64;
/// Largest length of a stop text, in bytes.
const LONGEST_STOP_TEXT: usize = 512;
/// Largest number of biases.
const MOST_BIASES: usize = 4096;
/// Largest number of most probable tokens with each token.
pub const MOST_TOP: i64 = 20;

/// Parameters of an answer.
pub struct Parameters {
    /// Largest number of tokens of an answer.
    pub limit: Option<usize>,
    /// Settings for the choice of tokens. The seeds of further answers follow its seed.
    pub sampling: Sampling,
    pub stop: Vec<String>,
    pub ignore_end: bool,
    /// Number of answers.
    pub answers: usize,
    pub stream: bool,
    /// The last event of a stream has the usage.
    pub usage_in_stream: bool,
    /// Events of a stream tell how much of the prompt was read.
    pub progress: bool,
    /// Each event of a stream has the times so far.
    pub timings_per_token: bool,
    /// The response has the prompt as the model reads it.
    pub verbose: bool,
}

/// Fields that change nothing in an answer of this server.
const HARMLESS: &[&str] = &["cache_prompt", "id_slot", "return_tokens"];

impl Parameters {
    /// Reads the parameters.
    ///
    /// # Errors
    /// A value outside its range, or of another type.
    pub fn read(fields: &mut Fields, service: &Service) -> Result<Self, ApiError> {
        for name in HARMLESS {
            fields.take(name);
        }
        let limit = ["max_completion_tokens", "max_tokens", "n_predict"];
        let limit = fields.integer(&limit, -1)?.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let stream = fields.flag("stream")?.unwrap_or(false);
        let options = fields.object("stream_options")?;
        if options.is_some() && !stream {
            return Err(ApiError::parameter("stream_options", "needs `stream`: true"));
        }
        let include = options.and_then(|options| options.get("include_usage").cloned());
        let answers = fields.integer(&["n"], 1)?.unwrap_or(1);
        if answers > MOST_ANSWERS {
            return Err(ApiError::parameter("n", format!("at most {MOST_ANSWERS} answers")));
        }
        Ok(Self {
            limit,
            sampling: sampling(fields, service)?,
            stop: stop_texts(fields, "stop")?,
            ignore_end: fields.flag("ignore_eos")?.unwrap_or(false),
            answers: answers as usize,
            stream,
            progress: fields.flag("return_progress")?.unwrap_or(false) && stream,
            timings_per_token: fields.flag("timings_per_token")?.unwrap_or(false),
            verbose: fields.flag("verbose")?.unwrap_or(service.verbose),
            usage_in_stream: include == Some(Value::Bool(true)),
        })
    }
}

/// Reads stop texts.
///
/// # Errors
/// Too many texts, or one that is too long.
pub fn stop_texts(fields: &mut Fields, name: &'static str) -> Result<Vec<String>, ApiError> {
    let texts = fields.texts(name, MOST_STOP_TEXTS)?;
    if texts.iter().any(|text| text.len() > LONGEST_STOP_TEXT) {
        return Err(ApiError::parameter(name, format!("a text has at most {LONGEST_STOP_TEXT} bytes")));
    }
    Ok(texts)
}

/// Reads the settings for the choice of tokens. Absent ones are those of the service.
fn sampling(fields: &mut Fields, service: &Service) -> Result<Sampling, ApiError> {
    let mut sampling = service.sampling.clone();
    for (setting, names) in [
        (&mut sampling.temperature, &["temperature"][..]),
        (&mut sampling.dynamic_temperature.range, &["dynatemp_range"]),
        (&mut sampling.dynamic_temperature.exponent, &["dynatemp_exponent"]),
        (&mut sampling.top_p, &["top_p"]),
        (&mut sampling.min_p, &["min_p"]),
        (&mut sampling.typical_p, &["typical_p"]),
        (&mut sampling.xtc.probability, &["xtc_probability"]),
        (&mut sampling.xtc.threshold, &["xtc_threshold"]),
        (&mut sampling.repeat_penalty, &["repeat_penalty", "repetition_penalty"]),
        (&mut sampling.frequency_penalty, &["frequency_penalty"]),
        (&mut sampling.presence_penalty, &["presence_penalty"]),
        (&mut sampling.dry.multiplier, &["dry_multiplier"]),
        (&mut sampling.dry.base, &["dry_base"]),
        (&mut sampling.mirostat.target_entropy, &["mirostat_tau"]),
        (&mut sampling.mirostat.learning_rate, &["mirostat_eta"]),
    ] {
        if let Some(value) = fields.number(names)? {
            *setting = value;
        }
    }
    // -1 is off, as in llama.cpp.
    if let Some(sigma) = fields.number(&["top_n_sigma"])? {
        sampling.top_n_sigma = if sigma == -1.0 { 0.0 } else { sigma };
    }
    if let Some(count) = fields.integer(&["top_k"], -1)? {
        sampling.top_k = count.max(0) as usize;
    }
    for (setting, name) in [
        (&mut sampling.repeat_last_n, "repeat_last_n"),
        (&mut sampling.dry.penalty_last_n, "dry_penalty_last_n"),
    ] {
        if let Some(count) = fields.integer(&[name], -1)? {
            // -1 is the whole context.
            *setting = usize::try_from(count).unwrap_or(usize::MAX);
        }
    }
    if let Some(length) = fields.integer(&["dry_allowed_length"], 0)? {
        sampling.dry.allowed_length = length as usize;
    }
    let breakers = fields.texts("dry_sequence_breakers", Dry::MOST_BREAKERS)?;
    if !breakers.is_empty() {
        sampling.dry.sequence_breakers = breakers;
    }
    if let Some(version) = fields.integer(&["mirostat"], 0)? {
        sampling.mirostat.version = u32::try_from(version).unwrap_or(u32::MAX);
    }
    if let Some(biases) = fields.take("logit_bias") {
        sampling.logit_bias = logit_bias(&biases, service)?;
    }
    // -1 draws a seed, as in llama.cpp.
    let seed = fields.seed()?.filter(|seed| *seed != -1).map(i64::cast_unsigned);
    sampling.seed = seed.or(service.seed).unwrap_or_else(|| {
        // Every JSON reader keeps 53 bits exactly.
        random() >> 11
    });
    Ok(sampling)
}

/// Reads biases: an object of ids and numbers, as OpenAI's, or a list of pairs, as llama.cpp's. A text stands for all of its
/// tokens; `false` forbids a token.
fn logit_bias(value: &Value, service: &Service) -> Result<Vec<(u32, f32)>, ApiError> {
    let wrong = || ApiError::parameter("logit_bias", "expected token ids or texts, and numbers");
    let pairs: Option<Vec<(Value, &Value)>> = match value {
        Value::Object(biases) => {
            // The names of an object are texts, also if they are ids.
            let id = |name: &String| name.parse::<u32>().map_or_else(|_| name.as_str().into(), Value::from);
            Some(biases.iter().map(|(name, value)| (id(name), value)).collect())
        }
        Value::Array(biases) => biases
            .iter()
            .map(|pair| match pair.as_array()?.as_slice() {
                [token, value] => Some((token.clone(), value)),
                _ => None,
            })
            .collect(),
        _ => None,
    };
    let mut read = Vec::new();
    for (token, value) in pairs.ok_or_else(wrong)? {
        let bias = match value {
            Value::Bool(false) => f32::NEG_INFINITY,
            value => value.as_f64().ok_or_else(wrong)? as f32,
        };
        match token {
            Value::String(text) => {
                let ids = service.tokenizer().encode(&text, Special { add: false, parse: false });
                let ids = ids.map_err(|error| ApiError::parameter("logit_bias", error))?;
                read.extend(ids.into_iter().map(|id| (id, bias)));
            }
            token => {
                let id = token.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong)?;
                let size = service.engine.network().spec().vocabulary;
                if id as usize >= size {
                    let message = format!("the vocabulary has no token {id}; its size is {size}");
                    return Err(ApiError::parameter("logit_bias", message));
                }
                read.push((id, bias));
            }
        }
        if read.len() > MOST_BIASES {
            return Err(ApiError::parameter("logit_bias", format!("at most {MOST_BIASES} tokens")));
        }
    }
    Ok(read)
}
