//! Jinja as the templates of language models use it: Jinja2's syntax, Python's values, the extensions and functions
//! that `transformers` adds.
//!
//! Invariants: a rendering is bounded in time, memory and stack (`limits.rs`), and every character of its result
//! knows whether a user wrote it (`text.rs`). Left out: automatic escaping, other templates (`include`,
//! `import`, `extends`), and the filters `random`, `striptags`, `urlize`, `wordwrap` and `xmlattr`.

mod brace;
mod calls;
mod chains;
mod expression;
mod filters;
mod json;
mod lexer;
mod limits;
mod methods;
mod numbers;
mod operators;
mod parser;
mod percent;
mod predicates;
mod print;
mod run;
mod sequences;
mod statements;
mod strings;
mod syntax;
mod text;
mod value;

pub use limits::{Error, Kind, STACK_BYTES, TEMPLATE_BYTES};
pub use syntax::Template;

use super::clock::LocalTime;
use serde_json::{Map, Value as Json};

/// A text, and the end of each run of characters with whether a user wrote it.
pub type Rendered = (String, Vec<(usize, bool)>);

/// Parses a source.
pub fn parse(source: &str) -> Result<Template, Error> {
    parser::parse(source)
}

/// Renders a template. The `variables` are a user's; the `trusted` ones (the special tokens) count as the template's
/// own.
pub fn render(
    template: &Template,
    variables: &Map<String, Json>,
    trusted: &[(String, String)],
    clock: &dyn Fn() -> LocalTime,
) -> Result<Rendered, Error> {
    run::Run::new(template, variables, trusted, clock)?.render()
}
