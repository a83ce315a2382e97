//! A table of hostile files. Each is a good file with one lie in it, and each lie has its own error.

use falaj_artifact::ArtifactError;
use falaj_artifact::gguf::Gguf;
use falaj_artifact::safetensors::SafetensorsIndex;

use crate::samples::{gguf, replace, safetensors, safetensors_with};

type Expected = fn(&ArtifactError) -> bool;

macro_rules! expected {
    ($($pattern:tt)*) => {{
        const EXPECTED: Expected = |error| matches!(error, ArtifactError::$($pattern)*);
        EXPECTED
    }};
}

#[test]
fn safetensors_that_lie() {
    let good = safetensors();
    let mut claims_everything = good.clone();
    claims_everything[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut claims_a_little_more = good.clone();
    claims_a_little_more[..8].copy_from_slice(&(good.len() as u64 - 7).to_le_bytes());
    let mut not_json = good.clone();
    not_json[8] = b'[';
    let a = r#""a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}"#;
    let with = |entries: &str, data_bytes| safetensors_with(&format!("{{{entries}}}"), data_bytes);
    let table: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("nothing", vec![], expected!(Truncated { .. })),
        ("half a length", good[..5].to_vec(), expected!(Truncated { .. })),
        ("a header of 2^64 bytes", claims_everything, expected!(HeaderTooLarge { .. })),
        ("a header beyond the file", claims_a_little_more, expected!(Truncated { .. })),
        ("no object", not_json, expected!(NotThisFormat { .. })),
        ("cut data", good[..good.len() - 1].to_vec(), expected!(OutsideFile { .. })),
        ("data after the last tensor", [&good[..], b"!"].concat(), expected!(Hole { .. })),
        ("a hole", with(&a.replace("[0,24]", "[8,32]"), 32), expected!(Hole { begin: 0, end: 8 })),
        ("a shape too large for its range", with(&a.replace("[2,3]", "[2,4]"), 24), expected!(SizeMismatch { .. })),
        (
            "a shape that wraps to the right size",
            with(&a.replace("[2,3]", "[9223372036854775811,2]"), 24),
            expected!(ShapeOverflow { .. }),
        ),
        (
            "bytes that wrap to the right size",
            with(&a.replace("[2,3]", "[4611686018427387910]"), 24),
            expected!(ShapeOverflow { .. }),
        ),
        (
            "a zero that hides an overflow",
            with(&a.replace("[2,3]", "[0,9223372036854775807,9]"), 24),
            expected!(ShapeOverflow { .. }),
        ),
        (
            "nine dimensions",
            with(&a.replace("[2,3]", "[2,3,1,1,1,1,1,1,1]"), 24),
            expected!(TooManyDimensions { rank: 9, .. }),
        ),
        ("a negative dimension", with(&a.replace("[2,3]", "[-2,-3]"), 24), expected!(Json { .. })),
        ("a broken dimension", with(&a.replace("[2,3]", "[2.0,3]"), 24), expected!(Json { .. })),
        ("a range backwards", with(&a.replace("[0,24]", "[24,0]"), 24), expected!(OutsideFile { .. })),
        (
            "a range beyond 2^64",
            with(&a.replace("[0,24]", "[0,18446744073709551615]"), 24),
            expected!(OutsideFile { .. }),
        ),
        ("a range of three numbers", with(&a.replace("[0,24]", "[0,24,25]"), 24), expected!(Json { .. })),
        ("one name twice", with(&format!("{a},{}", a.replace("[0,24]", "[24,48]")), 48), expected!(Duplicate { .. })),
        (
            "one name twice by escape",
            with(&format!("{a},{}", a.replace("\"a\"", "\"\\u0061\"").replace("[0,24]", "[24,48]")), 48),
            expected!(Duplicate { .. }),
        ),
        ("one field twice", with(&a.replace("\"shape\"", "\"shape\":[6],\"shape\""), 24), expected!(Json { .. })),
        ("two metadata", with(r#""__metadata__":{},"__metadata__":{}"#, 0), expected!(Json { .. })),
        ("one metadata key twice", with(r#""__metadata__":{"a":"b","a":"c"}"#, 0), expected!(Json { .. })),
        ("metadata that is no text", with(r#""__metadata__":{"a":1}"#, 0), expected!(Json { .. })),
        ("overlapping tensors", with(&format!("{a},{}", a.replace("\"a\"", "\"b\"")), 24), expected!(Overlap { .. })),
        (
            "partly overlapping tensors",
            with(&format!("{a},{}", a.replace("\"a\"", "\"b\"").replace("[0,24]", "[20,44]")), 44),
            expected!(Overlap { .. }),
        ),
        (
            "an empty tensor inside another",
            with(&format!(r#"{a},"b":{{"dtype":"F32","shape":[0],"data_offsets":[12,12]}}"#), 24),
            expected!(Overlap { .. }),
        ),
        ("no name", with(&a.replace("\"a\"", "\"\""), 24), expected!(BadName { .. })),
        ("a name that clears the screen", with(&a.replace("\"a\"", "\"\\u001b[2J\""), 24), expected!(BadName { .. })),
        ("a missing field", with(&a.replace(",\"data_offsets\":[0,24]", ""), 24), expected!(Json { .. })),
        ("no tensor but a number", with("\"a\":1", 0), expected!(Json { .. })),
        ("deep nesting", with(&format!("\"a\":{{\"x\":{}", "[".repeat(100_000)), 0), expected!(Json { .. })),
        ("something after the header", safetensors_with("{}{}", 0), expected!(Json { .. })),
        ("a header that is no UTF-8", replace(&good, b"\"pt\"", b"\"\xff\xfe\""), expected!(Json { .. })),
    ];
    for (name, file, expected) in table {
        check(name, SafetensorsIndex::parse(&file).map(drop), expected);
    }
}

#[test]
fn ggufs_that_lie() {
    let good = gguf();
    let at = |offset: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        file
    };
    // A header of one metadata value, or of one tensor, written by hand.
    let raw = |tensors: u64, values: u64, rest: &[&[u8]]| {
        [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &values.to_le_bytes(), &rest.concat()].concat()
    };
    let key = [&1_u64.to_le_bytes()[..], b"k"].concat();
    let value = |type_code: u32, rest: &[u8]| raw(0, 1, &[&key, &type_code.to_le_bytes(), rest]);
    let array = |type_code: u32, count: u64, rest: &[u8]| {
        value(9, &[&type_code.to_le_bytes()[..], &count.to_le_bytes(), rest].concat())
    };
    let tensor = |dimensions: &[u64], type_code: u32, offset: u64| {
        let dimensions: Vec<u8> = dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()).collect();
        let rank = (dimensions.len() / 8) as u32;
        [&key[..], &rank.to_le_bytes(), &dimensions, &type_code.to_le_bytes(), &offset.to_le_bytes()].concat()
    };
    let one = |tensor: Vec<u8>| raw(1, 0, &[&tensor, &[0; 256]]);
    let alignment = |type_code: u32, value: u64| {
        let key = [&17_u64.to_le_bytes()[..], b"general.alignment"].concat();
        raw(0, 1, &[&key, &type_code.to_le_bytes(), &value.to_le_bytes()])
    };
    let huge = 1_u64 << 60;
    let table: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("nothing", vec![], expected!(Truncated { .. })),
        ("another format", at(0, b"GGML"), expected!(NotThisFormat { .. })),
        ("version 1", at(4, &[1, 0, 0, 0]), expected!(GgufVersion { version: 1 })),
        ("version 4", at(4, &[4, 0, 0, 0]), expected!(GgufVersion { version: 4 })),
        ("big-endian", at(4, &[0, 0, 0, 3]), expected!(BigEndian)),
        ("2^60 tensors", at(8, &huge.to_le_bytes()), expected!(TooMany { what: "tensors", .. })),
        ("2^60 values", at(16, &huge.to_le_bytes()), expected!(TooMany { what: "metadata values", .. })),
        ("more tensors than bytes", at(8, &(good.len() as u64).to_le_bytes()), expected!(TooMany { .. })),
        ("one value less than there are", at(16, &9_u64.to_le_bytes()), expected!(TooManyDimensions { .. })),
        ("a key of 2^60 bytes", at(24, &huge.to_le_bytes()), expected!(TooMany { what: "bytes in a string", .. })),
        ("a string of 2^60 bytes", value(8, &huge.to_le_bytes()), expected!(TooMany { .. })),
        ("an array of 2^60 strings", array(8, huge, &[0; 64]), expected!(TooMany { what: "strings in an array", .. })),
        ("an array of 2^61 doubles, 2^64 bytes", array(12, 1 << 61, &[0; 64]), expected!(TooMany { .. })),
        ("an array of 2^60 bytes", array(0, huge, &[0; 64]), expected!(TooMany { .. })),
        ("an array of arrays", array(9, 1, &[0; 64]), expected!(NestedArray { .. })),
        ("an array of an unknown type", array(13, 1, &[0; 64]), expected!(UnknownValueType { code: 13, .. })),
        ("a value of an unknown type", value(99, &[0; 64]), expected!(UnknownValueType { code: 99, .. })),
        ("a truth value of 2", value(7, &[2]), expected!(BadBool { .. })),
        ("an array with a truth value of 2", array(7, 2, &[1, 2]), expected!(BadBool { .. })),
        ("a string that is no UTF-8", value(8, &[2, 0, 0, 0, 0, 0, 0, 0, 0xc3, 0x28]), expected!(NotUtf8 { .. })),
        ("one key twice", raw(0, 2, &[&key, &[0; 5], &key, &[0; 5]]), expected!(Duplicate { .. })),
        ("an empty key", raw(0, 1, &[&[0; 64]]), expected!(BadName { .. })),
        (
            "a key with a control character",
            raw(0, 1, &[&1_u64.to_le_bytes(), b"\x1b", &[0; 64]]),
            expected!(BadName { .. }),
        ),
        ("an alignment of 0", alignment(4, 0), expected!(BadAlignment { .. })),
        ("an alignment of 24", alignment(4, 24), expected!(BadAlignment { .. })),
        ("an alignment of 2^31", alignment(4, 1 << 31), expected!(BadAlignment { .. })),
        ("an alignment that is no u32", alignment(10, 32), expected!(MetadataType { .. })),
        ("five dimensions", one(tensor(&[1; 5], 0, 0)), expected!(TooManyDimensions { rank: 5, .. })),
        ("2^32-1 dimensions", raw(1, 0, &[&key, &[0xff; 64]]), expected!(TooManyDimensions { .. })),
        ("a shape that wraps to nothing", one(tensor(&[1 << 32, 1 << 32], 0, 0)), expected!(ShapeOverflow { .. })),
        ("bytes that wrap to nothing", one(tensor(&[1 << 62], 0, 0)), expected!(ShapeOverflow { .. })),
        (
            "an unknown type with a shape that wraps",
            one(tensor(&[1 << 32, 1 << 32], 21, 0)),
            expected!(ShapeOverflow { .. }),
        ),
        ("half a block", one(tensor(&[16, 2], 8, 0)), expected!(PartialBlock { columns: 16, block: 32, .. })),
        ("a tensor beyond the file", one(tensor(&[1024], 0, 0)), expected!(OutsideFile { .. })),
        ("an offset beyond the file", one(tensor(&[1], 0, 1 << 20)), expected!(OutsideFile { .. })),
        ("an offset that wraps", one(tensor(&[8], 0, u64::MAX - 31)), expected!(OutsideFile { .. })),
        ("an offset that wraps, unknown type", one(tensor(&[8], 21, u64::MAX - 31)), expected!(OutsideFile { .. })),
        ("an empty tensor after the file's end", raw(1, 0, &[&tensor(&[0], 0, 0)]), expected!(OutsideFile { .. })),
        ("a misaligned offset", one(tensor(&[1], 0, 8)), expected!(Misaligned { offset: 8, alignment: 32, .. })),
        (
            "one tensor twice",
            raw(2, 0, &[&tensor(&[1], 0, 0), &tensor(&[1], 0, 32), &[0; 256]]),
            expected!(Duplicate { .. }),
        ),
        (
            "overlapping tensors",
            raw(2, 0, &[&tensor(&[9], 0, 0), &replace(&tensor(&[1], 0, 32), b"k", b"l"), &[0; 256]]),
            expected!(Overlap { .. }),
        ),
        (
            "the same bytes under two names",
            raw(2, 0, &[&tensor(&[1], 0, 0), &replace(&tensor(&[1], 0, 0), b"k", b"l"), &[0; 256]]),
            expected!(Overlap { .. }),
        ),
        ("a cut header", good[..200].to_vec(), expected!(Truncated { .. })),
        ("cut data", good[..good.len() - 40].to_vec(), expected!(OutsideFile { .. })),
    ];
    for (name, file, expected) in table {
        check(name, Gguf::parse(&file).map(drop), expected);
    }
}

/// A refusal must be the expected one, and its message one printable line that is not too long.
fn check(name: &str, result: Result<(), ArtifactError>, expected: Expected) {
    let Err(error) = result else { panic!("{name}: taken for a good file") };
    assert!(expected(&error), "{name}: {error:?}");
    let message = error.to_string();
    assert!(!message.chars().any(char::is_control) && message.len() < 400, "{name}: {message:?}");
    assert!(message.chars().next().is_some_and(|c| !c.is_uppercase() || message.starts_with("GGUF")), "{message}");
}

#[test]
fn every_prefix_of_a_good_file_is_refused() {
    let good = gguf();
    // The last tensor's padding may be absent: 24 bytes of 32 are its own.
    for length in 0..good.len() - 8 {
        assert!(Gguf::parse(&good[..length]).is_err(), "{length}");
    }
    let good = safetensors();
    for length in 0..good.len() {
        assert!(SafetensorsIndex::parse(&good[..length]).is_err(), "{length}");
    }
}
