//! The index of a sharded safetensors model (`model.safetensors.index.json`): which file holds which tensor. File names come
//! from a stranger and are joined to a path later, so only plain names in the same directory pass.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::ArtifactError;
use crate::error::shown;
use crate::files::{is_plain_name, read_limited};
use crate::safetensors::{SafetensorsIndex, check_name};

/// Which of several safetensors files holds which tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardedIndex {
    shards: Vec<String>,
    tensors: BTreeMap<String, usize>,
}

impl ShardedIndex {
    /// Parses the index file's JSON.
    ///
    /// # Errors
    /// No JSON, a tensor twice, a file name that is no plain `*.safetensors`, no tensor at all.
    pub fn parse(json: &[u8]) -> Result<ShardedIndex, ArtifactError> {
        let bad = |message: &str| ArtifactError::Json { what: "the safetensors index", message: shown(message) };
        let raw: RawIndex = serde_json::from_slice(json).map_err(|error| bad(&error.to_string()))?;
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, shard) in &raw.weight_map {
            if numbers.contains_key(shard.as_str()) {
                continue;
            }
            if !is_plain_name(shard) || !shard.ends_with(".safetensors") {
                return Err(ArtifactError::BadShardName { name: shown(shard) });
            }
            numbers.insert(shard, 0);
        }
        if numbers.is_empty() {
            return Err(bad("`weight_map` is empty"));
        }
        let shards: Vec<String> = numbers.keys().map(|shard| (*shard).to_owned()).collect();
        numbers.values_mut().enumerate().for_each(|(number, slot)| *slot = number);
        let mut tensors = BTreeMap::new();
        for (name, shard) in &raw.weight_map {
            check_name("tensor name", name)?;
            let number = numbers.get(shard.as_str()).copied().unwrap_or_default();
            if tensors.insert(name.clone(), number).is_some() {
                return Err(ArtifactError::Duplicate { what: "tensor name", name: shown(name) });
            }
        }
        Ok(ShardedIndex { shards, tensors })
    }

    /// Reads and parses the index at `path`.
    ///
    /// # Errors
    /// As [`ShardedIndex::parse`], and those of reading.
    pub fn open(path: &Path) -> Result<ShardedIndex, ArtifactError> {
        ShardedIndex::parse(&read_limited(path, INDEX_LIMIT_BYTES)?)
    }

    /// The shards' file names, sorted, each once.
    pub fn shards(&self) -> &[String] {
        &self.shards
    }

    /// The file that holds `tensor`.
    pub fn shard_of(&self, tensor: &str) -> Option<&str> {
        self.tensors.get(tensor).and_then(|number| self.shards.get(*number)).map(String::as_str)
    }

    /// Every tensor and its file, in the order of the tensors' names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tensors.iter().filter_map(|(tensor, number)| Some((tensor.as_str(), self.shards.get(*number)?.as_str())))
    }

    /// Checks that `shard` holds the tensors that the index promises, and no others.
    ///
    /// # Errors
    /// [`ArtifactError::NotInShard`] or [`ArtifactError::StrayTensor`].
    pub fn check_shard(&self, shard: &str, held: &SafetensorsIndex) -> Result<(), ArtifactError> {
        for (tensor, _) in self.iter().filter(|(_, file)| *file == shard) {
            if !held.tensors.contains_key(tensor) {
                return Err(ArtifactError::NotInShard { tensor: shown(tensor), shard: shown(shard) });
            }
        }
        match held.tensors.keys().find(|tensor| self.shard_of(tensor) != Some(shard)) {
            Some(tensor) => Err(ArtifactError::StrayTensor { tensor: shown(tensor), shard: shown(shard) }),
            None => Ok(()),
        }
    }
}

struct RawIndex {
    weight_map: Vec<(String, String)>,
}

impl<'de> Deserialize<'de> for RawIndex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawIndex, D::Error> {
        struct Index;
        impl<'de> Visitor<'de> for Index {
            type Value = RawIndex;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with `weight_map`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawIndex, A::Error> {
                let mut weight_map = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key != "weight_map" {
                        map.next_value::<IgnoredAny>()?;
                    } else if weight_map.replace(map.next_value::<Pairs>()?.0).is_some() {
                        return Err(de::Error::custom("`weight_map` occurs twice"));
                    }
                }
                Ok(RawIndex { weight_map: weight_map.ok_or_else(|| de::Error::missing_field("weight_map"))? })
            }
        }
        deserializer.deserialize_map(Index)
    }
}

/// An object's entries in file order, equal keys kept: the caller refuses them by name.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from tensor names to file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry::<String, String>()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// The largest public models' indexes have a few megabytes.
const INDEX_LIMIT_BYTES: u64 = 64 << 20;
