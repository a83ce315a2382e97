//! Any bytes as a GGUF file.

use falaj_artifact::gguf::{Gguf, GgufWriter, StringArray};

/// # Panics
/// When an index is wrong about its file: that is a bug, whatever the bytes.
pub fn run(bytes: &[u8]) {
    let gguf = match Gguf::parse(bytes) {
        Ok(gguf) => gguf,
        Err(error) => {
            let message = error.to_string();
            assert!(!message.chars().any(char::is_control) && message.len() < 2000, "{message:?}");
            return;
        }
    };
    let mut covered = 0;
    for (name, tensor) in &gguf.tensors {
        let found = tensor.bytes(bytes).expect("a tensor lies in its file").len();
        assert!(tensor.range.start >= gguf.data_offset && tensor.range.start % 8 == 0, "{name}");
        if let Some(expected) = tensor.dtype.bytes_for(&tensor.shape) {
            assert_eq!(found, expected, "{name}");
        }
        covered += found;
    }
    assert!(covered <= bytes.len(), "no byte belongs to two tensors");
    let mut writer = GgufWriter::new("");
    for (key, value) in &gguf.metadata {
        let _ = (gguf.u32(key), gguf.u64(key), gguf.f32(key), gguf.bool(key), gguf.str(key));
        let _ = (gguf.f32s(key), gguf.i32s(key), gguf.u32s(key));
        assert_eq!(
            gguf.strings(key).map_or(0, |strings| strings.iter().count()),
            gguf.strings(key).map_or(0, StringArray::len)
        );
        writer = writer.set(key, value.clone());
    }
    // What was read can be written and read again. Compared as text, since a NaN is not equal to itself.
    let none: [&[u8]; 0] = [];
    let written = writer.write(Vec::new(), none).expect("memory takes all");
    let mut again = Gguf::parse(&written).expect("the writer's files are good").metadata;
    if !gguf.metadata.contains_key("general.architecture") {
        again.remove("general.architecture");
    }
    assert_eq!(format!("{again:?}"), format!("{:?}", gguf.metadata));
}
