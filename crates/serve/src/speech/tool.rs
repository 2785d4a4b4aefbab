//! The properties of a tool that a parser uses.

use serde_json::Value;

/// A tool that the model may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTool {
    /// The name.
    pub name: String,
    /// The parameters that are texts.
    pub texts: Vec<String>,
}

impl KnownTool {
    /// Reads a tool in OpenAI's form.
    pub fn of(tool: &Value) -> Self {
        let function = &tool["function"];
        let texts_only = |choices: &Vec<Value>| !choices.is_empty() && choices.iter().all(Value::is_string);
        let is_text =
            |schema: &Value| schema["type"] == "string" || schema["enum"].as_array().is_some_and(texts_only);
        let properties = function["parameters"]["properties"].as_object();
        let texts = properties.into_iter().flatten().filter(|(_, schema)| is_text(schema));
        Self {
            name: function["name"].as_str().unwrap_or_default().to_owned(),
            texts: texts.map(|(key, _)| key.clone()).collect(),
        }
    }
}
