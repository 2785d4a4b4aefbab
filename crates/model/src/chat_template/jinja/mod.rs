//! Jinja for the templates of language models: the syntax of Jinja2, the values of Python, and the extensions and
//! functions that `transformers` adds.
//!
//! Invariants: time, memory and stack of a rendering are bounded (`limits.rs`). Every character of the result has a
//! recorded origin: the template or a user (`text.rs`). Not covered here: automatic escaping, other templates
//! (`include`, `import`, `extends`), and the filters `random`, `striptags`, `urlize`, `wordwrap` and `xmlattr`.

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

/// A text, and for each run of characters with the same origin: the byte offset of its end, and true if a user wrote
/// the run.
pub type Rendered = (String, Vec<(usize, bool)>);

/// Parses the source of a template.
pub fn parse(source: &str) -> Result<Template, Error> {
    parser::parse(source)
}

/// Renders a template. The values of `variables` come from a user. The texts of `trusted` (the special tokens) count as
/// the template's own text.
pub fn render(
    template: &Template,
    variables: &Map<String, Json>,
    trusted: &[(String, String)],
    clock: &dyn Fn() -> LocalTime,
) -> Result<Rendered, Error> {
    run::Run::new(template, variables, trusted, clock)?.render()
}
