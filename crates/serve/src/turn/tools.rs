//! Tools: their descriptions, the choice among them, and the form that the choice gives to an answer.

use crate::constraint::{Grammar, close_objects};
use crate::http::{ApiError, Fields};
use crate::service::Service;
use crate::speech::{Form, KnownTool, Marks, Speech};
use kvant::model::Message;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Largest number of tools.
const MOST_TOOLS: usize = 512;
/// Largest length of the name of a tool, in bytes.
const LONGEST_NAME: usize = 256;

/// The tools of a request.
#[derive(Debug, Default)]
pub struct Tools {
    described: Vec<Value>,
    choice: Choice,
    parallel: bool,
}

#[derive(Debug, Default, PartialEq)]
enum Choice {
    #[default]
    Auto,
    None,
    Required,
    /// This tool.
    Named(String),
}

impl Tools {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
    ///
    /// # Errors
    /// Tools without a name; a choice that is no tool.
    pub fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        let tools = fields.list("tools")?.unwrap_or_default();
        let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
        Self::of(tools, fields.take("tool_choice"), parallel)
    }

    /// Makes tools from OpenAI's descriptions and choice.
    ///
    /// # Errors
    /// Those of [`Tools::read`].
    pub fn of(tools: Vec<Value>, choice: Option<Value>, parallel: bool) -> Result<Self, ApiError> {
        if tools.len() > MOST_TOOLS {
            return Err(ApiError::parameter("tools", format!("at most {MOST_TOOLS} tools")));
        }
        let described: Vec<Value> = tools
            .into_iter()
            .enumerate()
            .map(|(index, tool)| described(index, tool))
            .collect::<Result<_, _>>()?;
        let choice = self::choice(choice, &described)?;
        // If the model must not call a tool, it must not know them.
        let described = if choice == Choice::None { Vec::new() } else { described };
        Ok(Self { described, choice, parallel })
    }

    /// The descriptions of the tools.
    pub fn described(&self) -> &[Value] {
        &self.described
    }

    /// True if the model may call a tool.
    pub fn are_there(&self) -> bool {
        !self.described.is_empty()
    }

    /// The properties of the tools that a parser uses.
    pub fn known(&self) -> Arc<[KnownTool]> {
        self.described.iter().map(KnownTool::of).collect()
    }

    /// The form of the answer, if it must call a tool.
    pub fn grammar(&self, speech: Speech, service: &Service) -> Option<Grammar> {
        let named = match &self.choice {
            Choice::Required => None,
            Choice::Named(name) => Some(name.as_str()),
            Choice::Auto | Choice::None => return None,
        };
        let tools: Vec<(&str, Value)> = self
            .described
            .iter()
            .filter_map(|tool| {
                let function = &tool["function"];
                let name = function["name"].as_str()?;
                let parameters = function.get("parameters").cloned();
                let mut parameters = parameters.unwrap_or_else(|| json!({ "type": "object" }));
                close_objects(&mut parameters);
                Some((name, parameters))
            })
            .filter(|(name, _)| named.is_none_or(|named| named == *name))
            .collect();
        Some(Grammar::Lark(match speech {
            Speech::Marked(marks) if marks.form == Form::Tagged => {
                tagged(&tools, marks, self.parallel, service)
            }
            Speech::Marked(marks) if marks.form == Form::Gemma => {
                gemma(&tools, marks, self.parallel, service)
            }
            Speech::Marked(marks) => marked(&tools, marks, self.parallel, service),
            Speech::Harmony => harmony(&tools, service),
        }))
    }

    /// Describes the tools and earlier calls in texts, for a template that does not know tools.
    pub fn describe_in(&self, messages: &mut Vec<Message>) {
        let tools: Vec<String> = self.described.iter().map(ToString::to_string).collect();
        let text = format!(
            "You can call functions. This is their list, in JSON:\n<tools>\n{}\n</tools>\nTo call a function, write its name and \
             its arguments as JSON between two marks:\n<tool_call>\n{{\"name\": \"NAME\", \"arguments\": {{\"NAME\": VALUE}}}}\n\
             </tool_call>",
            tools.join("\n")
        );
        for message in messages.iter_mut() {
            if message.role == "tool" {
                let result = format!("<tool_response>\n{}\n</tool_response>", message.content());
                *message = Message::new("user", result);
            } else if let Some(Value::Array(calls)) = message.fields.shift_remove("tool_calls") {
                let call = |call: Value| {
                    let function = &call["function"];
                    let call = json!({ "name": function["name"], "arguments": function["arguments"] });
                    format!("<tool_call>\n{call}\n</tool_call>")
                };
                let calls: Vec<String> = calls.into_iter().map(call).collect();
                let content = [message.content(), &calls.join("\n")].join("\n").trim().to_owned();
                *message = Message::new(&message.role, content);
            }
        }
        match messages.first_mut() {
            Some(first) if first.role == "system" => {
                *first = Message::new("system", format!("{}\n\n{text}", first.content()));
            }
            _ => messages.insert(0, Message::new("system", text)),
        }
    }
}

/// Checks the description of a tool, and gives it the form that templates read.
fn described(index: usize, tool: Value) -> Result<Value, ApiError> {
    let name = format!("tools[{index}]");
    let kind = tool.get("type").and_then(Value::as_str);
    if kind.is_some_and(|kind| kind != "function") {
        return Err(ApiError::not_supported(&name, "only the type `function` is possible"));
    }
    let function = tool.get("function").and_then(Value::as_object);
    let given = function.and_then(|function| function.get("name")).and_then(Value::as_str);
    match given {
        Some(given) if !given.is_empty() && given.len() <= LONGEST_NAME => {}
        _ => {
            let expected = format!("expected a `function` with a `name` of 1 to {LONGEST_NAME} bytes");
            return Err(ApiError::parameter(&name, expected));
        }
    }
    let parameters = function.and_then(|function| function.get("parameters"));
    if parameters.is_some_and(|parameters| !parameters.is_object() && !parameters.is_null()) {
        return Err(ApiError::parameter(&name, "`parameters` must be a JSON Schema"));
    }
    let mut function: Map<String, Value> = function.cloned().unwrap_or_default();
    function.retain(|_, value| !value.is_null());
    Ok(json!({ "type": "function", "function": function }))
}

fn choice(choice: Option<Value>, tools: &[Value]) -> Result<Choice, ApiError> {
    let wrong = |message: &str| Err(ApiError::parameter("tool_choice", message));
    let choice = match choice {
        None => return Ok(Choice::Auto),
        Some(Value::String(choice)) => match choice.as_str() {
            "auto" => return Ok(Choice::Auto),
            "none" => return Ok(Choice::None),
            // `any` is the name of Mistral and Anthropic.
            "required" | "any" => Choice::Required,
            _ => return wrong("expected `auto`, `none`, `required`, or a function"),
        },
        Some(choice) => {
            let name = choice.get("function").unwrap_or(&choice).get("name").and_then(Value::as_str);
            let Some(name) = name else { return wrong("expected `auto`, `none`, `required`, or a function") };
            if tools.iter().all(|tool| tool["function"]["name"] != name) {
                return wrong("this tool is not in `tools`");
            }
            Choice::Named(name.to_owned())
        }
    };
    if tools.is_empty() { wrong("there are no `tools`") } else { Ok(choice) }
}

/// A mark in Lark's notation: a control token, or a text.
fn mark(text: &str, service: &Service) -> String {
    let tokenizer = service.tokenizer();
    match tokenizer.id(text).filter(|id| tokenizer.is_control(*id)) {
        Some(id) => format!("<[{id}]>"),
        None => Value::from(text).to_string(),
    }
}

/// The grammar of calls between marks.
fn marked(tools: &[(&str, Value)], marks: Marks, parallel: bool, service: &Service) -> String {
    let call = |(name, parameters): &(&str, Value)| {
        json!({
            "type": "object",
            "properties": { "name": { "const": name }, (marks.arguments): parameters },
            "required": ["name", marks.arguments],
            "additionalProperties": false,
        })
    };
    let calls: Vec<Value> = tools.iter().map(call).collect();
    let mut schema = json!({ "anyOf": calls, "x-guidance": { "whitespace_flexible": false } });
    // References name definitions at the root. The first tool that has definitions gives them.
    for (_, parameters) in tools {
        schema = with_definitions(&schema, parameters);
    }
    let begin = marks.begin.map(|begin| mark(begin, service)).unwrap_or_default();
    let end = if marks.end.is_empty() { String::new() } else { mark(marks.end, service) };
    let more = |between: &str| if parallel { format!("({between} call)*") } else { String::new() };
    let start = match (marks.begin, marks.list) {
        (None, _) => "call".to_owned(),
        (Some(_), true) => format!("{begin} \"[\" call {} \"]\" {end}", more("\", \"")),
        (Some(_), false) => {
            let next = format!("\"\\n\" {end} \"\\n\" {begin} \"\\n\"");
            format!("{begin} \"\\n\" call {} \"\\n\" {end}", more(&next))
        }
    };
    // Line ends follow the reasoning.
    let start = if marks.begin.is_some() { format!("\"\\n\\n\"? {start}") } else { start };
    format!("start: {start}\ncall: %json {schema}\n")
}

/// The grammar of calls in tags.
fn tagged(tools: &[(&str, Value)], marks: Marks, parallel: bool, service: &Service) -> String {
    let (begin, end) = (mark(marks.begin.unwrap_or_default(), service), mark(marks.end, service));
    let text = |text: String| Value::from(text).to_string();
    let mut rules = String::new();
    let mut calls = Vec::new();
    for (index, (name, parameters)) in tools.iter().enumerate() {
        let required: Vec<&str> =
            parameters["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut call = text(format!("<function={name}>\n"));
        for (place, (key, schema)) in parameters["properties"].as_object().into_iter().flatten().enumerate() {
            let rule = format!("value{index}_{place}");
            let choices = schema["enum"].as_array();
            let end_of_value = text("\n</parameter>\n".to_owned());
            rules += &match choices {
                Some(choices) if choices.iter().all(Value::is_string) && !choices.is_empty() => {
                    let choices: Vec<String> = choices.iter().map(Value::to_string).collect();
                    format!("{rule}: ({}) {end_of_value}\n", choices.join(" | "))
                }
                _ if schema["type"] == "string" => {
                    // A text has no quotation marks. It ends before the first closing tag.
                    format!("{rule}: {rule}_text\n{rule}_text[suffix={end_of_value}]: /(.|\\n)*/\n")
                }
                _ => {
                    let schema = with_definitions(&compact(schema), parameters);
                    format!("{rule}: {rule}_json {end_of_value}\n{rule}_json: %json {schema}\n")
                }
            };
            let optional = if required.contains(&key.as_str()) { "" } else { "?" };
            call += &format!(" ({} {rule}){optional}", text(format!("<parameter={key}>\n")));
        }
        call += &format!(" {}", text("</function>\n".to_owned()));
        rules += &format!("call{index}: {call}\n");
        calls.push(format!("call{index}"));
    }
    let more = if parallel { format!(" (\"\\n\" {begin} \"\\n\" call {end})*") } else { String::new() };
    let calls = calls.join(" | ");
    format!("start: \"\\n\\n\"? {begin} \"\\n\" call {end}{more}\ncall: {calls}\n{rules}")
}

/// The grammar of calls of Gemma 4. The arguments are JSON, which the parser reads, too.
fn gemma(tools: &[(&str, Value)], marks: Marks, parallel: bool, service: &Service) -> String {
    let (begin, end) = (mark(marks.begin.unwrap_or_default(), service), mark(marks.end, service));
    let mut rules = String::new();
    let names: Vec<String> = (0..tools.len()).map(|index| format!("call{index}")).collect();
    for (rule, (name, parameters)) in names.iter().zip(tools) {
        let head = Value::from(format!("call:{name}"));
        rules += &format!("{rule}: {head} %json {}\n", compact(parameters));
    }
    let more = if parallel { format!(" ({begin} call {end})*") } else { String::new() };
    format!("start: {begin} call {end}{more}\ncall: {}\n{rules}", names.join(" | "))
}

/// A part of `parameters` with their definitions, which references name.
fn with_definitions(schema: &Value, parameters: &Value) -> Value {
    let mut schema = schema.clone();
    for name in ["$defs", "definitions"] {
        if let (Some(fields), Some(definitions)) = (schema.as_object_mut(), parameters.get(name)) {
            fields.entry(name).or_insert_with(|| definitions.clone());
        }
    }
    schema
}

/// A schema whose values have no spaces of their own choice.
fn compact(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(fields) = schema.as_object_mut() {
        fields.insert("x-guidance".to_owned(), json!({ "whitespace_flexible": false }));
    }
    schema
}

/// The grammar of one call of gpt-oss.
fn harmony(tools: &[(&str, Value)], service: &Service) -> String {
    let [channel, constrain, message] =
        ["<|channel|>", "<|constrain|>", "<|message|>"].map(|text| mark(text, service));
    let mut rules = String::new();
    let names: Vec<String> = (0..tools.len()).map(|index| format!("call{index}")).collect();
    for (rule, (name, parameters)) in names.iter().zip(tools) {
        let head = Value::from(format!("commentary to=functions.{name} "));
        rules += &format!("{rule}: {channel} {head} {constrain} \"json\" {message} %json {parameters}\n");
    }
    format!("start: {}\n{rules}", names.join(" | "))
}
