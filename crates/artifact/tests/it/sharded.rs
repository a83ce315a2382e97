//! The index of a sharded model.

use falaj_artifact::ArtifactError;
use falaj_artifact::safetensors::SafetensorsIndex;
use falaj_artifact::sharded::ShardedIndex;

use crate::samples::safetensors;

const GOOD: &str = r#"{"metadata":{"total_size":32},"weight_map":{
    "a":"model-00001-of-00002.safetensors","b":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}}"#;

#[test]
fn a_good_index_is_read() {
    let index = ShardedIndex::parse(GOOD.as_bytes()).unwrap();
    assert_eq!(index.shards(), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
    assert_eq!(index.shard_of("c"), Some("model-00002-of-00002.safetensors"));
    assert_eq!(index.shard_of("d"), None);
    assert_eq!(index.iter().count(), 3);
}

#[test]
fn a_shard_must_hold_what_the_index_says_and_no_more() {
    let held = SafetensorsIndex::parse(&safetensors()).unwrap();
    let index = ShardedIndex::parse(GOOD.as_bytes()).unwrap();
    index.check_shard("model-00001-of-00002.safetensors", &held).unwrap();
    let missing = index.check_shard("model-00002-of-00002.safetensors", &held);
    assert!(matches!(missing, Err(ArtifactError::NotInShard { tensor, .. }) if tensor == "c"));
    let smaller = ShardedIndex::parse(br#"{"weight_map":{"a":"x.safetensors"}}"#).unwrap();
    let stray = smaller.check_shard("x.safetensors", &held);
    assert!(matches!(stray, Err(ArtifactError::StrayTensor { tensor, .. }) if tensor == "b"));
}

#[test]
fn a_shard_outside_the_directory_is_refused() {
    for name in [
        "../model.safetensors",
        "..\\model.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "C:model.safetensors",
        ".hidden.safetensors",
        "..",
        "",
        "a\\u0000.safetensors",
        "a\\n.safetensors",
        "model.bin",
        "model.safetensors.",
    ] {
        let name = name.replace("..\\", "..\\\\");
        let json = format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#);
        let refused = ShardedIndex::parse(json.as_bytes());
        assert!(matches!(refused, Err(ArtifactError::BadShardName { .. })), "{name}: {refused:?}");
    }
}

#[test]
fn what_is_no_index_is_refused() {
    for json in [
        "",
        "[]",
        "{}",
        r#"{"weight_map":[]}"#,
        r#"{"weight_map":{}}"#,
        r#"{"weight_map":{"a":1}}"#,
        r#"{"weight_map":{"a":"x.safetensors"},"weight_map":{"a":"y.safetensors"}}"#,
        r#"{"weight_map":{"a":"x.safetensors"}"#,
    ] {
        assert!(matches!(ShardedIndex::parse(json.as_bytes()), Err(ArtifactError::Json { .. })), "{json}");
    }
    let twice = ShardedIndex::parse(br#"{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}"#);
    assert!(matches!(twice, Err(ArtifactError::Duplicate { name, .. }) if name == "a"));
}
