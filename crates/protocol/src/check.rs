//! Reads JSON into request types and says exactly what is wrong: every problem carries `loc`, `msg` and `type` in
//! pydantic's words, because that is what the clients' error classes parse. Several problems are reported at once.
//! `null` counts as absent (Python clients send it for unset options) and unknown fields are ignored.

use std::fmt::Display;

use serde::Serialize;
use serde_json::{Map, Value};

/// One step of the path to a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Loc {
    Field(String),
    Index(usize),
}

/// One thing wrong with a request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub loc: Vec<Loc>,
    pub msg: String,
    /// The offending value when it is small; containers and long strings are not echoed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
}

impl Problem {
    pub fn new(kind: &'static str, loc: &[&str], msg: impl Into<String>) -> Self {
        let loc = loc.iter().map(|step| Loc::Field((*step).to_owned())).collect();
        Self { kind, loc, msg: msg.into(), input: None }
    }

    /// The path as OpenAI writes it: `messages[0].content`. `None` for the body itself.
    pub fn param(&self) -> Option<String> {
        let mut path = String::new();
        for step in self.loc.iter().skip(1) {
            match step {
                Loc::Field(name) if path.is_empty() => path.push_str(name),
                Loc::Field(name) => path.extend([".", name]),
                Loc::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        (!path.is_empty()).then_some(path)
    }
}

impl Display for Problem {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.param() {
            Some(param) => write!(out, "{param}: {}", self.msg),
            None => out.write_str(&self.msg),
        }
    }
}

/// Parses a whole body with `read`. Nesting is bounded (serde_json stops at 128 levels).
///
/// # Errors
/// Every problem found, at least one, at most [`MOST_PROBLEMS`].
pub fn parse<T>(body: &[u8], read: impl FnOnce(&mut Checker, Value) -> Option<T>) -> Result<T, Vec<Problem>> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let msg = format!("the body is not valid UTF-8 from byte {}; send JSON in UTF-8", error.valid_up_to());
        vec![Problem { kind: "json_invalid", loc: body_at(error.valid_up_to()), msg, input: None }]
    })?;
    let value = serde_json::from_str(text).map_err(|error| {
        let msg = format!("JSON decode error: {error}");
        vec![Problem { kind: "json_invalid", loc: body_at(offset(text, &error)), msg, input: None }]
    })?;
    let mut checker = Checker { loc: vec![Loc::Field("body".to_owned())], problems: Vec::new() };
    let parsed = read(&mut checker, value);
    match parsed {
        Some(parsed) if checker.problems.is_empty() => Ok(parsed),
        _ => {
            if checker.problems.is_empty() {
                checker.problem("value_error", "the request could not be read", None);
            }
            Err(checker.problems)
        }
    }
}

/// More than this helps nobody and would let a body grow its own answer.
pub const MOST_PROBLEMS: usize = 16;

/// Where the reader stands and what it found. Readers return `None` after recording a problem.
#[derive(Debug)]
pub struct Checker {
    loc: Vec<Loc>,
    problems: Vec<Problem>,
}

/// A JSON object whose fields are taken one by one.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Checker {
    pub fn problem(&mut self, kind: &'static str, msg: impl Into<String>, input: Option<&Value>) {
        if self.problems.len() < MOST_PROBLEMS {
            let input = input.filter(|value| small(value)).cloned();
            self.problems.push(Problem { kind, loc: self.loc.clone(), msg: msg.into(), input });
        }
    }

    /// Runs `read` one step deeper.
    pub fn at<T>(&mut self, step: Loc, read: impl FnOnce(&mut Self) -> T) -> T {
        self.loc.push(step);
        let result = read(self);
        self.loc.pop();
        result
    }

    /// Records a problem of the field `name`.
    pub fn field_problem(&mut self, name: &str, kind: &'static str, msg: impl Into<String>) {
        self.at(Loc::Field(name.to_owned()), |c| c.problem(kind, msg, None));
    }

    pub fn fields(&mut self, value: Value) -> Option<Fields> {
        match value {
            Value::Object(map) => Some(Fields(map)),
            other => self.wrong("dict_type", "Input should be a valid dictionary", &other),
        }
    }

    /// The field if it is there, not null and readable.
    pub fn optional<T>(
        &mut self,
        fields: &mut Fields,
        name: &str,
        read: impl FnOnce(&mut Self, Value) -> Option<T>,
    ) -> Option<T> {
        let value = fields.take(name)?;
        self.at(Loc::Field(name.to_owned()), |c| read(c, value))
    }

    pub fn required<T>(
        &mut self,
        fields: &mut Fields,
        name: &str,
        read: impl FnOnce(&mut Self, Value) -> Option<T>,
    ) -> Option<T> {
        self.at(Loc::Field(name.to_owned()), |c| match fields.take(name) {
            Some(value) => read(c, value),
            None => {
                c.problem("missing", "Field required", None);
                None
            }
        })
    }

    pub fn string(&mut self, value: Value) -> Option<String> {
        match value {
            Value::String(text) => Some(text),
            other => self.wrong("string_type", "Input should be a valid string", &other),
        }
    }

    pub fn boolean(&mut self, value: Value) -> Option<bool> {
        match value {
            Value::Bool(flag) => Some(flag),
            other => self.wrong("bool_type", "Input should be a valid boolean", &other),
        }
    }

    /// Any JSON object, kept as it is.
    pub fn object(&mut self, value: Value) -> Option<Value> {
        if value.is_object() {
            Some(value)
        } else {
            self.wrong("dict_type", "Input should be a valid dictionary", &value)
        }
    }

    /// A whole number in `least..=most`; `3.0` counts as 3.
    pub fn integer(&mut self, value: Value, least: i64, most: i64) -> Option<i64> {
        let whole = value.as_i64().or_else(|| {
            let float = value.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 9.0e15)?;
            Some(float as i64)
        });
        match whole {
            Some(number) if number < least => self.wrong("greater_than_equal", at_least(least), &value),
            Some(number) if number > most => self.wrong("less_than_equal", at_most(most), &value),
            Some(number) => Some(number),
            // A number beyond i64, of whatever sign, is out of any range that a field here has.
            None if value.is_u64() => self.wrong("less_than_equal", at_most(most), &value),
            None => self.wrong("int_type", "Input should be a valid integer", &value),
        }
    }

    pub fn u32(&mut self, value: Value, least: u32) -> Option<u32> {
        let number = self.integer(value, i64::from(least), i64::from(u32::MAX))?;
        u32::try_from(number).ok()
    }

    /// A finite number in `least..=most`.
    pub fn number(&mut self, value: Value, least: f64, most: f64) -> Option<f32> {
        match value.as_f64() {
            Some(number) if number < least => self.wrong("greater_than_equal", at_least(least), &value),
            Some(number) if number > most => self.wrong("less_than_equal", at_most(most), &value),
            Some(number) => Some(number as f32),
            None => self.wrong("float_type", "Input should be a valid number", &value),
        }
    }

    pub fn list<T>(&mut self, value: Value, mut read: impl FnMut(&mut Self, Value) -> Option<T>) -> Option<Vec<T>> {
        let Value::Array(items) = value else {
            return self.wrong("list_type", "Input should be a valid list", &value);
        };
        let expected = items.len();
        let mut list = Vec::with_capacity(expected.min(4096));
        for (index, item) in items.into_iter().enumerate() {
            // Without this, a million wrong items would cost a million dead readings.
            if self.problems.len() >= MOST_PROBLEMS {
                return None;
            }
            list.extend(self.at(Loc::Index(index), |c| read(c, item)));
        }
        (list.len() == expected).then_some(list)
    }

    /// One of a few words.
    pub fn word<T: Copy>(&mut self, value: Value, words: &[(&str, T)]) -> Option<T> {
        let found = value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
        match found {
            Some((_, meaning)) => Some(*meaning),
            None => self.wrong("literal_error", one_of(words.iter().map(|(word, _)| *word)), &value),
        }
    }

    /// Records a problem with this value and gives nothing.
    pub fn wrong<T>(&mut self, kind: &'static str, msg: impl Into<String>, input: &Value) -> Option<T> {
        self.problem(kind, msg, Some(input));
        None
    }
}

impl Fields {
    /// Takes a field out; null is absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.get_mut(name).map(Value::take).filter(|value| !value.is_null())
    }

    /// The text of a field, left in place. For discriminators such as `type` and `role`.
    pub fn peek(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| !value.is_null())
    }
}

/// "Input should be 'a', 'b' or 'c'".
pub fn one_of<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let quoted: Vec<String> = words.map(|word| format!("'{word}'")).collect();
    match quoted.split_last() {
        Some((last, [])) => format!("Input should be {last}"),
        Some((last, rest)) => format!("Input should be {} or {last}", rest.join(", ")),
        None => "Input should be absent".to_owned(),
    }
}

fn at_least(bound: impl Display) -> String {
    format!("Input should be greater than or equal to {bound}")
}

fn at_most(bound: impl Display) -> String {
    format!("Input should be less than or equal to {bound}")
}

fn small(value: &Value) -> bool {
    match value {
        Value::String(text) => text.len() <= 200,
        Value::Array(_) | Value::Object(_) => false,
        _ => true,
    }
}

fn body_at(byte: usize) -> Vec<Loc> {
    vec![Loc::Field("body".to_owned()), Loc::Index(byte)]
}

/// Byte offset of a serde_json error, which speaks of lines and columns.
fn offset(text: &str, error: &serde_json::Error) -> usize {
    let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    (before + error.column().saturating_sub(1)).min(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(body: &str) -> String {
        let result = parse(body.as_bytes(), |c, value| {
            let mut fields = c.fields(value)?;
            let name = c.required(&mut fields, "name", Checker::string);
            let count = c.optional(&mut fields, "count", |c, v| c.integer(v, 0, 10));
            let list = c.optional(&mut fields, "list", |c, v| c.list(v, Checker::string));
            let mode = c.optional(&mut fields, "mode", |c, v| c.word(v, &[("auto", 1), ("none", 2)]));
            Some((name?, count, list, mode))
        });
        match result {
            Ok(_) => "ok".to_owned(),
            Err(problems) => serde_json::to_string(&problems).expect("problems are plain data"),
        }
    }

    #[test]
    fn null_is_absent_and_unknown_fields_pass() {
        assert_eq!(problems(r#"{"name":"x","count":null,"list":null,"other":{}}"#), "ok");
        assert_eq!(problems(r#"{"name":"x","count":3.0}"#), "ok");
    }

    #[test]
    fn every_problem_names_its_place() {
        assert_eq!(
            problems(r#"{"count":11,"list":["a",2],"mode":"both"}"#),
            concat!(
                r#"[{"type":"missing","loc":["body","name"],"msg":"Field required"},"#,
                r#"{"type":"less_than_equal","loc":["body","count"],"msg":"Input should be less than or equal to 10","input":11},"#,
                r#"{"type":"string_type","loc":["body","list",1],"msg":"Input should be a valid string","input":2},"#,
                r#"{"type":"literal_error","loc":["body","mode"],"msg":"Input should be 'auto' or 'none'","input":"both"}]"#,
            )
        );
    }

    #[test]
    fn broken_json_names_the_byte() {
        assert!(problems("{\n  \"name\": x}").contains(r#""loc":["body",12]"#));
        assert!(problems(&"[".repeat(100_000)).contains("recursion limit"));
        let bad = parse(b"{\"a\":\"\xff\"}", |_, _| Some(())).expect_err("not UTF-8");
        assert_eq!(bad.first().map(|problem| problem.loc.clone()), Some(body_at(6)));
    }

    #[test]
    fn problems_are_bounded() {
        let body = format!("{{\"name\":\"x\",\"list\":[{}1]}}", "1,".repeat(10_000));
        assert_eq!(problems(&body).matches("string_type").count(), MOST_PROBLEMS);
    }
}
