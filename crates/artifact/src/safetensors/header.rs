//! The JSON header of a safetensors file, read in one pass. JSON parsers keep the last of two equal keys; here both are kept,
//! so that the caller can refuse them, because two readers of one file must not see two different models.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::ArtifactError;
use crate::error::shown;

/// The header as written: tensors in file order, equal names not yet refused.
pub(super) struct RawHeader {
    pub tensors: Vec<(String, RawTensor)>,
    pub metadata: BTreeMap<String, String>,
}

pub(super) struct RawTensor {
    pub dtype: String,
    pub shape: RawShape,
    pub data_offsets: (u64, u64),
}

/// At most [`MOST_DIMENSIONS`] dimensions and the number that were written, so that a long list takes no memory.
pub(super) struct RawShape {
    dimensions: Vec<u64>,
    rank: u64,
}

impl RawShape {
    pub fn dimensions(self, tensor: &str) -> Result<Vec<usize>, ArtifactError> {
        if self.rank > MOST_DIMENSIONS as u64 {
            let (tensor, rank) = (shown(tensor), self.rank);
            return Err(ArtifactError::TooManyDimensions { tensor, rank, most: MOST_DIMENSIONS as u64 });
        }
        let converted: Result<Vec<usize>, _> =
            self.dimensions.iter().map(|dimension| usize::try_from(*dimension)).collect();
        converted.map_err(|_| ArtifactError::ShapeOverflow { tensor: shown(tensor), shape: self.dimensions })
    }
}

pub(super) fn parse(json: &[u8]) -> Result<RawHeader, ArtifactError> {
    serde_json::from_slice::<RawHeader>(json)
        .map_err(|error| ArtifactError::Json { what: "the safetensors header", message: shown(&error.to_string()) })
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawHeader, D::Error> {
        struct Header;
        impl<'de> Visitor<'de> for Header {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader { tensors: Vec::new(), metadata: BTreeMap::new() };
                let mut metadata_seen = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if std::mem::replace(&mut metadata_seen, true) {
                            return Err(de::Error::custom("`__metadata__` occurs twice"));
                        }
                        header.metadata = map.next_value::<UniqueStrings>()?.0;
                    } else {
                        let tensor = map.next_value::<RawTensor>()?;
                        header.tensors.push((name, tensor));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Header)
    }
}

impl<'de> Deserialize<'de> for RawTensor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawTensor, D::Error> {
        struct Tensor;
        impl<'de> Visitor<'de> for Tensor {
            type Value = RawTensor;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawTensor, A::Error> {
                let (mut dtype, mut shape, mut data_offsets) = (None, None, None);
                while let Some(key) = map.next_key::<String>()? {
                    let twice = match key.as_str() {
                        "dtype" => dtype.replace(map.next_value::<String>()?).is_some(),
                        "shape" => shape.replace(map.next_value::<RawShape>()?).is_some(),
                        "data_offsets" => data_offsets.replace(map.next_value::<(u64, u64)>()?).is_some(),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            false
                        }
                    };
                    if twice {
                        return Err(de::Error::custom(format_args!("`{key}` occurs twice in one tensor")));
                    }
                }
                Ok(RawTensor {
                    dtype: dtype.ok_or_else(|| de::Error::missing_field("dtype"))?,
                    shape: shape.ok_or_else(|| de::Error::missing_field("shape"))?,
                    data_offsets: data_offsets.ok_or_else(|| de::Error::missing_field("data_offsets"))?,
                })
            }
        }
        deserializer.deserialize_map(Tensor)
    }
}

impl<'de> Deserialize<'de> for RawShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawShape, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = RawShape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RawShape, A::Error> {
                let mut shape = RawShape { dimensions: Vec::new(), rank: 0 };
                while let Some(dimension) = list.next_element::<u64>()? {
                    shape.rank += 1;
                    if shape.dimensions.len() < MOST_DIMENSIONS {
                        shape.dimensions.push(dimension);
                    }
                }
                Ok(shape)
            }
        }
        deserializer.deserialize_seq(Shape)
    }
}

/// A JSON object of strings in which no key occurs twice.
pub(crate) struct UniqueStrings(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueStrings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UniqueStrings, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = UniqueStrings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueStrings, A::Error> {
                let mut strings = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if strings.insert(key, value).is_some() {
                        return Err(de::Error::custom("a key of `__metadata__` occurs twice"));
                    }
                }
                Ok(UniqueStrings(strings))
            }
        }
        deserializer.deserialize_map(Strings)
    }
}

/// Models use four; the reference has no limit, numpy's is 64.
const MOST_DIMENSIONS: usize = 8;
