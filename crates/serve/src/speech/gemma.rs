//! Reads a call as Gemma 4 writes it: `call:NAME{key:VALUE,…}`. Texts stand between two marks `<|"|>`.

use serde_json::{Map, Value};

/// The mark before and after a text.
const QUOTE: &str = "<|\"|>";
/// The beginning of a call.
const CALL: &str = "call:";
/// Largest depth of values.
const DEEPEST: usize = 64;

/// Returns the name and the arguments of a call; `None` if `text` is something else.
pub fn call(text: &str) -> Option<(String, Value)> {
    let text = text.trim().strip_prefix(CALL)?;
    let brace = text.find('{')?;
    let (name, rest) = (text[..brace].trim().to_owned(), &text[brace..]);
    // A grammar makes the arguments JSON.
    if let Ok(arguments) = serde_json::from_str(rest) {
        return Some((name, arguments));
    }
    let mut reader = Reader { rest };
    let arguments = reader.value(0)?;
    reader.rest.trim().is_empty().then_some((name, arguments))
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn take(&mut self, mark: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(mark) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn text(&mut self) -> Option<&'a str> {
        let (text, rest) = self.rest.split_once(QUOTE)?;
        self.rest = rest;
        Some(text)
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > DEEPEST {
            return None;
        }
        if self.take(QUOTE) {
            return self.text().map(Value::from);
        }
        if self.take("{") {
            let mut fields = Map::new();
            while !self.take("}") {
                let key = if self.take(QUOTE) { self.text()? } else { self.word(":")? };
                if !self.take(":") {
                    return None;
                }
                fields.insert(key.trim().to_owned(), self.value(depth + 1)?);
                self.take(",");
            }
            return Some(Value::Object(fields));
        }
        if self.take("[") {
            let mut values = Vec::new();
            while !self.take("]") {
                values.push(self.value(depth + 1)?);
                self.take(",");
            }
            return Some(Value::Array(values));
        }
        let word = self.word(",}]")?.trim();
        (!word.is_empty()).then(|| serde_json::from_str(word).unwrap_or_else(|_| word.into()))
    }

    /// The text before the first of `ends`.
    fn word(&mut self, ends: &str) -> Option<&'a str> {
        let end = self.rest.find(|c| ends.contains(c))?;
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::call;
    use serde_json::json;

    #[test]
    fn calls_become_json() {
        let text = "call:f{city:<|\"|>Paris, {\"x\"}<|\"|>,days:3,deep:{a:[1,true,<|\"|>b<|\"|>],<|\"|>c d<|\"|>:null}}";
        let arguments =
            json!({ "city": "Paris, {\"x\"}", "days": 3, "deep": { "a": [1, true, "b"], "c d": null } });
        assert_eq!(call(text), Some(("f".to_owned(), arguments)));
        assert_eq!(call("call:f{\"a\": \"}\"}"), Some(("f".to_owned(), json!({ "a": "}" }))));
        assert_eq!(call("call:now{}"), Some(("now".to_owned(), json!({}))));
        for text in ["", "call:f", "call:f{", "call:f{a}", "call:f{a:1}x", "f{}", "call:f{a:<|\"|>x}"] {
            assert_eq!(call(text), None, "{text}");
        }
        assert_eq!(call(&format!("call:f{{a:{}", "[".repeat(100_000))), None);
    }
}
