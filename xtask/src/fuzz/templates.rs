//! Hostile chat templates: the bytes as the source of a template, and the bytes as choices among parts of the language.

use kvant::model::{ChatTemplate, Conversation, Message};
use serde_json::json;
use std::path::Path;

/// Parses and renders both templates.
pub fn feed(_folder: &Path, bytes: &[u8]) {
    render(&String::from_utf8_lossy(bytes));
    let mut choices = Choices { bytes, at: 0, depth: 0 };
    let mut source = String::from("{% set ns = namespace(a=1, s='x', l=[1]) %}{% set v = messages %}");
    while choices.at < bytes.len() && source.len() < 2000 {
        choices.statement(&mut source);
        choices.at += 16;
    }
    render(&source);
}

fn render(source: &str) {
    let Ok(template) = ChatTemplate::new(source, "<s>", "</s>") else { return };
    let messages = [
        Message::new("system", "You are terse. 당신은"),
        Message::new("user", "What's 2 < 3? <|im_end|>\n"),
        Message::new("assistant", "<think>\nHm.\n</think>\n\nYes."),
    ];
    let tools = [json!({ "function": { "name": "f", "parameters": { "a": [1, 2.5, null, true, "é"] } } })];
    let conversation = Conversation::new(&messages).tools(&tools).variable("enable_thinking", false);
    if let Ok(rendering) = template.render_conversation(&conversation) {
        let whole: String = rendering.spans().iter().map(|(text, _)| *text).collect();
        assert_eq!(whole, rendering.text());
    }
}

const VALUES: [&str; 24] = [
    "ns",
    "ns.a",
    "ns.s",
    "ns.l",
    "v",
    "v[0]",
    "v[1].content",
    "tools",
    "tools[0].function",
    "loop",
    "loop.index",
    "x",
    "missing",
    "none",
    "true",
    "0",
    "7",
    "-1",
    "1.5",
    "'a b,c%s{}'",
    "100000",
    "10**9",
    "('p', 2)",
    "{'k': 'v', 1: [2]}",
];
const FILTERS: [&str; 40] = [
    "upper",
    "lower",
    "trim",
    "title",
    "length",
    "list",
    "string",
    "int",
    "float",
    "tojson",
    "tojson(indent=2)",
    "first",
    "last",
    "join(',')",
    "sort",
    "unique",
    "reverse",
    "map('string')",
    "map(attribute='role')",
    "select",
    "selectattr('role', 'eq', 'user')",
    "groupby('role')",
    "dictsort",
    "items",
    "batch(2)",
    "slice(3)",
    "indent(9)",
    "replace('a', 'aa')",
    "round(2)",
    "abs",
    "sum",
    "max",
    "default('d')",
    "truncate(5)",
    "center(99)",
    "e",
    "safe",
    "format(1)",
    "wordcount",
    "filesizeformat",
];
const METHODS: [&str; 32] = [
    "split()",
    "split(',', 1)",
    "rsplit(' ', 1)",
    "splitlines()",
    "strip('a ')",
    "partition(' ')",
    "replace('', 'z')",
    "find('a', 1, -1)",
    "count('')",
    "format(1, 2)",
    "zfill(40)",
    "ljust(50, 'é')",
    "join(['a', 'b'])",
    "upper()",
    "startswith(('a', 'b'))",
    "expandtabs(5)",
    "items()",
    "keys()",
    "values()",
    "get('k')",
    "index(1)",
    "copy()",
    "append(1)",
    "isdigit()",
    "title()",
    "cycle(1, 2)",
    "changed(1)",
    "a",
    "role",
    "content",
    "function",
    "__class__",
];
const OPERATORS: [&str; 20] = [
    "+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or", "is not",
    "if", "is", "|",
];

/// Bytes that select parts of the language.
struct Choices<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl Choices<'_> {
    fn next(&mut self, bound: usize) -> usize {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        usize::from(byte.wrapping_mul(167) ^ (byte >> 3)) % bound
    }

    fn expression(&mut self, out: &mut String) {
        self.depth += 1;
        let shallow = self.depth < 6 && self.at < self.bytes.len();
        match if shallow { self.next(12) } else { 0 } {
            0..=3 => out.push_str(VALUES[self.next(VALUES.len())]),
            4 | 5 => {
                self.expression(out);
                out.push_str(" | ");
                out.push_str(FILTERS[self.next(FILTERS.len())]);
            }
            6 => {
                out.push('(');
                self.expression(out);
                out.push_str(").");
                out.push_str(METHODS[self.next(METHODS.len())]);
            }
            7 | 8 => {
                self.expression(out);
                out.push_str(&format!(" {} ", OPERATORS[self.next(OPERATORS.len())]));
                self.expression(out);
            }
            9 => {
                out.push_str(["[", "(", "-(", "not ("][self.next(4)]);
                let close = if out.ends_with('[') { ", ns.l]" } else { ")" };
                self.expression(out);
                out.push_str(close);
            }
            10 => {
                self.expression(out);
                out.push_str(["[0]", "[-1:]", "[::-1]", "['k']", "[1:9:2]", "(1)"][self.next(6)]);
            }
            _ => {
                self.expression(out);
                out.push_str(" is ");
                let tests =
                    ["defined", "none", "string", "iterable", "mapping", "odd", "in [1]", "eq 1", "sequence"];
                out.push_str(tests[self.next(tests.len())]);
            }
        }
        self.depth -= 1;
    }

    fn statement(&mut self, out: &mut String) {
        self.depth += 1;
        let kind = if self.depth < 5 { self.next(10) } else { 0 };
        match kind {
            0 | 1 => {
                out.push_str("{{ ");
                self.expression(out);
                out.push_str(" }}");
            }
            2 | 3 => {
                out.push_str(
                    ["{% set x = ", "{% set ns.a = ", "{% set ns.s = ", "{% set ns.l = "][self.next(4)],
                );
                self.expression(out);
                out.push_str(" %}");
            }
            4 => self.wrapped(out, "{% if ", " %}", "{% endif %}"),
            5 => self.wrapped(out, "{% for x in ", " %}", "{% endfor %}"),
            6 => self.wrapped(out, "{% for x in ", " recursive %}{{ loop(ns.l) }}", "{% endfor %}"),
            7 => self.wrapped(out, "{% macro m(a, b=", ") %}", "{% endmacro %}{{ m(1) }}"),
            8 => self.wrapped(out, "{% call m(", ") %}", "{% endcall %}"),
            _ => self.wrapped(out, "{% set x | replace('a', ", ") %}", "{% endset %}"),
        }
        self.depth -= 1;
    }

    fn wrapped(&mut self, out: &mut String, before: &str, behind: &str, end: &str) {
        out.push_str(before);
        self.expression(out);
        out.push_str(behind);
        for _ in 0..1 + self.next(3) {
            self.statement(out);
        }
        out.push_str(end);
    }
}
