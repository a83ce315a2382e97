//! The HTTP surface: routes, authentication, errors, streams, limits and metrics over the engine.
//! Wire types come from `protocol` and are converted once; text goes through `text`; tokens through `engine`.
//! Start at [`App`]; the table of routes is in `routes.rs`; every error becomes HTTP in `error.rs`.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod app;
mod auth;
mod body;
mod convert;
mod edge;
mod error;
mod generate;
mod health;
mod ids;
mod jobs;
mod metrics;
mod moment;
mod operations;
mod registry;
mod routes;
mod serve;
mod site;
mod sse;

pub use app::{App, Settings};
pub use auth::Key;
pub use error::ApiError;
pub use jobs::JobSettings;
pub use registry::{Facts, Listed, LoadError, Loader, Loan, Memory, ModelState, Registry, Served};
pub use serve::serve;
pub use site::Site;
