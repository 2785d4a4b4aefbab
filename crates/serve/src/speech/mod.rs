//! Answers of a model as parts: text, reasoning and calls of tools.
//!
//! Each family writes these parts in its own way. [`Speech`] describes it, and is chosen by what the family's chat
//! template contains. [`SpeechParser`] reads an answer piece by piece.

mod call;
mod delta;
mod gemma;
mod harmony;
mod marked;
mod marks;
mod tagged;
mod tool;

pub use delta::Delta;
pub use marks::{Form, Marks};
pub use tool::KnownTool;

use harmony::HarmonyParser;
use marked::MarkedParser;
use serde::de::IgnoredAny;
use std::sync::Arc;

/// True if the arguments of a call are JSON. Those of a call that was cut are not.
pub fn is_json(arguments: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(arguments).is_ok()
}

/// The form in which a model writes reasoning and calls of tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// The model writes marks around calls and reasoning.
    Marked(Marks),
    /// Channels of gpt-oss.
    Harmony,
}

/// Hermes and Qwen. Also for templates that know no tools.
const HERMES: Marks = Marks {
    begin: Some("<tool_call>"),
    end: "</tool_call>",
    arguments: "arguments",
    list: false,
    form: Form::Json,
    reasoning: None,
    knows_tools: true,
};

/// Families by a text in their templates. The first match counts.
const FAMILIES: &[(&str, Marks)] = &[
    ("[TOOL_CALLS]", Marks { begin: Some("[TOOL_CALLS]"), end: "", list: true, ..HERMES }),
    ("<|tool_call|>", Marks { begin: Some("<|tool_call|>"), end: "<|/tool_call|>", list: true, ..HERMES }),
    ("<|tool_call>", Marks { begin: Some("<|tool_call>"), end: "<tool_call|>", form: Form::Gemma, ..HERMES }),
    ("<function=", Marks { form: Form::Tagged, ..HERMES }),
    ("<tool_call>", HERMES),
    ("<|python_tag|>", Marks { begin: None, end: "", arguments: "parameters", ..HERMES }),
    ("\"parameters\":", Marks { begin: None, end: "", arguments: "parameters", ..HERMES }),
];

/// Marks around reasoning. The first that a template contains count.
const REASONING: &[(&str, &str)] = &[("<think>", "</think>"), ("<|channel>thought", "<channel|>")];

impl Speech {
    /// Chooses the form for a chat template.
    pub fn of(template: &str) -> Self {
        if template.contains("<|channel|>") {
            return Self::Harmony;
        }
        let knows_tools = template.contains("tools");
        let family = FAMILIES.iter().find(|(mark, _)| knows_tools && template.contains(mark));
        let marks = family.map_or(HERMES, |(_, marks)| *marks);
        let reasoning = REASONING.iter().find(|(_, end)| template.contains(end)).copied();
        Self::Marked(Marks { reasoning, knows_tools, ..marks })
    }

    /// True if an answer without tools has parts other than text, too.
    pub fn has_parts(self) -> bool {
        match self {
            Self::Marked(marks) => marks.reasoning.is_some(),
            Self::Harmony => true,
        }
    }

    /// True if the template renders tools.
    pub fn knows_tools(self) -> bool {
        match self {
            Self::Marked(marks) => marks.knows_tools,
            Self::Harmony => true,
        }
    }

    /// The text after which the part for the user begins, if reasoning comes first in an answer to `prompt`.
    pub fn reasoning_end(self, prompt: &str) -> Option<&'static str> {
        match self {
            Self::Marked(marks) => marked::thinks(marks, prompt),
            Self::Harmony => Some("<|channel|>final<|message|>"),
        }
    }

    /// The marks that this form needs.
    pub fn marks(self) -> Vec<&'static str> {
        match self {
            Self::Marked(marks) => {
                let begin = marks.begin.unwrap_or(marked::PYTHON_TAG);
                let (think, end_of_think) = marks.reasoning.unwrap_or(REASONING[0]);
                vec![begin, marks.end, think, end_of_think]
            }
            Self::Harmony => vec![harmony::CHANNEL],
        }
    }

    /// A parser for an answer to a prompt that ends with `prompt`. `tools` has the names of the tools. Without tools, calls
    /// stay text.
    pub fn parser(self, prompt: &str, tools: &Arc<[KnownTool]>) -> SpeechParser {
        match self {
            Self::Marked(marks) => SpeechParser::Marked(Box::new(MarkedParser::new(marks, prompt, tools))),
            Self::Harmony => SpeechParser::Harmony(HarmonyParser::new(prompt)),
        }
    }
}

/// Reads an answer.
pub enum SpeechParser {
    /// Marks.
    Marked(Box<MarkedParser>),
    /// Channels.
    Harmony(HarmonyParser),
}

impl SpeechParser {
    /// Reads a piece of the answer, with the texts of control tokens.
    pub fn push(&mut self, piece: &str) -> Vec<Delta> {
        match self {
            Self::Marked(parser) => parser.push(piece),
            Self::Harmony(parser) => parser.push(piece),
        }
    }

    /// Returns what was held back at the end of the answer.
    pub fn finish(&mut self) -> Vec<Delta> {
        match self {
            Self::Marked(parser) => parser.finish(),
            Self::Harmony(parser) => parser.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of an answer: reasoning, text, and calls with their arguments.
    #[derive(Debug, Default, PartialEq)]
    struct Parts {
        reasoning: String,
        content: String,
        calls: Vec<(String, String)>,
    }

    fn tools() -> Arc<[KnownTool]> {
        let known = |name: &str| KnownTool { name: name.to_owned(), texts: vec!["text".to_owned()] };
        ["f", "g", "add", "now", "한국"].map(known).into()
    }

    fn parts(speech: Speech, prompt: &str, pieces: &[&str]) -> Parts {
        let mut parser = speech.parser(prompt, &tools());
        let mut parts = Parts::default();
        let mut deltas: Vec<Delta> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
        deltas.extend(parser.finish());
        for delta in deltas {
            match delta {
                Delta::Content(text) => parts.content.push_str(&text),
                Delta::Reasoning(text) => parts.reasoning.push_str(&text),
                Delta::Call { index, name } => {
                    assert_eq!(index, parts.calls.len());
                    parts.calls.push((name, String::new()));
                }
                Delta::Arguments(text) => parts.calls.last_mut().unwrap().1.push_str(&text),
            }
        }
        parts
    }

    #[test]
    fn answers_of_families_have_their_parts_in_pieces_of_any_size() {
        let call = |name: &str, arguments: &str| (name.to_owned(), arguments.to_owned());
        for (template, prompt, answer, reasoning, content, calls) in [
            ("", "", "Hello <b> {\"name\": 1}", "", "Hello <b> {\"name\": 1}", vec![]),
            (
                "tools <tool_call> </think>",
                "<|im_start|>assistant\n",
                "<think>\nHm, <tool.\n</think>\n\nYes.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": \"}\\\"\", \"b\": [1]}}\n</tool_call>\n<tool_call>\n{\"arguments\": {}, \"name\": \"한국\"}\n</tool_call>",
                "Hm, <tool.",
                "Yes.",
                vec![call("add", "{\"a\": \"}\\\"\", \"b\": [1]}"), call("한국", "{}")],
            ),
            ("tools </think>", "assistant\n<think>\n", "So.\n</think>\n\nDone.", "So.", "Done.", vec![]),
            ("tools </think>", "assistant\n<think>\n\n</think>\n\n", "Done.", "", "Done.", vec![]),
            (
                "tools <tool_call>",
                "",
                "<tool_call>{\"name\": \"now\"}</tool_call>",
                "",
                "",
                vec![call("now", "{}")],
            ),
            ("tools <tool_call>", "", "<tool_call>{\"x\": 1}</tool_call> ok", "", "{\"x\": 1} ok", vec![]),
            ("tools <tool_call>", "", "a <tool_call> b", "", "a <tool_call> b", vec![]),
            (
                "tools [TOOL_CALLS]",
                "",
                "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"x\": 1}}, {\"name\": \"g\", \"arguments\": {}}]",
                "",
                "",
                vec![call("f", "{\"x\": 1}"), call("g", "{}")],
            ),
            (
                "tools [TOOL_CALLS]",
                "",
                "[TOOL_CALLS]f[ARGS]{\"x\": 1}[TOOL_CALLS]g[ARGS]{}",
                "",
                "",
                vec![call("f", "{\"x\": 1}"), call("g", "{}")],
            ),
            (
                "tools <|tool_call|>",
                "",
                "<|tool_call|>[{\"name\": \"f\", \"arguments\": \"{\\\"x\\\": 1}\"}]<|/tool_call|>",
                "",
                "",
                vec![call("f", "{\"x\": 1}")],
            ),
            (
                "tools \"parameters\": ",
                "",
                "{\"name\": \"f\", \"parameters\": {\"x\": 1}}",
                "",
                "",
                vec![call("f", "{\"x\": 1}")],
            ),
            (
                "tools <|python_tag|>",
                "",
                "<|python_tag|>{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}",
                "",
                "",
                vec![call("f", "{}")],
            ),
            (
                "tools <function= </think>",
                "assistant\n<think>\n",
                "Hm.\n</think>\n\nOne moment.\n\n<tool_call>\n<function=f>\n<parameter=text>\n12\n</b>\n</parameter>\n<parameter=x>\n[1, \"a\"]\n</parameter>\n<parameter=y>\nTrue\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
                "Hm.",
                "One moment.",
                vec![
                    call("f", "{\"text\": \"12\\n</b>\", \"x\": [1,\"a\"], \"y\": true}"),
                    call("now", "{}"),
                ],
            ),
            (
                "tools <|tool_call> <channel|>",
                "<|turn>model\n",
                "<|channel>thought\nHm.<channel|><|tool_call>call:f{text:<|\"|>a, b<|\"|>,x:1}<tool_call|><|tool_call>call:now{}<tool_call|>",
                "Hm.",
                "",
                vec![call("f", "{\"text\":\"a, b\",\"x\":1}"), call("now", "{}")],
            ),
            // A value can contain the tag that ends it.
            (
                "tools <function=",
                "",
                "<tool_call>\n<function=f>\n<parameter=text>\na</parameter>b\n</parameter>\n</function>\n</tool_call>",
                "",
                "",
                vec![call("f", "{\"text\": \"a</parameter>b\"}")],
            ),
            (
                "tools <function=",
                "",
                "Write <tool_call><function= and a name",
                "",
                "Write <tool_call><function= and a name",
                vec![],
            ),
            (
                "tools <tool_call>",
                "",
                "a <tool_call> b <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
                "",
                "a <tool_call> b",
                vec![call("f", "{}")],
            ),
            (
                "tools <|tool_call>",
                "",
                "<|tool_call>no call<tool_call|>!",
                "",
                "<|tool_call>no call<tool_call|>!",
                vec![],
            ),
            ("tools <|python_tag|>", "", "{\"a\": 1} is JSON", "", "{\"a\": 1} is JSON", vec![]),
            // Some models leave the marks out. An object is a call if it has the name of a tool.
            (
                "tools <tool_call>",
                "",
                "{\"name\": \"f\", \"arguments\": {\"x\": 1}}",
                "",
                "",
                vec![call("f", "{\"x\": 1}")],
            ),
            (
                "tools <tool_call>",
                "",
                "```json\n{\n  \"name\": \"f\",\n  \"arguments\": {}\n}\n```",
                "",
                "",
                vec![call("f", "{}")],
            ),
            ("tools <tool_call>", "", "```json\n{\"a\": 1}\n```", "", "```json\n{\"a\": 1}\n```", vec![]),
            ("tools <tool_call>", "", "```rust\n{}\n```", "", "```rust\n{}\n```", vec![]),
            ("tools <tool_call>", "", "``", "", "``", vec![]),
            ("tools <tool_call>", "", "{\"name\": \"Kim\"} ", "", "{\"name\": \"Kim\"}", vec![]),
            (
                "<|channel|>",
                "<|start|>assistant",
                "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"x\": 1}<|call|>",
                "Let me see.",
                "",
                vec![call("f", "{\"x\": 1}")],
            ),
            (
                "<|channel|>",
                "<|start|>assistant",
                "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>",
                "Easy.",
                "4",
                vec![],
            ),
        ] {
            let expected = Parts { reasoning: reasoning.to_owned(), content: content.to_owned(), calls };
            let speech = Speech::of(template);
            let letters: Vec<String> = answer.chars().map(|c| c.to_string()).collect();
            for size in [1, 2, 3, 7, 1000] {
                let pieces: Vec<String> = letters.chunks(size).map(|chunk| chunk.concat()).collect();
                let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
                assert_eq!(parts(speech, prompt, &pieces), expected, "{template}: {answer} by {size}");
            }
        }
    }

    #[test]
    fn arguments_come_before_the_call_is_complete() {
        let mut parser = Speech::of("tools <tool_call>").parser("", &tools());
        let deltas = parser.push("<tool_call>{\"name\": \"f\", \"arguments\": {\"text\": \"long");
        assert_eq!(deltas[0], Delta::Call { index: 0, name: "f".to_owned() });
        assert_eq!(deltas[1], Delta::Arguments("{\"text\": \"long".to_owned()));
    }
}
