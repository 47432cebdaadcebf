//! Takes keys out of a JSON object one by one, so that what is left at the end is unknown.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::ShapeError;

/// Longest value that an error message shows, in characters.
const SHOWN: usize = 60;

/// The keys of an object that were not taken yet.
pub(super) struct Keys<'a> {
    path: &'a Path,
    /// What stands before a key in messages: empty, or `rope_parameters.`
    prefix: String,
    map: Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(path: &'a Path, prefix: &str, map: Map<String, Value>) -> Self {
        Self { path, prefix: prefix.to_owned(), map }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// Takes a key; an absent key and `null` are both `None`.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key).filter(|value| !value.is_null())
    }

    /// Takes a key that may be `null` but must be there.
    pub(super) fn take_nullable(
        &mut self,
        key: &str,
        advice: &'static str,
    ) -> Result<Option<Value>, ShapeError> {
        match self.map.shift_remove(key) {
            None => Err(self.missing(key, advice)),
            Some(Value::Null) => Ok(None),
            Some(value) => Ok(Some(value)),
        }
    }

    /// Takes a key that must be there and not `null`.
    pub(super) fn require(&mut self, key: &str, advice: &'static str) -> Result<Value, ShapeError> {
        self.take(key).ok_or_else(|| self.missing(key, advice))
    }

    /// Takes a required positive integer.
    pub(super) fn require_count(
        &mut self,
        key: &str,
        advice: &'static str,
    ) -> Result<i64, ShapeError> {
        let value = self.require(key, advice)?;
        self.count(key, &value)
    }

    /// Takes an optional positive integer.
    pub(super) fn take_count(&mut self, key: &str) -> Result<Option<i64>, ShapeError> {
        self.take(key).map(|value| self.count(key, &value)).transpose()
    }

    /// Takes a required positive number.
    pub(super) fn require_number(
        &mut self,
        key: &str,
        advice: &'static str,
    ) -> Result<f64, ShapeError> {
        let value = self.require(key, advice)?;
        self.number(key, &value)
    }

    /// Takes an optional positive number.
    pub(super) fn take_number(&mut self, key: &str) -> Result<Option<f64>, ShapeError> {
        self.take(key).map(|value| self.number(key, &value)).transpose()
    }

    /// Takes an optional boolean.
    pub(super) fn take_bool(&mut self, key: &str) -> Result<Option<bool>, ShapeError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let flag = value.as_bool();
        flag.map(Some).ok_or_else(|| self.bad(key, &value, "must be true or false"))
    }

    /// Takes an optional text.
    pub(super) fn take_text(&mut self, key: &str) -> Result<Option<String>, ShapeError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value {
            Value::String(text) => Ok(Some(text)),
            other => Err(self.bad(key, &other, "must be a text")),
        }
    }

    /// Takes a key that may be absent and otherwise must hold one of `neutral`.
    pub(super) fn expect_neutral(
        &mut self,
        key: &str,
        neutral: &[Value],
        expected: &str,
    ) -> Result<(), ShapeError> {
        match self.take(key) {
            Some(value) if !neutral.contains(&value) => Err(self.bad(key, &value, expected)),
            _ => Ok(()),
        }
    }

    /// Refuses what is left.
    pub(super) fn finish(mut self) -> Result<(), ShapeError> {
        let Some(key) = self.map.keys().next().cloned() else { return Ok(()) };
        let value = self.map.shift_remove(&key).unwrap_or_default();
        Err(ShapeError::UnknownKey {
            key: format!("{}{key}", self.prefix),
            value: shown(&value),
            path: self.path.to_owned(),
        })
    }

    pub(super) fn missing(&self, key: &str, advice: &'static str) -> ShapeError {
        ShapeError::MissingKey {
            key: format!("{}{key}", self.prefix),
            path: self.path.to_owned(),
            advice,
        }
    }

    pub(super) fn bad(&self, key: &str, found: &Value, expected: &str) -> ShapeError {
        ShapeError::BadValue {
            key: format!("{}{key}", self.prefix),
            found: shown(found),
            expected: expected.to_owned(),
            path: self.path.to_owned(),
        }
    }

    fn count(&self, key: &str, value: &Value) -> Result<i64, ShapeError> {
        // Products of two sizes must fit into an i64 with room.
        let count = value.as_i64().filter(|count| (1..=i64::from(i32::MAX)).contains(count));
        count.ok_or_else(|| self.bad(key, value, "must be a positive integer"))
    }

    fn number(&self, key: &str, value: &Value) -> Result<f64, ShapeError> {
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        number.ok_or_else(|| self.bad(key, value, "must be a positive number"))
    }
}

/// A value as JSON, cut to what fits a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN {
        return text;
    }
    text.chars().take(SHOWN).chain("...".chars()).collect()
}
