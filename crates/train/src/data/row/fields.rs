//! The fields of one JSON object, taken out one by one, each complaint with its path.

use serde_json::{Map, Value};

use crate::data::Reason;

pub struct Fields {
    /// With a dot behind it, or empty.
    prefix: String,
    map: Map<String, Value>,
}

impl Fields {
    pub fn new(prefix: String, map: Map<String, Value>) -> Self {
        Self { prefix, map }
    }

    /// The fields of `value`, which stands at `path`.
    pub fn of(path: &str, value: Value) -> Result<Self, Reason> {
        match value {
            Value::Object(map) => Ok(Self::new(format!("{path}."), map)),
            _ => Err(wrong(path, "an object")),
        }
    }

    pub fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    pub fn is_list(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_array)
    }

    /// None where it is absent or null.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|value| !value.is_null())
    }

    pub fn text(&mut self, key: &str) -> Result<String, Reason> {
        self.optional_text(key)?.ok_or_else(|| Reason::Missing { field: self.path(key) })
    }

    pub fn filled_text(&mut self, key: &str) -> Result<String, Reason> {
        let text = self.text(key)?;
        if text.trim().is_empty() { Err(Reason::Empty { field: self.path(key) }) } else { Ok(text) }
    }

    pub fn optional_text(&mut self, key: &str) -> Result<Option<String>, Reason> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(&self.path(key), "text")),
        }
    }

    pub fn list(&mut self, key: &str) -> Result<Vec<Value>, Reason> {
        self.optional_list(key)?.ok_or_else(|| Reason::Missing { field: self.path(key) })
    }

    pub fn optional_list(&mut self, key: &str) -> Result<Option<Vec<Value>>, Reason> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(wrong(&self.path(key), "a list")),
        }
    }

    pub fn object(&mut self, key: &str) -> Result<Fields, Reason> {
        let path = self.path(key);
        let value = self.take(key).ok_or_else(|| Reason::Missing { field: path.clone() })?;
        Fields::of(&path, value)
    }
}

pub fn wrong(path: &str, expected: &'static str) -> Reason {
    Reason::WrongType { field: path.to_owned(), expected }
}

/// A word of a file, fit for a message.
pub fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}
