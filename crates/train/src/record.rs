//! What a trained model says of its making: `training.json` beside the weights. Whoever has the same base, data and program gets the
//! same bits from it.

use serde::{Deserialize, Serialize};

use crate::run::Summary;

/// The lineage of a result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    /// Of the base model's files; `None` for a model from nothing.
    pub base_digest: Option<String>,
    /// Of the data as it was read.
    pub data_digest: String,
    /// Of the exact order in which it came.
    pub order_digest: String,
    pub seed: u64,
    /// Every choice that was made.
    pub recipe: serde_json::Value,
    /// The files, with what was left out of each.
    pub data: serde_json::Value,
    pub code_version: String,
    /// Of the operations.
    pub numerics: String,
    pub summary: Summary,
}

impl Record {
    pub const VERSION: u32 = 1;
    /// The file's name.
    pub const FILE: &str = "training.json";
}
