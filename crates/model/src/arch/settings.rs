//! Typed access to a checkpoint's settings, with errors that name the file and the key.

use crate::Error;
use kvant_io::{Array, Metadata, Value};
use serde_json::Value as Json;
use std::path::Path;

/// The largest dimension that a file may have: far above real models, and the product of two dimensions fits 64 bits.
pub(super) const LARGEST_DIMENSION: u64 = 1 << 28;

/// `config.json` or GGUF metadata, with the path for error messages.
#[derive(Clone, Copy)]
pub(super) enum Settings<'a> {
    Json(&'a Path, &'a Json),
    Gguf(&'a Path, &'a Metadata),
}

enum Found<'a> {
    Json(&'a Json),
    Gguf(&'a Value),
}

impl Found<'_> {
    fn describe(&self) -> String {
        match self {
            Self::Json(Json::Object(_)) => "an object".into(),
            Self::Json(Json::Array(_)) | Self::Gguf(Value::Array(_)) => "an array".into(),
            Self::Json(x) => x.to_string(),
            Self::Gguf(Value::String(s)) => format!("{s:?}"),
            Self::Gguf(x) => format!("{x:?}"),
        }
    }
}

impl<'a> Settings<'a> {
    fn path(&self) -> &'a Path {
        match self {
            Self::Json(path, _) | Self::Gguf(path, _) => path,
        }
    }

    fn find(&self, key: &str) -> Option<Found<'a>> {
        match self {
            Self::Json(_, json) => json.get(key).filter(|v| !v.is_null()).map(Found::Json),
            Self::Gguf(_, metadata) => metadata.get(key).map(Found::Gguf),
        }
    }

    /// Builds an error about `key`.
    pub fn error(&self, key: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::Setting {
            path: self.path().to_owned(),
            key: key.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn wrong_value(&self, key: &str, expected: &str, found: &Found) -> Error {
        self.error(key, expected, found.describe())
    }

    /// Returns a positive integer, or `None` if the key is absent.
    pub fn optional_count(&self, key: &str) -> Result<Option<usize>, Error> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let number = match &found {
            // Python writes an integer as 512.0 if it is the result of a float computation.
            Found::Json(x) => {
                let whole = x.as_f64().filter(|x| x.fract() == 0.0 && (0.0..=1e15).contains(x));
                x.as_u64().or(whole.map(|x| x as u64))
            }
            Found::Gguf(x) => x.as_u64(),
        };
        match number {
            Some(n) if (1..=LARGEST_DIMENSION).contains(&n) => Ok(Some(n as usize)),
            _ => Err(self.wrong_value(key, "a whole number from 1 to 2^28", &found)),
        }
    }

    /// Returns a positive integer, or `None` if the key is absent or 0.
    pub fn optional_length(&self, key: &str) -> Result<Option<usize>, Error> {
        let zero = match self.find(key) {
            Some(Found::Json(x)) => x.as_f64() == Some(0.0),
            Some(Found::Gguf(x)) => x.as_u64() == Some(0),
            None => false,
        };
        if zero { Ok(None) } else { self.optional_count(key) }
    }

    /// Returns a positive integer.
    pub fn count(&self, key: &str) -> Result<usize, Error> {
        self.optional_count(key)?.ok_or_else(|| self.error(key, "a whole number", "nothing"))
    }

    /// Returns a positive integer for each of `length` blocks: one number for all of them, or a GGUF list. `None` if the
    /// key is absent.
    pub fn optional_counts(&self, key: &str, length: usize) -> Result<Option<Vec<usize>>, Error> {
        self.counts_from(1, key, length)
    }

    /// Like [`Settings::optional_counts`], but a number of a list may be 0.
    pub fn optional_lengths(&self, key: &str, length: usize) -> Result<Option<Vec<usize>>, Error> {
        self.counts_from(0, key, length)
    }

    fn counts_from(&self, least: u64, key: &str, length: usize) -> Result<Option<Vec<usize>>, Error> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let Found::Gguf(Value::Array(array)) = &found else {
            return Ok(self.optional_count(key)?.map(|count| vec![count; length]));
        };
        let counts: Option<Vec<u64>> = match array {
            Array::U32(all) => Some(all.iter().map(|x| u64::from(*x)).collect()),
            Array::I32(all) => all.iter().map(|x| u64::try_from(*x).ok()).collect(),
            _ => None,
        };
        let valid = counts.filter(|all| all.iter().all(|n| (least..=LARGEST_DIMENSION).contains(n)));
        match valid {
            Some(all) if all.len() == length => Ok(Some(all.into_iter().map(|n| n as usize).collect())),
            _ => {
                let expected = format!("a list of {length} whole numbers from {least} to 2^28");
                Err(self.wrong_value(key, &expected, &found))
            }
        }
    }

    /// Returns a finite number, or `None` if the key is absent.
    pub fn optional_number(&self, key: &str) -> Result<Option<f32>, Error> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let number = match &found {
            Found::Json(x) => x.as_f64(),
            Found::Gguf(x) => x.as_f64().or(x.as_u64().map(|n| n as f64)),
        };
        match number {
            Some(x) if x.is_finite() && (x as f32).is_finite() => Ok(Some(x as f32)),
            _ => Err(self.wrong_value(key, "a finite number", &found)),
        }
    }

    /// Returns a number above zero, or `None` if the key is absent.
    pub fn optional_positive(&self, key: &str) -> Result<Option<f32>, Error> {
        match self.optional_number(key)? {
            Some(x) if x <= 0.0 => Err(self.error(key, "a number above zero", x.to_string())),
            found => Ok(found),
        }
    }

    /// Returns a number above zero, or the default if the key is absent.
    pub fn positive(&self, key: &str, default: f32) -> Result<f32, Error> {
        Ok(self.optional_positive(key)?.unwrap_or(default))
    }

    /// Returns a string, or `None` if the key is absent.
    pub fn optional_text(&self, key: &str) -> Result<Option<&'a str>, Error> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let text = match &found {
            Found::Json(x) => x.as_str(),
            Found::Gguf(x) => x.as_str(),
        };
        text.map(Some).ok_or_else(|| self.wrong_value(key, "a string", &found))
    }

    /// Returns a boolean, or `None` if the key is absent.
    pub fn optional_flag(&self, key: &str) -> Result<Option<bool>, Error> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let flag = match &found {
            Found::Json(x) => x.as_bool(),
            Found::Gguf(x) => x.as_bool(),
        };
        flag.map(Some).ok_or_else(|| self.wrong_value(key, "true or false", &found))
    }

    /// Returns a boolean, false if the key is absent.
    pub fn flag(&self, key: &str) -> Result<bool, Error> {
        Ok(self.optional_flag(key)?.unwrap_or(false))
    }

    /// Returns finite numbers, or `None` if the key is absent.
    pub fn optional_numbers(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let numbers: Option<Vec<f32>> = match &found {
            Found::Json(Json::Array(all)) => all.iter().map(|x| x.as_f64().map(|x| x as f32)).collect(),
            Found::Gguf(Value::Array(Array::F32(all))) => Some(all.clone()),
            _ => None,
        };
        let numbers = numbers.filter(|all| all.iter().all(|x| x.is_finite()));
        numbers.map(Some).ok_or_else(|| self.wrong_value(key, "a list of finite numbers", &found))
    }

    /// Returns a list of booleans, or `None` if the key is absent. Numbers count as true unless they are 0.
    pub fn optional_flags(&self, key: &str) -> Result<Option<Vec<bool>>, Error> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let flag = |x: &Json| x.as_bool().or(x.as_i64().map(|x| x != 0));
        let flags: Option<Vec<bool>> = match &found {
            Found::Json(Json::Array(all)) => all.iter().map(flag).collect(),
            Found::Gguf(Value::Array(Array::Bool(all))) => Some(all.clone()),
            Found::Gguf(Value::Array(Array::I32(all))) => Some(all.iter().map(|x| *x != 0).collect()),
            Found::Gguf(Value::Array(Array::U32(all))) => Some(all.iter().map(|x| *x != 0).collect()),
            _ => None,
        };
        flags.map(Some).ok_or_else(|| self.wrong_value(key, "a list of true and false", &found))
    }

    /// Returns a JSON list of strings, or `None` if the key is absent.
    pub fn optional_texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, Error> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let texts: Option<Vec<&'a str>> = match &found {
            Found::Json(Json::Array(all)) => all.iter().map(|x| x.as_str()).collect(),
            _ => None,
        };
        texts.map(Some).ok_or_else(|| self.wrong_value(key, "a list of strings", &found))
    }

    /// Returns true if the value of `key` is a list.
    pub fn is_list(&self, key: &str) -> bool {
        matches!(self.find(key), Some(Found::Json(Json::Array(_)) | Found::Gguf(Value::Array(_))))
    }

    /// Returns a nested JSON object, or `None` if the key is absent. GGUF has no nested objects.
    pub fn section(&self, key: &str) -> Result<Option<Settings<'a>>, Error> {
        match self.find(key) {
            None => Ok(None),
            Some(Found::Json(json @ Json::Object(_))) => Ok(Some(Settings::Json(self.path(), json))),
            Some(found) => Err(self.wrong_value(key, "an object", &found)),
        }
    }
}
