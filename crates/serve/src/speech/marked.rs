//! Reads answers with marks around reasoning and calls.

use super::call::{CallReader, End};
use super::delta::Delta;
use super::gemma;
use super::marks::{Form, Marks, beginning_of, first_of};
use super::tagged::{FUNCTION, TaggedCall};
use super::tool::KnownTool;
use std::sync::Arc;

/// Between the name and the arguments of a call, in later templates of Mistral.
const ARGUMENTS: &str = "[ARGS]";
/// Before and after a block of code.
const FENCE: &str = "```";
/// Llama's mark of a call. It can be missing.
pub(super) const PYTHON_TAG: &str = "<|python_tag|>";

/// Reads an answer.
pub struct MarkedParser {
    marks: Marks,
    /// The tools. Without tools, calls are text.
    tools: Arc<[KnownTool]>,
    state: State,
    /// Text that was not read yet.
    rest: String,
    /// Number of calls.
    count: usize,
    /// Spaces at the end of the content. They count only if more content follows.
    spaces: String,
    /// True until the first part that is not a space.
    at_start: bool,
    /// The text before an object without marks.
    before: String,
}

enum State {
    Content,
    Reasoning,
    /// Between the marks of calls. True if no call was found yet.
    Calls {
        empty: bool,
    },
    /// In a call. If `named` is true, its name stands before the arguments, and the reader got both as one object.
    Call {
        call: CallReader,
        named: bool,
    },
    /// In a call with tags around its parameters.
    Tagged(TaggedCall),
}

impl MarkedParser {
    /// A parser for an answer to a prompt that ends with `prompt`.
    pub fn new(marks: Marks, prompt: &str, tools: &Arc<[KnownTool]>) -> Self {
        let thinks = thinks(marks, prompt);
        Self {
            marks,
            tools: tools.clone(),
            state: if thinks.is_some() { State::Reasoning } else { State::Content },
            rest: String::new(),
            count: 0,
            spaces: String::new(),
            at_start: true,
            before: String::new(),
        }
    }

    /// Reads a piece.
    pub fn push(&mut self, piece: &str) -> Vec<Delta> {
        self.rest.push_str(piece);
        let mut deltas = Vec::new();
        while self.step(&mut deltas) {}
        deltas
    }

    /// Returns what was held back.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut deltas = Vec::new();
        let rest = std::mem::take(&mut self.rest);
        match std::mem::replace(&mut self.state, State::Content) {
            State::Content => self.content(&rest, &mut deltas),
            State::Reasoning => self.reasoning(&rest, &mut deltas),
            State::Calls { empty } => {
                let begin = self.marks.begin.filter(|_| empty).unwrap_or_default();
                if empty || !rest.trim().is_empty() {
                    self.content(&format!("{begin}{rest}"), &mut deltas);
                }
            }
            State::Call { call, .. } if !call.is_announced() => {
                let text = format!("{}{}", self.before, call.text());
                self.content(&text, &mut deltas);
            }
            State::Tagged(call) if !call.is_announced() => {
                let begin = self.marks.begin.unwrap_or_default();
                self.content(&format!("{begin}{FUNCTION}{rest}"), &mut deltas);
            }
            State::Call { .. } | State::Tagged(_) => {}
        }
        deltas
    }

    /// Reads more of the rest. Returns false if it needs more text.
    fn step(&mut self, deltas: &mut Vec<Delta>) -> bool {
        match &mut self.state {
            State::Content => self.step_content(deltas),
            State::Reasoning => {
                let end_of_think = self.marks.reasoning.map_or("", |(_, end)| end);
                if let Some(at) = self.rest.find(end_of_think) {
                    let text: String = self.rest.drain(..at + end_of_think.len()).collect();
                    self.reasoning(&text[..at], deltas);
                    self.spaces.clear();
                    self.at_start = true;
                    self.state = State::Content;
                    return true;
                }
                let end = self.rest.len() - beginning_of(&self.rest, &[end_of_think]);
                let text: String = self.rest.drain(..end).collect();
                self.reasoning(&text, deltas);
                false
            }
            State::Calls { .. } => self.step_calls(deltas),
            State::Tagged(call) => {
                let ended = call.read(&mut self.rest, self.count, deltas);
                if ended {
                    self.count += 1;
                    self.state = State::Calls { empty: false };
                }
                ended
            }
            State::Call { call, named } => {
                let marked = call.is_marked();
                let mut ended = None;
                let mut read = 0;
                for c in self.rest.chars() {
                    read += c.len_utf8();
                    ended = call.push(c, self.count, deltas);
                    if *named && call.depth() == 1 && c == '}' {
                        ended = call.push('}', self.count, deltas);
                    }
                    if ended.is_some() {
                        break;
                    }
                }
                self.rest.drain(..read);
                match ended {
                    None => return false,
                    Some(End::Call) => {
                        self.count += 1;
                        self.state = State::Calls { empty: false };
                    }
                    Some(End::Other(text)) => {
                        let text = format!("{}{text}", std::mem::take(&mut self.before));
                        self.content(&text, deltas);
                        self.state = if marked { State::Calls { empty: false } } else { State::Content };
                    }
                }
                true
            }
        }
    }

    fn step_content(&mut self, deltas: &mut Vec<Delta>) -> bool {
        let mut marks = Vec::new();
        let think = self.marks.reasoning.filter(|_| self.at_start).map(|(think, _)| think);
        marks.extend(think);
        if !self.tools.is_empty() {
            marks.push(self.marks.begin.unwrap_or(PYTHON_TAG));
            if self.at_start {
                match object(&self.rest) {
                    Object::Unknown => return false,
                    Object::At(start) => {
                        self.before = self.rest.drain(..start).collect();
                        let call = CallReader::new(self.marks.arguments).with_tools(self.tools.clone());
                        self.state = State::Call { call, named: false };
                        return true;
                    }
                    Object::None => {}
                }
            }
        }
        if let Some((at, mark)) = first_of(&self.rest, &marks) {
            let text: String = self.rest.drain(..at + mark.len()).collect();
            let before = text[..at].to_owned();
            if Some(mark) == think && !before.trim().is_empty() {
                // Reasoning stands at the beginning only.
                self.content(&text, deltas);
                return true;
            }
            self.content(&before, deltas);
            self.state = if Some(mark) == think { State::Reasoning } else { State::Calls { empty: true } };
            return true;
        }
        let end = self.rest.len() - beginning_of(&self.rest, &marks);
        let text: String = self.rest.drain(..end).collect();
        self.content(&text, deltas);
        false
    }

    fn step_calls(&mut self, deltas: &mut Vec<Delta>) -> bool {
        let State::Calls { empty } = self.state else { return false };
        let skipped = |c: char| {
            c.is_whitespace() || c == ',' || c == ';' || (self.marks.list && (c == '[' || c == ']'))
        };
        let begin = self.marks.begin.unwrap_or(PYTHON_TAG);
        // The rest can be the beginning of a mark.
        let is_mark = |text: &str| text.starts_with(begin) || begin.starts_with(text);
        let mut start = 0;
        while let Some(c) = self.rest[start..].chars().next() {
            if !skipped(c) || is_mark(&self.rest[start..]) {
                break;
            }
            start += c.len_utf8();
        }
        let next = self.rest[start..].to_owned();
        if next.is_empty() {
            if !empty {
                self.rest.clear();
            }
            return false;
        }
        if self.marks.form == Form::Gemma {
            return self.step_gemma(next, empty, deltas);
        }
        if let Some(after) = next.strip_prefix(FUNCTION) {
            self.rest = after.to_owned();
            self.state = State::Tagged(TaggedCall::new(self.tools.clone()));
            return true;
        }
        if FUNCTION.starts_with(&next) {
            return false;
        }
        if next.starts_with('{') {
            self.rest = next;
            self.state = State::Call { call: CallReader::new(self.marks.arguments), named: false };
            return true;
        }
        let fence = if self.before.contains(FENCE) { FENCE } else { "" };
        let ends =
            [(self.marks.end, State::Content), (fence, State::Content), (begin, State::Calls { empty })];
        for (mark, state) in ends {
            if !mark.is_empty() && next.starts_with(mark) {
                self.rest = next[mark.len()..].to_owned();
                self.state = state;
                return true;
            }
            if mark.starts_with(&next) {
                return false;
            }
        }
        if self.marks.end.is_empty() && self.marks.list {
            // A name, its mark, and the arguments.
            let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
            let name_end = next.find(|c| !is_name(c)).unwrap_or(next.len());
            let after = &next[name_end..];
            if name_end > 0 && ARGUMENTS.starts_with(after) {
                return false;
            }
            if let Some(arguments) = after.strip_prefix(ARGUMENTS).filter(|_| name_end > 0) {
                let name = serde_json::Value::from(&next[..name_end]);
                let mut call = CallReader::new(self.marks.arguments);
                // The last brace follows the arguments.
                let head = format!("{{\"name\":{name},\"{}\":", self.marks.arguments);
                head.chars().for_each(|c| drop(call.push(c, self.count, deltas)));
                self.rest = arguments.to_owned();
                self.state = State::Call { call, named: true };
                return true;
            }
        }
        // Not a call. The text after the mark can have other marks.
        if empty {
            self.content(begin, deltas);
        } else {
            self.rest = next;
        }
        self.at_start = false;
        self.state = State::Content;
        true
    }

    /// Reads a whole call of Gemma 4.
    fn step_gemma(&mut self, next: String, empty: bool, deltas: &mut Vec<Delta>) -> bool {
        let begin = self.marks.begin.unwrap_or_default();
        if begin.starts_with(&next) {
            return false;
        }
        if let Some(after) = next.strip_prefix(begin) {
            self.rest = after.to_owned();
            self.state = State::Calls { empty: true };
            return true;
        }
        if !empty {
            // A call has ended, and something else follows.
            self.rest = next;
            self.state = State::Content;
            return true;
        }
        let Some(end) = next.find(self.marks.end) else { return false };
        let (text, after) = (&next[..end], &next[end + self.marks.end.len()..]);
        self.rest = after.to_owned();
        match gemma::call(text) {
            Some((name, arguments)) => {
                deltas.push(Delta::Call { index: self.count, name });
                deltas.push(Delta::Arguments(arguments.to_string()));
                self.count += 1;
                self.state = State::Calls { empty: false };
            }
            None => {
                self.state = State::Content;
                self.content(&format!("{begin}{text}{}", self.marks.end), deltas);
            }
        }
        true
    }

    fn content(&mut self, text: &str, deltas: &mut Vec<Delta>) {
        part(text, &mut self.spaces, &mut self.at_start, deltas, Delta::Content);
    }

    fn reasoning(&mut self, text: &str, deltas: &mut Vec<Delta>) {
        part(text, &mut self.spaces, &mut self.at_start, deltas, Delta::Reasoning);
    }
}

/// The place of an object at the beginning of an answer.
enum Object {
    /// More text is needed.
    Unknown,
    /// There is an object.
    At(usize),
    /// There is something else.
    None,
}

/// Finds an object at the beginning of an answer. Some models write calls without marks, or as a block of code.
fn object(text: &str) -> Object {
    let after_spaces = |from: usize| from + text[from..].len() - text[from..].trim_start().len();
    let start = after_spaces(0);
    let begin = &text[start..];
    if begin.is_empty() || (begin.len() < FENCE.len() && FENCE.starts_with(begin)) {
        return Object::Unknown;
    }
    if begin.starts_with('{') {
        return Object::At(start);
    }
    let Some(language) = begin.strip_prefix(FENCE) else { return Object::None };
    let Some(end) = language.find('\n') else {
        return if "json".starts_with(&language.to_lowercase()) { Object::Unknown } else { Object::None };
    };
    if !["", "json"].contains(&language[..end].trim().to_lowercase().as_str()) {
        return Object::None;
    }
    let inside = after_spaces(start + FENCE.len() + end);
    match text[inside..].chars().next() {
        None => Object::Unknown,
        Some('{') => Object::At(inside),
        Some(_) => Object::None,
    }
}

/// The mark of the end of reasoning, if a prompt ends with its beginning.
pub(super) fn thinks(marks: Marks, prompt: &str) -> Option<&'static str> {
    let (think, end) = marks.reasoning?;
    prompt.trim_end().ends_with(think).then_some(end)
}

/// Appends text without spaces at the beginning and at the end of a part.
fn part(
    text: &str,
    spaces: &mut String,
    at_start: &mut bool,
    deltas: &mut Vec<Delta>,
    delta: impl FnOnce(String) -> Delta,
) {
    let text = if *at_start { text.trim_start() } else { text };
    let kept = text.trim_end();
    if kept.is_empty() {
        if !*at_start {
            spaces.push_str(text);
        }
        return;
    }
    *at_start = false;
    let whole = format!("{}{kept}", std::mem::take(spaces));
    spaces.push_str(&text[kept.len()..]);
    deltas.push(delta(whole));
}
