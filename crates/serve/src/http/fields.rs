//! Reads the fields of a JSON body.
//!
//! Each field has one of three kinds. Fields that are read change the answer. Fields that are known to be harmless, and
//! unknown fields, are ignored, and a header of the response names them. Fields that would change the answer, and that
//! this server does not have, are refused.

use super::error::ApiError;
use serde_json::{Map, Value};

/// The fields of a body that are not read yet.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Parses a body.
    ///
    /// # Errors
    /// A body that is not a JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(ApiError::invalid("the body must be a JSON object")),
            Err(error) => Err(ApiError::invalid(format!("the body is not JSON: {error}"))),
        }
    }

    /// Reads the fields of an object.
    pub fn of(fields: Map<String, Value>) -> Self {
        Self(fields)
    }

    /// Sets a field.
    pub fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// Returns copies of fields that are not null.
    pub fn copy(&self, names: &[&str]) -> Map<String, Value> {
        let is_wanted =
            |(name, value): &(&String, &Value)| names.contains(&name.as_str()) && !value.is_null();
        self.0.iter().filter(is_wanted).map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// True if a field is absent or an empty list.
    pub fn is_empty_list(&self, name: &str) -> bool {
        match self.0.get(name) {
            None | Some(Value::Null) => true,
            Some(value) => value.as_array().is_some_and(Vec::is_empty),
        }
    }

    /// Returns a field. `null` counts as absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Returns the first of several names of one field, and removes all of them.
    fn any(&mut self, names: &[&'static str]) -> Option<(&'static str, Value)> {
        let mut found = None;
        for name in names {
            let value = self.take(name).map(|value| (*name, value));
            found = found.or(value);
        }
        found
    }

    /// Returns a number. `names` are the names of one field; the first counts.
    ///
    /// # Errors
    /// A value of another type.
    pub fn number(&mut self, names: &[&'static str]) -> Result<Option<f32>, ApiError> {
        let Some((name, value)) = self.any(names) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| ApiError::parameter(name, "expected a number"))?;
        Ok(Some(number as f32))
    }

    /// Returns a whole number of at least `least`.
    ///
    /// # Errors
    /// Another value.
    pub fn integer(&mut self, names: &[&'static str], least: i64) -> Result<Option<i64>, ApiError> {
        let Some((name, value)) = self.any(names) else { return Ok(None) };
        let whole = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 9e15);
        match value.as_i64().or(whole.map(|number| number as i64)) {
            Some(number) if number >= least => Ok(Some(number)),
            _ => Err(ApiError::parameter(name, format!("expected a whole number of at least {least}"))),
        }
    }

    /// Returns the field `seed`, any 64-bit number.
    ///
    /// # Errors
    /// Another value.
    pub fn seed(&mut self) -> Result<Option<i64>, ApiError> {
        if let Some(seed) = self.0.get("seed").and_then(Value::as_u64) {
            self.take("seed");
            return Ok(Some(seed.cast_signed()));
        }
        self.integer(&["seed"], i64::MIN)
    }

    /// Returns true or false.
    ///
    /// # Errors
    /// Another value.
    pub fn flag(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| ApiError::parameter(name, "expected true or false"))
    }

    /// Returns a text.
    ///
    /// # Errors
    /// Another value.
    pub fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ApiError::parameter(name, "expected a text")),
        }
    }

    /// Returns one text or a list of texts.
    ///
    /// # Errors
    /// Another value; more than `most` texts.
    pub fn texts(&mut self, name: &'static str, most: usize) -> Result<Vec<String>, ApiError> {
        let text = |value| match value {
            Value::String(text) => Ok(text),
            _ => Err(ApiError::parameter(name, "expected a text or a list of texts")),
        };
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(texts)) if texts.len() > most => {
                Err(ApiError::parameter(name, format!("{} texts, at most {most} allowed", texts.len())))
            }
            Some(Value::Array(texts)) => texts.into_iter().map(text).collect(),
            Some(value) => Ok(vec![text(value)?]),
        }
    }

    /// Returns a list.
    ///
    /// # Errors
    /// Another value.
    pub fn list(&mut self, name: &'static str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(_) => Err(ApiError::parameter(name, "expected a list")),
        }
    }

    /// Returns an object.
    ///
    /// # Errors
    /// Another value.
    pub fn object(&mut self, name: &'static str) -> Result<Option<Map<String, Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(fields)),
            Some(_) => Err(ApiError::parameter(name, "expected an object")),
        }
    }

    /// Refuses fields that would change the answer. Empty texts, empty lists, empty objects and `false` have no effect.
    ///
    /// # Errors
    /// The first of them that has a value.
    pub fn refuse(&mut self, names: &[&str]) -> Result<(), ApiError> {
        for name in names {
            let empty = |value: &Value| match value {
                Value::Array(values) => values.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                Value::String(text) => text.is_empty(),
                value => *value == Value::Bool(false),
            };
            if self.take(name).is_some_and(|value| !empty(&value)) {
                return Err(ApiError::not_supported(name, "this server does not have it"));
            }
        }
        Ok(())
    }

    /// Returns the names of the fields that were not read.
    pub fn ignored(self) -> Vec<String> {
        self.0.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name).collect()
    }
}
