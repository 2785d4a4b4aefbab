//! Reads the JSON files of a model folder, as Python writes them, in bounded memory.
//!
//! Python's `json` writes `NaN`, `Infinity` and `-Infinity`, which are not valid JSON. Here they become strings with
//! this spelling. So such a value does no harm in an unused setting. In a setting that kvant uses, it leads to an error
//! that names the setting. A byte order mark is skipped. Invariant: the parsed file takes at most
//! [`Limits::json_heap_bytes`] of memory, for every content.

use crate::{Error, Limits, Links, read_file};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;
use std::path::Path;

/// First bytes of a Git LFS pointer file, which replaces the real file until `git lfs pull`.
const LFS: &[u8] = b"version https://git-lfs";
/// The UTF-8 byte order mark.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads the bytes of a file of a model folder, without a byte order mark; returns `None` if there is no such file.
///
/// # Errors
/// The errors of [`read_file`]; [`Error::NotRecognised`] for a Git LFS pointer.
pub(crate) fn beside(path: &Path, limits: &Limits) -> Result<Option<Vec<u8>>, Error> {
    let Some(mut bytes) = read_file(path, Links::InsideModel, limits.json_bytes)? else { return Ok(None) };
    refuse_pointer(path, &bytes)?;
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(Some(bytes))
}

/// Returns an error if `bytes` are a Git LFS pointer and not the real file.
///
/// # Errors
/// [`Error::NotRecognised`] for a Git LFS pointer.
pub(crate) fn refuse_pointer(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if bytes.starts_with(LFS) {
        return Err(Error::NotRecognised {
            path: path.into(),
            found: "a Git LFS pointer, not the file itself",
            hint: "run `git lfs pull` in its folder, or download the file",
        });
    }
    Ok(())
}

/// Reads and parses a JSON file of a model folder; returns `None` if there is no such file.
///
/// # Errors
/// The errors of [`beside`]; [`Error::Json`] with line and column for text that is not valid JSON.
pub(crate) fn read_json(path: &Path, limits: &Limits) -> Result<Option<Value>, Error> {
    let Some(bytes) = beside(path, limits)? else { return Ok(None) };
    parse_json(&bytes, limits.json_heap_bytes)
        .map(Some)
        .map_err(|source| Error::Json { path: path.into(), source })
}

/// Parses JSON; also accepts Python's `NaN`, `Infinity` and `-Infinity`. The value takes at most `heap_bytes` bytes of
/// memory.
///
/// # Errors
/// The errors of `serde_json`; an error for a text whose value would take more memory.
pub fn parse_json(bytes: &[u8], heap_bytes: usize) -> Result<Value, serde_json::Error> {
    let parse = |bytes: &[u8]| {
        let left = Cell::new(heap_bytes);
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let value = Bounded(&left).deserialize(&mut deserializer)?;
        deserializer.end().map(|()| value)
    };
    parse(bytes).or_else(|error| match quote_numbers(bytes) {
        Some(quoted) if error.is_syntax() => parse(&quoted),
        _ => Err(error),
    })
}

/// Reads one value of a larger JSON text. The value takes at most `heap_bytes` bytes of memory. This is for types that
/// deserialize the other parts of the text themselves.
///
/// # Errors
/// The errors of the deserializer; an error for a value that would take more memory.
pub fn bounded_value<'de, D: Deserializer<'de>>(
    deserializer: D,
    heap_bytes: usize,
) -> Result<Value, D::Error> {
    Bounded(&Cell::new(heap_bytes)).deserialize(deserializer)
}

/// Returns the text with quotes around every `NaN`, `Infinity` and `-Infinity` outside of strings; `None` if the text
/// has none of these words.
fn quote_numbers(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut quoted = Vec::with_capacity(bytes.len());
    let (mut at, mut in_string, mut found) = (0, false, false);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let word: Option<&[u8]> =
            [&b"NaN"[..], b"Infinity", b"-Infinity"].into_iter().find(|w| rest.starts_with(w));
        match (in_string, bytes[at], word) {
            (false, _, Some(word)) => {
                quoted.push(b'"');
                quoted.extend_from_slice(word);
                quoted.push(b'"');
                (at, found) = (at + word.len(), true);
                continue;
            }
            // The character after the backslash may be a quote. This quote does not end the string.
            (true, b'\\', _) if rest.len() > 1 => {
                quoted.extend_from_slice(&rest[..2]);
                at += 2;
                continue;
            }
            (_, b'"', _) => in_string = !in_string,
            _ => {}
        }
        quoted.push(bytes[at]);
        at += 1;
    }
    found.then_some(quoted)
}

/// Size in bytes of a value in its array or object, without the memory that the value itself allocates.
const VALUE_BYTES: usize = size_of::<Value>();
/// Estimated overhead of the allocator for one allocation, in bytes.
const ALLOCATION_BYTES: usize = 16;
/// Bytes of an entry of an object: key, value, hash and index in the hash table. The factor 2 is for tables that are
/// only half full.
const ENTRY_BYTES: usize = 2 * (VALUE_BYTES + size_of::<String>() + 2 * size_of::<usize>());

/// Deserializes a value and subtracts the memory of the value from a budget, in bytes.
#[derive(Clone, Copy)]
struct Bounded<'a>(&'a Cell<usize>);

impl Bounded<'_> {
    /// Subtracts `bytes` from the budget; returns an error if the budget is too small.
    fn take<E: serde::de::Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.0.get().checked_sub(bytes).ok_or_else(|| {
            E::custom("the file holds so many small values that it would take too much memory")
        })?;
        self.0.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, x: bool) -> Result<Value, E> {
        Ok(Value::Bool(x))
    }

    fn visit_i64<E>(self, x: i64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_u64<E>(self, x: u64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_f64<E: serde::de::Error>(self, x: f64) -> Result<Value, E> {
        Number::from_f64(x).map(Value::Number).ok_or_else(|| E::custom("a number beyond what f64 can say"))
    }

    fn visit_str<E: serde::de::Error>(self, x: &str) -> Result<Value, E> {
        self.take(x.len() + ALLOCATION_BYTES)?;
        Ok(Value::String(x.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.take(ALLOCATION_BYTES)?;
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            // Factor 2, because a vector doubles its capacity when it grows.
            self.take(2 * VALUE_BYTES)?;
            all.push(item);
        }
        all.shrink_to_fit();
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.take(4 * ALLOCATION_BYTES)?;
        let mut all = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.take(key.len() + ALLOCATION_BYTES + ENTRY_BYTES)?;
            let value = entries.next_value_seed(self)?;
            // If several entries have the same key, the last entry counts, as in Python.
            all.insert(key, value);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serde_reads_is_read_alike() {
        for text in [
            r#"{"a":[1,-2,3.5,true,null,"x\"NaN\\"],"b":{"c":{}},"한":"\u00e9"}"#,
            "[]",
            "18446744073709551615",
            "-1e-3",
            "[",
            "{\"a\":}",
            "1 2",
            "nan",
        ] {
            let expected = serde_json::from_str::<Value>(text).ok();
            assert_eq!(parse_json(text.as_bytes(), 1 << 16).ok(), expected, "{text}");
        }
    }

    #[test]
    fn numbers_that_are_none_become_their_names() {
        let found =
            parse_json(br#"{"a":NaN,"b":[Infinity,-Infinity],"c":"NaN \" Infinity"}"#, 1 << 16).unwrap();
        let expected =
            serde_json::json!({ "a": "NaN", "b": ["Infinity", "-Infinity"], "c": "NaN \" Infinity" });
        assert_eq!(found, expected);
    }

    #[test]
    fn small_values_are_bounded() {
        let many = format!("[{}1]", "[1],".repeat(10_000));
        assert!(parse_json(many.as_bytes(), 1 << 20).unwrap_err().to_string().contains("memory"));
        assert!(parse_json(many.as_bytes(), 4 << 20).is_ok());
        assert_eq!(parse_json(br#"{"a":1,"a":2}"#, 1 << 16).unwrap(), serde_json::json!({ "a": 2 }));
    }
}
