//! JSON as Python's `json.dumps` writes it: models were trained on its spaces.

use std::fmt::Write;

use serde_json::Value;

/// `json.dumps(value, ensure_ascii=False)`, with `indent` and `sort_keys` as there.
pub(crate) fn dumps(value: &Value, indent: Option<usize>, sort_keys: bool) -> String {
    let mut out = String::new();
    write(&mut out, value, indent, sort_keys, 0);
    out
}

fn write(out: &mut String, value: &Value, indent: Option<usize>, sort: bool, depth: usize) {
    let separator = if indent.is_some() { "," } else { ", " };
    let newline = |out: &mut String, depth: usize| {
        if let Some(width) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width.saturating_mul(depth)));
        }
    };
    match value {
        Value::Array(list) => {
            out.push('[');
            for (at, item) in list.iter().enumerate() {
                if at > 0 {
                    out.push_str(separator);
                }
                newline(out, depth + 1);
                write(out, item, indent, sort, depth + 1);
            }
            if !list.is_empty() {
                newline(out, depth);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            if sort {
                entries.sort_by_key(|(key, _)| key.as_str());
            }
            out.push('{');
            for (at, (key, item)) in entries.iter().enumerate() {
                if at > 0 {
                    out.push_str(separator);
                }
                newline(out, depth + 1);
                string(out, key);
                out.push_str(": ");
                write(out, item, indent, sort, depth + 1);
            }
            if !entries.is_empty() {
                newline(out, depth);
            }
            out.push('}');
        }
        Value::String(text) => string(out, text),
        Value::Number(number) => out.push_str(&python_number(&number.to_string())),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Null => out.push_str("null"),
    }
}

fn string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Python writes `1e+20` and `1e-07` where Rust writes `1e20` and `1e-7`.
fn python_number(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else { return text.to_owned() };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent.strip_prefix('+').unwrap_or(exponent)),
    };
    let mantissa = mantissa.strip_suffix(".0").unwrap_or(mantissa);
    format!("{mantissa}e{sign}{digits:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn looks_like_python() {
        let value = json!({"b": [1, 2.5, "é\n\"", null, true], "a": {}, "n": 1e20});
        assert_eq!(dumps(&value, None, false), r#"{"b": [1, 2.5, "é\n\"", null, true], "a": {}, "n": 1e+20}"#);
        assert_eq!(dumps(&json!({"b": [1], "a": {}}), Some(2), true), "{\n  \"a\": {},\n  \"b\": [\n    1\n  ]\n}");
    }
}
