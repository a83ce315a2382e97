//! Any bytes as a safetensors file, and as the index of a sharded one.

use falaj_artifact::ArtifactError;
use falaj_artifact::safetensors::SafetensorsIndex;
use falaj_artifact::sharded::ShardedIndex;

/// # Panics
/// When an index is wrong about its file: that is a bug, whatever the bytes.
pub fn run(bytes: &[u8]) {
    match SafetensorsIndex::parse(bytes) {
        Ok(index) => {
            let mut covered = 0;
            for (name, tensor) in &index.tensors {
                let found = tensor.bytes(bytes).expect("a tensor lies in its file").len();
                assert!(!name.chars().any(char::is_control));
                if let Some(expected) = tensor.dtype.bytes_for(&tensor.shape) {
                    assert_eq!(found, expected, "{name}");
                }
                covered += found;
            }
            let header = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length)) as usize + 8;
            assert_eq!(covered, bytes.len() - header, "the tensors cover the data");
            let again = SafetensorsIndex::parse_prefix(&bytes[..header], bytes.len() as u64);
            assert_eq!(again.expect("the header is enough"), index);
        }
        Err(error) => one_line(&error),
    }
    match ShardedIndex::parse(bytes) {
        Ok(index) => {
            assert!(index.iter().all(|(tensor, shard)| index.shard_of(tensor) == Some(shard)));
            assert!(index.shards().iter().all(|shard| !shard.contains(['/', '\\']) && !shard.starts_with('.')));
        }
        Err(error) => one_line(&error),
    }
}

fn one_line(error: &ArtifactError) {
    let message = error.to_string();
    assert!(!message.chars().any(char::is_control) && message.len() < 2000, "{message:?}");
}
