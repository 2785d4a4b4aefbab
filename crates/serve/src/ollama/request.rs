//! Requests in Ollama's form.

use crate::constraint::Grammar;
use crate::http::{ApiError, Fields};
use crate::openai::messages;
use crate::service::Service;
use crate::turn::{Common, Inputs, Parameters, Parts, Tools, Turn, encoded};
use kvant::model::{Ending, Message};
use serde_json::{Map, Value};

/// The path of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/api/chat`.
    Chat,
    /// `/api/generate`.
    Generate,
}

/// A parsed request.
pub struct Parsed {
    /// The answer; `None` if the request only loads the model.
    pub turn: Option<Turn>,
    pub stream: bool,
    /// The names of the fields that were ignored.
    pub ignored: Vec<String>,
}

/// Fields that would change the answer.
const REFUSED: &[&str] = &["images", "suffix", "context", "template", "logprobs"];

/// Parses a request.
///
/// # Errors
/// Fields of another form; fields that would change the answer; errors of [`Turn::new`].
pub fn parse(service: &Service, mut fields: Fields, common: &Common, kind: Kind) -> Result<Parsed, ApiError> {
    fields.refuse(REFUSED)?;
    let stream = fields.flag("stream")?.unwrap_or(true);
    let mut options = Fields::of(fields.object("options")?.unwrap_or_default());
    // Ollama's names. -2 is the rest of the context, as -1 is here.
    if let Some(limit) = options.integer(&["num_predict"], -2)? {
        options.set("n_predict", limit.max(-1).into());
    }
    let parameters = Parameters::read(&mut options, service)?;
    let parameters = Parameters { limit: parameters.limit.or(Some(usize::MAX)), ..parameters };
    let constraint = match fields.take("format") {
        None => None,
        Some(Value::String(format)) if format.is_empty() => None,
        Some(Value::String(format)) if format == "json" => Some(Grammar::JsonObject),
        Some(schema @ Value::Object(_)) => Some(Grammar::JsonSchema(schema)),
        Some(_) => return Err(ApiError::parameter("format", "expected `json` or a JSON Schema")),
    };
    let constraint = constraint.map(|grammar| service.constraint(&grammar)).transpose();
    let constraint = constraint.map_err(|error| ApiError::parameter("format", error))?;
    let mut variables = Map::new();
    match fields.take("think") {
        None => {}
        Some(Value::Bool(think)) => drop(variables.insert("enable_thinking".to_owned(), think.into())),
        Some(effort) => drop(variables.insert("reasoning_effort".to_owned(), effort)),
    }
    let mut ignored = Vec::new();
    let mut turn = None;
    let prompt = fields.text("prompt")?.unwrap_or_default();
    let raw = fields.flag("raw")?.unwrap_or(false) || service.template_source.is_empty();
    if kind == Kind::Generate && raw {
        if !prompt.is_empty() {
            let request =
                common.request(service, encoded("prompt", &prompt.into(), service.tokenizer())?, &parameters);
            let request = crate::Request { constraint, ..request };
            turn = Some(Turn { request, parts: Parts::Text });
        }
    } else {
        let (messages, tools) = match kind {
            Kind::Chat if fields.is_empty_list("messages") => (Vec::new(), Tools::default()),
            Kind::Chat => {
                let mut messages = messages(&mut fields)?;
                for (index, message) in messages.iter_mut().enumerate() {
                    let images = message.fields.shift_remove("images").unwrap_or_default();
                    if images.as_array().is_some_and(|images| !images.is_empty()) {
                        let name = format!("messages[{index}].images");
                        return Err(ApiError::not_supported(&name, "the model reads text, and no images"));
                    }
                }
                (messages, Tools::read(&mut fields)?)
            }
            Kind::Generate => {
                let system = fields.text("system")?.filter(|system| !system.is_empty());
                let system = system.map(|system| Message::new("system", system));
                let prompt = Some(prompt).filter(|prompt| !prompt.is_empty());
                let prompt = prompt.map(|prompt| Message::new("user", prompt));
                // A system message alone is no prompt.
                let messages = prompt.map(|prompt| system.into_iter().chain([prompt]).collect());
                (messages.unwrap_or_default(), Tools::default())
            }
        };
        if !messages.is_empty() {
            let own = messages.last().is_some_and(|message| message.role == "assistant");
            let ending = if own { Ending::Continue } else { Ending::Prompt };
            let inputs = Inputs { messages, tools, ending, variables, constraint };
            turn = Some(Turn::new(service, common, &parameters, inputs)?);
        }
    }
    ignored.extend(fields.ignored());
    ignored.extend(options.ignored().into_iter().map(|name| format!("options.{name}")));
    Ok(Parsed { turn, stream, ignored })
}
