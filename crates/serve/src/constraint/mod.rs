//! Answers that fit a grammar: JSON Schema, a regular expression, GBNF or Lark.
//!
//! `llguidance` parses the grammar and computes, before each token, the tokens that fit. Its limits bound the time and the
//! memory of a grammar, and of each step.

mod error;
mod gbnf;

pub use error::GrammarError;

use error::GRAMMAR_BYTES;
use kvant::model::{TokenMask, Tokenizer};
use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Logger, Matcher, ParserFactory};
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// A form of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// A JSON object.
    JsonObject,
    /// JSON that fits a schema.
    JsonSchema(Value),
    /// A text that a regular expression matches, as a whole.
    Regex(String),
    /// llama.cpp's grammar format.
    Gbnf(String),
    /// The grammar format of the parser generator Lark, as `llguidance` reads it.
    Lark(String),
}

/// Compiles grammars for the vocabulary of a model.
pub struct Grammars {
    factory: ParserFactory,
    /// Tokens that end an answer.
    ends: Arc<[u32]>,
    vocabulary: usize,
    tokenizer: Arc<Tokenizer>,
}

/// The longest part of an error message that is shown.
const MESSAGE_CHARACTERS: usize = 500;

fn grammar_error(error: impl std::fmt::Display) -> GrammarError {
    GrammarError::Grammar(error.to_string().chars().take(MESSAGE_CHARACTERS).collect())
}

/// Calls `llguidance`. A panic in it is an error of the grammar, so that it ends one request only.
fn guarded<T, E: std::fmt::Display>(call: impl FnOnce() -> Result<T, E>) -> Result<T, GrammarError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(grammar_error),
        Err(_) => Err(grammar_error("the grammar cannot be followed")),
    }
}

impl Grammars {
    /// Reads the vocabulary. `vocabulary` is the number of logits.
    ///
    /// # Errors
    /// A vocabulary without a token that ends an answer.
    pub fn new(tokenizer: &Arc<Tokenizer>, vocabulary: usize) -> Result<Self, GrammarError> {
        let ends: Arc<[u32]> = tokenizer.end_of_generation().into();
        let end = ends
            .first()
            .ok_or_else(|| GrammarError::Grammar("the model has no token that ends an answer".to_owned()))?;
        let word = |id: u32| {
            if id as usize >= tokenizer.len() {
                Vec::new()
            } else if tokenizer.is_control(id) {
                [&[TokTrie::SPECIAL_TOKEN_MARKER], tokenizer.piece(id).as_bytes()].concat()
            } else {
                tokenizer.bytes(id, false)
            }
        };
        let words: Vec<Vec<u8>> = (0..vocabulary as u32).map(word).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocabulary as u32, *end), &words);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(grammar_error)?;
        factory.quiet();
        Ok(Self { factory, ends, vocabulary, tokenizer: tokenizer.clone() })
    }

    /// Compiles a grammar.
    ///
    /// # Errors
    /// A grammar with an error, or one that is too large.
    pub fn compile(&self, grammar: &Grammar) -> Result<Constraint, GrammarError> {
        let size = match grammar {
            Grammar::JsonObject => 0,
            Grammar::JsonSchema(schema) => schema.to_string().len(),
            Grammar::Regex(text) | Grammar::Gbnf(text) | Grammar::Lark(text) => text.len(),
        };
        if size > GRAMMAR_BYTES {
            return Err(GrammarError::Large { found: size });
        }
        let grammar = match grammar {
            Grammar::JsonObject => json_schema(json!({ "type": "object" })),
            Grammar::JsonSchema(schema) => json_schema(schema.clone()),
            Grammar::Regex(expression) => TopLevelGrammar::from_regex(expression),
            Grammar::Gbnf(text) => TopLevelGrammar::from_lark(gbnf::to_lark(text)?),
            Grammar::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        };
        let limits = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
        let matcher = guarded(|| {
            let matcher = Matcher::new(self.factory.create_parser_from_init_ext(
                GrammarInit::Serialized(grammar),
                Logger::new(0, 0),
                InferenceCapabilities::default(),
                limits,
            ));
            matcher.get_error().map_or(Ok(matcher), Err)
        })?;
        Ok(Constraint {
            matcher,
            ends: self.ends.clone(),
            vocabulary: self.vocabulary,
            after: None,
            prepared: None,
            tokenizer: self.tokenizer.clone(),
        })
    }
}

/// Closes objects that list their properties, as llama.cpp does. A schema that wants other properties says so.
pub fn close_objects(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("properties").is_some_and(Value::is_object)
                && !fields.contains_key("additionalProperties")
            {
                fields.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            // The values of these fields are examples, not schemas.
            let schemas =
                fields.iter_mut().filter(|(name, _)| !["const", "enum", "default"].contains(&name.as_str()));
            schemas.for_each(|(_, value)| close_objects(value));
        }
        Value::Array(values) => values.iter_mut().for_each(close_objects),
        _ => {}
    }
}

/// A grammar of a schema, with llama.cpp's bounded spaces. With any number of spaces, small models write nothing else.
fn json_schema(mut schema: Value) -> TopLevelGrammar {
    close_objects(&mut schema);
    if let Some(schema) = schema.as_object_mut() {
        let options = schema.entry("x-guidance").or_insert_with(|| json!({}));
        if let Some(options) = options.as_object_mut() {
            options.entry("whitespace_pattern").or_insert_with(|| r" |\n{1,2}[ \t]{0,20}".into());
        }
    }
    TopLevelGrammar::from_json_schema(schema)
}

/// The state of an answer that must fit a grammar.
pub struct Constraint {
    matcher: Matcher,
    ends: Arc<[u32]>,
    vocabulary: usize,
    /// The grammar holds after this text. The second text is the answer's last part.
    after: Option<(&'static str, String)>,
    /// The result of [`Constraint::mask`], if it was computed before it was needed.
    prepared: Option<Result<Option<TokenMask>, GrammarError>>,
    tokenizer: Arc<Tokenizer>,
}

impl Clone for Constraint {
    /// The clone shares nothing with the original, so both can run on different threads.
    fn clone(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            ends: self.ends.clone(),
            vocabulary: self.vocabulary,
            after: self.after.clone(),
            prepared: None,
            tokenizer: self.tokenizer.clone(),
        }
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

impl Constraint {
    /// The grammar holds for the part of the answer after `text`, for example the end of the reasoning.
    #[must_use]
    pub fn after(self, text: &'static str) -> Self {
        Self { after: Some((text, String::new())), ..self }
    }

    /// The tokens that may come next; `None`: all. If the answer is complete, the tokens that end it are among them.
    ///
    /// # Errors
    /// The grammar exceeds a limit of a step.
    pub fn mask(&mut self) -> Result<Option<TokenMask>, GrammarError> {
        self.prepared.take().unwrap_or_else(|| self.compute_mask())
    }

    /// Computes the next mask, so that [`Constraint::mask`] only returns it.
    pub fn prepare(&mut self) {
        if self.prepared.is_none() {
            self.prepared = Some(self.compute_mask());
        }
    }

    fn compute_mask(&mut self) -> Result<Option<TokenMask>, GrammarError> {
        if self.after.is_some() {
            return Ok(None);
        }
        let allowed = guarded(|| self.matcher.compute_mask_or_eos())?;
        let mut mask = TokenMask::of_words(self.vocabulary, allowed.as_slice());
        if self.ends.first().is_some_and(|end| mask.allows(*end)) {
            self.ends.iter().for_each(|end| mask.allow(*end));
        }
        Ok(Some(mask))
    }

    /// Appends a token that the mask allows.
    ///
    /// # Errors
    /// A token that does not fit.
    pub fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        self.prepared = None;
        if self.ends.contains(&token) {
            return Ok(());
        }
        if let Some((text, seen)) = &mut self.after {
            seen.push_str(&self.tokenizer.piece(token));
            if seen.contains(*text) {
                self.after = None;
            } else {
                let mut from = seen.len().saturating_sub(text.len());
                while !seen.is_char_boundary(from) {
                    from -= 1;
                }
                seen.drain(..from);
            }
            return Ok(());
        }
        guarded(|| self.matcher.consume_token(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvant::Model;
    use kvant::model::Special;

    /// True if the grammar accepts `text` as a whole, token by token.
    fn accepts(grammars: &Grammars, tokenizer: &Tokenizer, grammar: &Grammar, text: &str) -> bool {
        let mut constraint = grammars.compile(grammar).unwrap();
        for token in tokenizer.encode(text, Special { add: false, parse: false }).unwrap() {
            if !constraint.mask().unwrap().unwrap().allows(token) {
                return false;
            }
            constraint.accept(token).unwrap();
        }
        constraint.mask().unwrap().unwrap().allows(tokenizer.end_of_generation()[0])
    }

    fn demo() -> (Grammars, Arc<Tokenizer>) {
        let model = Model::demo().unwrap();
        let tokenizer = Arc::new(model.tokenizer().unwrap());
        (Grammars::new(&tokenizer, model.weights().spec().vocabulary).unwrap(), tokenizer)
    }

    #[test]
    fn a_grammar_accepts_its_texts_only() {
        let (grammars, tokenizer) = demo();
        let schema = json!({
            "type": "object",
            "properties": { "name": { "type": "string" }, "age": { "type": "integer" } },
            "required": ["name", "age"],
            "additionalProperties": false,
        });
        let gbnf = |text: &str| Grammar::Gbnf(text.to_owned());
        for (grammar, yes, no) in [
            (Grammar::JsonObject, &["{}", "{\"a\": [1, true]}"][..], &["[]", "{", "{}x"][..]),
            (
                Grammar::JsonSchema(schema),
                &["{\"name\": \"한국\", \"age\": 3}"],
                &["{\"name\": \"x\"}", "{\"name\": 1, \"age\": 3}"],
            ),
            (
                Grammar::JsonSchema(
                    json!({ "type": "object", "properties": { "a": { "type": "integer" } } }),
                ),
                &["{\"a\": 1}", "{}"],
                &["{\"b\": 1}", "{\"a\": 1, \"b\": 1}"],
            ),
            (Grammar::Regex("[0-9]{3}-[0-9]{4}".to_owned()), &["123-4567"], &["123-456", "12-34567"]),
            (Grammar::Lark("start: \"a\"+ \"b\"".to_owned()), &["aab", "ab"], &["b", "aa"]),
            (gbnf("root ::= \"yes\" | \"no\""), &["yes", "no"], &["ye", "maybe", "yesno"]),
            // Longest match would take `ab`, and then miss `c`.
            (gbnf("root ::= \"a\" \"b\" | \"ab\" \"c\""), &["ab", "abc"], &["a", "abb"]),
            (
                gbnf(
                    "# a list\nroot ::= item (\",\" ws item)*\nitem ::= [a-z]+ | [^a-z,\\n]{2,3}\nws ::= \" \"?",
                ),
                &["abc", "a, b,c", "가나", "12,x"],
                &["", "a,", "1", "1234"],
            ),
            (gbnf("root ::= \"\\x41\\u00e9\\\"\" .\n"), &["Aé\"x"], &["Aé\"", "A"]),
            (
                gbnf("root ::= sub-rule{2} sub_rule{0,1}\nsub-rule ::= \"x\"\nsub_rule ::= \"y\""),
                &["xx", "xxy"],
                &["x", "xy", "xxx"],
            ),
        ] {
            for text in yes {
                assert!(accepts(&grammars, &tokenizer, &grammar, text), "{grammar:?} must accept {text:?}");
            }
            for text in no {
                assert!(
                    !accepts(&grammars, &tokenizer, &grammar, text),
                    "{grammar:?} must not accept {text:?}"
                );
            }
        }
    }

    #[test]
    fn a_panic_is_an_error_of_the_grammar() {
        let outcome: Result<(), GrammarError> = guarded(|| -> Result<(), String> { panic!("a test") });
        assert!(matches!(outcome, Err(GrammarError::Grammar(_))));
    }

    #[test]
    fn hostile_grammars_give_a_short_error_or_work() {
        let (grammars, _) = demo();
        let mut deep = json!({ "type": "string" });
        for _ in 0..100 {
            deep = json!({ "type": "array", "items": deep, "minItems": 100, "maxItems": 100_000 });
        }
        let many: serde_json::Map<String, Value> =
            (0..20_000).map(|index| (format!("property{index}"), json!({ "type": "string" }))).collect();
        let all: Vec<Value> = (0..40)
            .map(|index| json!({ "properties": { format!("p{index}"): { "type": "string", "pattern": "(a|b){1,1000}" } } }))
            .collect();
        for grammar in [
            Grammar::JsonSchema(deep),
            Grammar::JsonSchema(json!({ "type": "object", "properties": many })),
            Grammar::JsonSchema(json!({ "allOf": all, "type": "nothing" })),
            Grammar::Regex("((a{1,1000}){1,1000}){1,1000}".to_owned()),
            Grammar::Regex("(".repeat(100_000)),
            Grammar::Gbnf("root ::= ".to_owned() + &"(".repeat(100_000)),
            Grammar::Gbnf("root ::= \"a\"{1000000,2000000}".to_owned()),
            Grammar::Gbnf("root ::= root".to_owned() + &" root".repeat(60_000)),
            Grammar::Lark("start: start".to_owned() + &" start".repeat(60_000)),
            Grammar::Lark("x".repeat(GRAMMAR_BYTES + 1)),
        ] {
            let outcome = grammars.compile(&grammar).and_then(|mut constraint| constraint.mask());
            let message = outcome.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(message.chars().count() <= MESSAGE_CHARACTERS + 20, "{message}");
        }
    }
}
