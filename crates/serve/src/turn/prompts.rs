//! Raw prompts: texts, token ids, and mixtures of both.

use crate::http::{ApiError, Fields};
use kvant::model::{Special, Tokenizer};
use serde_json::Value;

/// Largest number of prompts in a request, and of answers to all of them.
const MOST_PROMPTS: usize = 256;

/// Reads the field `prompt`: one prompt, or a list of prompts. A prompt is a text, a list of token ids and texts, or an
/// object with a `prompt_string`, as llama.cpp's server accepts them.
///
/// `answers` is the number of answers to each prompt.
///
/// # Errors
/// Another form; too many prompts or answers.
pub fn prompts(
    fields: &mut Fields,
    tokenizer: &Tokenizer,
    answers: usize,
) -> Result<Vec<Vec<u32>>, ApiError> {
    let name = "prompt";
    let value = fields.take(name).ok_or_else(|| ApiError::parameter(name, "is necessary"))?;
    let one = |value: &Value| encoded(name, value, tokenizer);
    let prompts: Vec<Vec<u32>> = match value {
        Value::Array(values) if is_list_of_prompts(&values) => {
            if values.len() > MOST_PROMPTS {
                return Err(ApiError::parameter(name, format!("at most {MOST_PROMPTS} prompts")));
            }
            values.iter().map(one).collect::<Result<_, _>>()?
        }
        value => vec![one(&value)?],
    };
    if prompts.len() * answers > MOST_PROMPTS {
        return Err(ApiError::parameter(name, format!("at most {MOST_PROMPTS} answers")));
    }
    Ok(prompts)
}

/// True if a list has prompts; a list with a number is one prompt of ids and texts.
pub fn is_list_of_prompts(values: &[Value]) -> bool {
    !values.is_empty() && !values.iter().any(Value::is_number)
}

/// Encodes one prompt. Control tokens in its texts are parsed; only a text at the begin gets the tokens that the tokenizer
/// adds.
///
/// # Errors
/// Another form; parts that are not text.
pub fn encoded(name: &str, value: &Value, tokenizer: &Tokenizer) -> Result<Vec<u32>, ApiError> {
    let wrong = || ApiError::parameter(name, "expected a text, token ids, or a list of these");
    let encode = |text: &str, add: bool| {
        let encoded = tokenizer.encode(text, Special { add, parse: true });
        let mut tokens = encoded.map_err(|error| ApiError::invalid(error.to_string()))?;
        if add && tokens.is_empty() {
            tokens.extend(tokenizer.bos());
        }
        Ok(tokens)
    };
    match value {
        Value::String(text) => encode(text, true),
        Value::Array(parts) => {
            let mut tokens = Vec::with_capacity(parts.len());
            for (index, part) in parts.iter().enumerate() {
                match part {
                    Value::String(text) => tokens.extend(encode(text, index == 0)?),
                    id => {
                        let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong)?;
                        tokens.push(id);
                    }
                }
            }
            Ok(tokens)
        }
        Value::Object(fields) if fields.contains_key("multimodal_data") => {
            Err(ApiError::not_supported("multimodal_data", "the model reads text only"))
        }
        Value::Object(fields) => match fields.get("prompt_string") {
            Some(Value::String(text)) => encode(text, true),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}
