//! Marks around the parts of an answer.

/// Marks around calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Before one call or several; `None`: Llama's, which can be missing.
    pub begin: Option<&'static str>,
    /// After the calls. Empty: the end of the answer.
    pub end: &'static str,
    /// The name of the field with the arguments.
    pub arguments: &'static str,
    /// True if the calls are elements of a list.
    pub list: bool,
    /// The form of a call.
    pub form: Form,
    /// The marks around reasoning, if the template knows reasoning.
    pub reasoning: Option<(&'static str, &'static str)>,
    /// True if the template renders tools. Otherwise the server describes them in the system message.
    pub knows_tools: bool,
}

/// The form of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A JSON object. An answer may also have calls in tags.
    Json,
    /// Tags around the parameters, as Qwen3-Coder writes them.
    Tagged,
    /// Gemma 4's own notation.
    Gemma,
}

/// Number of bytes at the end of `text` that can be the beginning of one of `marks`.
pub fn beginning_of(text: &str, marks: &[&str]) -> usize {
    let of = |mark: &&str| {
        (1..mark.len()).rev().find(|&n| mark.is_char_boundary(n) && text.ends_with(&mark[..n])).unwrap_or(0)
    };
    marks.iter().map(of).max().unwrap_or(0)
}

/// The first of `marks` in `text`: its place and its text.
pub fn first_of<'a>(text: &str, marks: &[&'a str]) -> Option<(usize, &'a str)> {
    marks.iter().filter_map(|mark| Some((text.find(mark)?, *mark))).min_by_key(|(at, _)| *at)
}
