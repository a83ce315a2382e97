//! Values as Python prints them.

use std::fmt;

use minijinja::value::{Value, ValueKind};

/// `str(value)` in Python: what a template prints.
pub(super) fn python_str(out: &mut dyn fmt::Write, value: &Value) -> fmt::Result {
    match value.as_str() {
        Some(text) => out.write_str(text),
        None if value.is_undefined() => Ok(()),
        None => python_repr(out, value, 0),
    }
}

pub(super) fn python_repr(out: &mut dyn fmt::Write, value: &Value, depth: usize) -> fmt::Result {
    if depth > MAX_DEPTH {
        return Err(fmt::Error);
    }
    match value.kind() {
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::None => out.write_str("None"),
        ValueKind::String => {
            let text = value.as_str().unwrap_or("");
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            out.write_char(quote)?;
            for c in text.chars() {
                match c {
                    '\n' => out.write_str("\\n")?,
                    '\r' => out.write_str("\\r")?,
                    '\t' => out.write_str("\\t")?,
                    '\\' => out.write_str("\\\\")?,
                    c if c == quote => write!(out, "\\{c}")?,
                    c => out.write_char(c)?,
                }
            }
            out.write_char(quote)
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.write_char('[')?;
            for (at, item) in value.try_iter().map_err(|_| fmt::Error)?.enumerate() {
                out.write_str(if at > 0 { ", " } else { "" })?;
                python_repr(out, &item, depth + 1)?;
            }
            out.write_char(']')
        }
        ValueKind::Map => {
            out.write_char('{')?;
            for (at, key) in value.try_iter().map_err(|_| fmt::Error)?.enumerate() {
                out.write_str(if at > 0 { ", " } else { "" })?;
                python_repr(out, &key, depth + 1)?;
                out.write_str(": ")?;
                python_repr(out, &value.get_item(&key).unwrap_or_default(), depth + 1)?;
            }
            out.write_char('}')
        }
        _ => write!(out, "{value}"),
    }
}

/// Deeper values fail to print.
const MAX_DEPTH: usize = 64;
