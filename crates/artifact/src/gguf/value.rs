//! Metadata values of a GGUF file and their conversions. Vocabularies are the large ones: an array of strings is one text and
//! a list of ends, so 150,000 tokens take two allocations.

use std::borrow::Cow;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    /// Boxed, because a hostile file can hold very many small values.
    Array(Box<Array>),
}

/// An array of one element type. Arrays of arrays are refused by the reader.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    Strings(StringArray),
}

impl Value {
    /// The type's name, with its article, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::U8(_) | Value::U16(_) | Value::U32(_) | Value::U64(_) => "an unsigned integer",
            Value::I8(_) | Value::I16(_) | Value::I32(_) | Value::I64(_) => "a signed integer",
            Value::F32(_) | Value::F64(_) => "a float",
            Value::Bool(_) => "a truth value",
            Value::String(_) => "a string",
            Value::Array(array) => match **array {
                Array::U8(_) | Array::U16(_) | Array::U32(_) | Array::U64(_) => "an array of unsigned integers",
                Array::I8(_) | Array::I16(_) | Array::I32(_) | Array::I64(_) => "an array of signed integers",
                Array::F32(_) | Array::F64(_) => "an array of floats",
                Array::Bool(_) => "an array of truth values",
                Array::Strings(_) => "an array of strings",
            },
        }
    }

    /// Any integer, widened.
    fn integer(&self) -> Option<i128> {
        Some(match self {
            Value::U8(value) => i128::from(*value),
            Value::I8(value) => i128::from(*value),
            Value::U16(value) => i128::from(*value),
            Value::I16(value) => i128::from(*value),
            Value::U32(value) => i128::from(*value),
            Value::I32(value) => i128::from(*value),
            Value::U64(value) => i128::from(*value),
            Value::I64(value) => i128::from(*value),
            _ => return None,
        })
    }
}

/// Strings, one after the other in one allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StringArray {
    text: String,
    /// INVARIANT: ascending, each at a character boundary of `text`, the last its length.
    ends: Vec<usize>,
}

impl StringArray {
    pub fn with_capacity(strings: usize) -> StringArray {
        StringArray { text: String::new(), ends: Vec::with_capacity(strings) }
    }

    pub fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends.push(self.text.len());
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let begin = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.text.get(begin..end)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + DoubleEndedIterator {
        (0..self.ends.len()).map(|index| self.get(index).unwrap_or_default())
    }
}

impl<S: AsRef<str>> FromIterator<S> for StringArray {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> StringArray {
        let strings = strings.into_iter();
        let mut array = StringArray::with_capacity(strings.size_hint().0);
        strings.for_each(|string| array.push(string.as_ref()));
        array
    }
}

/// What [`super::Gguf::get`] can convert a value to.
pub trait FromValue<'a>: Sized {
    /// Says what was wanted, in an error.
    const EXPECTED: &'static str;
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! from_integer {
    ($($type:ty, $expected:literal;)*) => {$(
        impl FromValue<'_> for $type {
            const EXPECTED: &'static str = $expected;
            fn from_value(value: &Value) -> Option<Self> {
                <$type>::try_from(value.integer()?).ok()
            }
        }
    )*};
}

from_integer! {
    u32, "an integer from 0 to 4294967295";
    i32, "an integer of 32 bits";
    u64, "an integer that is not negative";
    i64, "an integer of 64 bits";
    usize, "an integer that is not negative";
}

impl FromValue<'_> for f32 {
    const EXPECTED: &'static str = "a float";
    fn from_value(value: &Value) -> Option<f32> {
        match value {
            Value::F32(value) => Some(*value),
            Value::F64(value) => Some(*value as f32),
            _ => None,
        }
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "a truth value";
    fn from_value(value: &Value) -> Option<bool> {
        if let Value::Bool(value) = value { Some(*value) } else { None }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string";
    fn from_value(value: &'a Value) -> Option<&'a str> {
        if let Value::String(value) = value { Some(value) } else { None }
    }
}

impl<'a> FromValue<'a> for &'a Array {
    const EXPECTED: &'static str = "an array";
    fn from_value(value: &'a Value) -> Option<&'a Array> {
        if let Value::Array(array) = value { Some(array) } else { None }
    }
}

impl<'a> FromValue<'a> for &'a StringArray {
    const EXPECTED: &'static str = "an array of strings";
    fn from_value(value: &'a Value) -> Option<&'a StringArray> {
        if let Array::Strings(strings) = <&Array>::from_value(value)? { Some(strings) } else { None }
    }
}

impl<'a> FromValue<'a> for &'a [f32] {
    const EXPECTED: &'static str = "an array of 32-bit floats";
    fn from_value(value: &'a Value) -> Option<&'a [f32]> {
        if let Array::F32(floats) = <&Array>::from_value(value)? { Some(floats) } else { None }
    }
}

macro_rules! from_integers {
    ($($type:ty, $variant:ident, $expected:literal;)*) => {$(
        impl<'a> FromValue<'a> for Cow<'a, [$type]> {
            const EXPECTED: &'static str = $expected;
            fn from_value(value: &'a Value) -> Option<Self> {
                fn convert<T: Copy>(values: &[T]) -> Option<Vec<$type>> where $type: TryFrom<T> {
                    values.iter().map(|value| <$type>::try_from(*value).ok()).collect()
                }
                let array = <&Array>::from_value(value)?;
                if let Array::$variant(exact) = array {
                    return Some(Cow::Borrowed(exact));
                }
                Some(Cow::Owned(match array {
                    Array::U8(values) => convert(values)?,
                    Array::I8(values) => convert(values)?,
                    Array::U16(values) => convert(values)?,
                    Array::I16(values) => convert(values)?,
                    Array::U32(values) => convert(values)?,
                    Array::I32(values) => convert(values)?,
                    Array::U64(values) => convert(values)?,
                    Array::I64(values) => convert(values)?,
                    Array::F32(_) | Array::F64(_) | Array::Bool(_) | Array::Strings(_) => return None,
                }))
            }
        }
    )*};
}

from_integers! {
    i32, I32, "an array of 32-bit integers";
    u32, U32, "an array of integers from 0 to 4294967295";
}

macro_rules! into_value {
    ($($type:ty, $value:ident, $array:ident;)*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Value {
                Value::$value(value)
            }
        }
        impl From<Vec<$type>> for Value {
            fn from(values: Vec<$type>) -> Value {
                Value::Array(Box::new(Array::$array(values)))
            }
        }
    )*};
}

into_value! {
    u8, U8, U8;
    i8, I8, I8;
    u16, U16, U16;
    i16, I16, I16;
    u32, U32, U32;
    i32, I32, I32;
    u64, U64, U64;
    i64, I64, I64;
    f32, F32, F32;
    f64, F64, F64;
    bool, Bool, Bool;
}

impl From<&str> for Value {
    fn from(value: &str) -> Value {
        Value::String(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Value {
        Value::String(value)
    }
}

impl From<StringArray> for Value {
    fn from(strings: StringArray) -> Value {
        Value::Array(Box::new(Array::Strings(strings)))
    }
}

impl From<&[&str]> for Value {
    fn from(strings: &[&str]) -> Value {
        strings.iter().collect::<StringArray>().into()
    }
}

/// The type codes of the format (`enum gguf_metadata_value_type`).
pub(super) mod code {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}
