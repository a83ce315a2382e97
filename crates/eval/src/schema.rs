//! Whether a tool's arguments fit its parameters: JSON Schema, compiled once when the suite is read.

use serde_json::Value;

/// A compiled schema.
#[derive(Debug)]
pub struct Schema(jsonschema::Validator);

impl Schema {
    /// # Errors
    /// Why it is no schema. References that leave the document are not followed.
    pub fn new(schema: &Value) -> Result<Self, String> {
        jsonschema::validator_for(schema).map(Self).map_err(|error| error.to_string())
    }

    pub fn allows(&self, arguments: &Value) -> bool {
        self.0.is_valid(arguments)
    }
}

/// Equal as JSON means it: numbers by value, objects whatever their order, texts trimmed and composed alike.
pub fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::String(a), Value::String(b)) => crate::text::nfc(a.trim()) == crate::text::nfc(b.trim()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_equal_by_meaning() {
        let a = json!({"amount": 5, "to": " Oman ", "more": [1.0, {"x": null}]});
        assert!(equal(&a, &json!({"to": "Oman", "more": [1, {"x": null}], "amount": 5.0})));
        for other in [json!({"amount": 5}), json!({"amount": "5", "to": "Oman", "more": [1, {"x": null}]})] {
            assert!(!equal(&a, &other), "{other}");
        }
    }

    #[test]
    fn schemas_bind_and_stay_at_home() {
        let schema =
            Schema::new(&json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}));
        let schema = schema.unwrap();
        assert!(schema.allows(&json!({"n": 3})));
        assert!(!schema.allows(&json!({"n": "3"})) && !schema.allows(&json!({})));
        assert!(Schema::new(&json!({"$ref": "http://127.0.0.1:9/none"})).is_err());
        assert!(Schema::new(&json!({"type": "nothing"})).is_err());
    }
}
